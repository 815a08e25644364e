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


def changes(found: list[str]) -> dict[str, list[str] | None]:
    """Return the networks that are one change away from a found one. BN → LN is above the bound on the cost."""
    of_found = {name: sorted({*found} ^ {name}) for name in ("stage_ratio", "patchify_stem", "gelu")}
    return {**of_found, "layer_norm": None}


def make_search(folder: Path, top1: dict[str, float | None], found: list[str] = FOUND) -> Study:
    networks = {"found": found, "start": START, "full": FULL}
    networks |= {name: new for name, new in changes(found).items() if new}
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


def make_result(winner: list[str] = FOUND) -> dict[str, Any]:
    raced = {"a found network": (winner, [88.0, 90.0]), "a start": (START, [86.0, 87.0])}
    candidates = [
        {"transforms": names, "label": label, "mmacs": 3.25, "top1": top1, "estimate": 89.0, "in_race": True}
        | {"failed": False}
        for label, (names, top1) in raced.items()
    ]
    return {"data": "digits", "start": START, "full": FULL, "changes": changes(winner), "candidates": candidates} | {
        "command": "",
        "roadmap": "",
        "max_macs": 4e6,
    }


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
    for name, found in (("a", FOUND), ("b", [*FOUND, "patchify_stem"])):
        make_search(tmp_path / name, {**TOP1}, found)
        (tmp_path / name / "search" / RESULT_NAME).write_text(json.dumps(make_result(found)), encoding="utf-8")
    text = write_comparison(tmp_path / "a/search", tmp_path / "b/search", tmp_path / "comparison", width=200)
    table = pd.read_csv(tmp_path / "comparison/compare.csv")
    assert dict(zip(table["step"] + ", " + table["against"], table["say"], strict=True)) == {
        "with stage ratio, without": "agree",
        "with patchify stem, without": "contradict",
        "with ReLU → GELU, without": "resolved in neither, same sign",
        "found network, start of the search": "agree",
        "found network, last step": "agree",
    }
    stem = table[table["step"] == "with patchify stem"].iloc[0]
    assert stem["a_low"] < stem["a_delta"] < stem["a_high"] < 0 < stem["b_low"] < stem["b_delta"] < stem["b_high"]
    assert (stem["a_verdict"], stem["b_verdict"]) == ("loss", "gain")
    assert "those of the second: 2 of 3 gains have the same sign" in text and text.count("Found network: ") == 2
