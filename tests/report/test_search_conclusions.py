"""What the report of a search says about made-up results of its confirmation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from roadmap.analysis.table import Study, read_study
from roadmap.config.choices import Design
from roadmap.config.designs import Layout, Member
from roadmap.records.manifest import add_runs
from roadmap.report.comparison import write_comparison
from roadmap.report.search import RESULT_NAME, search_sentences
from tests.helpers import write_run

FOUND, START = ["training_recipe", "stage_ratio", "gelu"], ["training_recipe"]
FULL = ["training_recipe", "stage_ratio", "patchify_stem", "gelu", "layer_norm"]
# Top-1 of every network, to which a small deviation is added that depends on the seed and the network.
TOP1 = {"found": 90.0, "start": 88.0, "full": 89.0, "stage_ratio": 88.0, "patchify_stem": 88.0, "gelu": 90.0}
Networks = dict[str, list[str] | None]  # by the transform that changes; None: not possible


def changes(found: list[str]) -> Networks:
    """Return the networks that are one change away from a found one. BN → LN is above the bound on the cost."""
    networks: Networks = {name: sorted({*found} ^ {name}) for name in ("stage_ratio", "patchify_stem", "gelu")}
    return {**networks, "layer_norm": None}


def make_search(
    folder: Path, top1: dict[str, float | None], found: list[str] = FOUND, others: Networks | None = None
) -> Study:
    """Return a search with ten runs of each network; `others` are one change away from the found network."""
    networks = {"found": found, "start": START, "full": FULL}
    networks |= {name: new for name, new in (others or changes(found)).items() if new}
    runs = []
    for i, (name, transforms) in enumerate(networks.items()):
        for seed in range(100, 110):
            value = top1[name]
            status = "completed" if value is not None else "diverged"
            deviation = 0.05 * (seed * (i + 3) % 7)
            overrides = [f"+transform=[{','.join(transforms)}]", f"seed={seed}"]
            spec = write_run(folder, None if value is None else value + deviation, *overrides, status=status)
            spec.study, spec.design.name = "search", Design.search
            runs.append((spec, overrides))
    members = [Member(new, name, None if name == "found" else found) for name, new in networks.items()]
    add_runs(runs, Layout(members))
    return read_study(folder / "search")


def make_result(winner: list[str] = FOUND, others: Networks | None = None) -> dict[str, Any]:
    raced = {"a found network": (winner, [88.0, 90.0]), "a start": (START, [86.0, 87.0])}
    candidates = [
        {"transforms": names, "label": label, "mmacs": 3.25, "top1": top1, "estimate": 89.0, "in_race": True}
        | {"failed": False}
        for label, (names, top1) in raced.items()
    ]
    result = {"data": "digits", "start": START, "full": FULL, "changes": others or changes(winner)}
    return {**result, "candidates": candidates, "command": "", "roadmap": "", "max_macs": 4e6}


def save_search(
    folder: Path, found: list[str], others: Networks | None = None, top1: dict[str, float | None] | None = None
) -> Path:
    """Return the folder of a search with its result."""
    make_search(folder, top1 or {**TOP1}, found, others)
    (folder / "search" / RESULT_NAME).write_text(json.dumps(make_result(found, others)), encoding="utf-8")
    return folder / "search"


def test_each_transform_is_in_the_group_that_its_comparison_decides(tmp_path: Path) -> None:
    conclusion, *ends = search_sentences(make_search(tmp_path, {**TOP1}), make_result())
    assert conclusion == (
        "On digits at this budget: take stage ratio; leave out patchify stem; not resolved ReLU → GELU;"
        " not compared (beyond a bound on the cost, impossible or not completed) BN → LN."
    )
    assert ends[0] == "Found network: a found network, 3.25 MMACs."
    assert ends[1].startswith("Gain over the start of the search with fresh seeds on the test set: +") and (
        ", a gain. In the race it was +2.50 (2 seeds). The difference, +" in ends[1]
    )
    assert ends[2].endswith(", a gain.") and "the last step" in ends[2]  # not in the race


def test_a_change_that_is_better_turns_the_conclusion_around(tmp_path: Path) -> None:
    better: dict[str, float | None] = {**TOP1, "stage_ratio": 92.0, "patchify_stem": 92.0, "full": 92.0}
    conclusion, _, _, last, *_ = search_sentences(make_search(tmp_path, better), make_result())
    assert "take patchify stem; leave out stage ratio; not resolved ReLU → GELU;" in conclusion
    assert "Gain over the last step with fresh seeds on the test set: -" in last and last.endswith("), a loss.")


@pytest.mark.parametrize("without", ["found", "start"])
def test_networks_whose_runs_diverged_are_not_compared(tmp_path: Path, without: str) -> None:
    diverged: dict[str, float | None] = {**TOP1, without: None}
    conclusion, _, start, last, *_ = search_sentences(make_search(tmp_path, diverged), make_result())
    if without == "found":
        assert start == "It has no completed runs, and was not compared with the start of the search."
        assert conclusion.count(":") == 1 and ": not compared (" in conclusion and "take" not in conclusion
    else:
        assert start == "It was not compared with the start of the search, which has no completed runs."
        assert "take stage ratio" in conclusion and last.startswith("Gain over the last step")


def test_an_impossible_change_is_not_the_start_without_transforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "START", [])
    conclusion = search_sentences(make_search(tmp_path, {**TOP1}), make_result() | {"start": []})[0]
    assert conclusion.endswith("not compared (beyond a bound on the cost, impossible or not completed) BN → LN.")


def test_networks_slower_than_the_bound_are_not_compared(tmp_path: Path) -> None:
    study, result = make_search(tmp_path, {**TOP1}), make_result()
    speeds = [record["images_per_second"] for row in study.rows for record in row.completed]
    for bound, slow in ((min(speeds), False), (max(speeds) + 1, True)):
        conclusion = search_sentences(study, result | {"min_images_per_second": bound})[0]
        assert ("take stage ratio" not in conclusion) == slow


def test_a_search_that_found_nothing_says_so(tmp_path: Path) -> None:
    sentences = search_sentences(make_search(tmp_path, {**TOP1}), make_result(START))
    assert sentences[2] == "It is the start of the search: the search found nothing better."


def test_two_searches_are_compared_by_what_each_transform_adds(tmp_path: Path) -> None:
    """One found network is without the patchify stem and loses with it, the other is with it and loses without it."""
    a, b = save_search(tmp_path / "a", FOUND), save_search(tmp_path / "b", [*FOUND, "patchify_stem"])
    text = write_comparison(a, b, tmp_path / "to", width=200)
    table = pd.read_csv(tmp_path / "to/compare.csv").set_index("step")
    assert table["against"].to_dict() == {
        "with stage ratio": "without",
        "with patchify stem": "without",
        "with ReLU → GELU": "without",
        "found network over the start of the search": "start of the search",
        "found network over the last step": "last step",
    }
    assert list(table["say"]) == ["agree", "contradict", "resolved in neither, same sign", "agree", "agree"]
    for side in "ab":
        assert table[f"{side}_delta"].round().tolist() == [2, -2 if side == "a" else 2, 0, 2, 1]
        assert (table[f"{side}_low"] < table[f"{side}_delta"]).all()
        assert (table[f"{side}_delta"] < table[f"{side}_high"]).all()
    resolved = ["gain", "loss", "not resolved", "gain", "gain"]
    assert list(table["a_verdict"]) == resolved and list(table["b_verdict"]) == ["gain", "gain", *resolved[2:]]
    assert "Transforms in the first search compared with the second: 2 of 3 gains have the same sign" in text
    assert "The first study found a found network, 3.25 MMACs." in text
    assert "Not compared in at least one search, or only together with other transforms: BN → LN." in text


def test_transforms_that_need_each_other_are_compared_where_the_same_ones_change(tmp_path: Path) -> None:
    """The first found network has two transforms, one of which needs the other, the second has none of them."""
    both = [*FOUND, "depthwise_conv", "move_up_depthwise"]
    taken: Networks = {"depthwise_conv": FOUND, "move_up_depthwise": [*FOUND, "depthwise_conv"]}
    added: Networks = {"depthwise_conv": [*FOUND, "depthwise_conv"], "move_up_depthwise": both}
    top1: dict[str, float | None] = {**TOP1, "depthwise_conv": 88.0, "move_up_depthwise": 88.0}
    a, b = (save_search(tmp_path / name, *found, top1) for name, found in (("a", (both, taken)), ("b", (FOUND, added))))
    text = write_comparison(a, b, tmp_path / "to", width=200)
    first = pd.read_csv(tmp_path / "to/compare.csv").iloc[0]
    assert first["step"] == "with depthwise conv (together with move up depthwise conv)"
    assert first["say"] == "contradict" and first["a_delta"] > 1.5 and first["b_delta"] < -1.5
    assert "0 of 1 gains have the same sign" in text and "Not compared" not in text


def test_an_end_that_a_search_found_has_no_gain(tmp_path: Path) -> None:
    a, b = save_search(tmp_path / "a", FOUND), save_search(tmp_path / "b", START)
    write_comparison(a, b, tmp_path / "to", width=200)
    table = pd.read_csv(tmp_path / "to/compare.csv")
    assert "found network over the last step" in set(table["step"])
    assert "found network over the start of the search" not in set(table["step"])


def test_a_search_and_another_study_are_compared_by_their_rows(tmp_path: Path) -> None:
    a, b = save_search(tmp_path / "a", FOUND), save_search(tmp_path / "b", FOUND)
    (b / RESULT_NAME).unlink()
    write_comparison(a, b, tmp_path / "to", width=200)
    table = pd.read_csv(tmp_path / "to/compare.csv")
    assert set(table["against"]) == {"found"} and "layer_norm" not in set(table["step"])
    assert set(table["step"]) == {"start", "full", "stage_ratio", "patchify_stem", "gelu"}
