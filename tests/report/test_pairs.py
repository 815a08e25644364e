"""The comparison of any two rows: the data on the page, and the test images on which rows disagree."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadmap.analysis.table import read_study
from roadmap.records.record import run_folder
from roadmap.report import examples as examples_module
from roadmap.report.examples import MAX_IMAGES, NUM_EXAMPLES, choose_examples, optional_pictures
from roadmap.report.fields import changed_fields
from roadmap.report.writer import write_report
from tests.helpers import make_image_folder, write_run
from tests.report.conftest import SEEDS, STEPS, make_rows


def test_the_images_are_those_on_which_each_pair_disagrees_most(tmp_path: Path) -> None:
    steps = ["baseline", "training_recipe", "stage_ratio", "gelu"]
    results = make_rows(tmp_path, steps, num_images=500)
    study = read_study(tmp_path / "runs")
    assert [row.name for row in study.rows] == steps
    (examples,) = choose_examples(study, None)
    assert 10 < len(examples.images) < MAX_IMAGES and examples.seeds == dict.fromkeys(range(4), SEEDS)
    counts = {i: results[step].sum(0) for i, step in enumerate(steps)}
    for row, expected in counts.items():
        assert examples.right[row] == expected[examples.images].tolist()
    for i, j in [*combinations(counts, 2), *((j, i) for i, j in combinations(counts, 2))]:
        all_shares = ((counts[i] - counts[j]) / SEEDS).tolist()
        largest = [
            sorted(shares, reverse=True)[:NUM_EXAMPLES]
            for shares in (all_shares, [all_shares[k] for k in examples.images])
        ]
        expected, shown = ([value for value in values if value >= 0.5] for values in largest)
        assert shown == expected != [], (i, j)


def write_rows(folder: Path, rights: dict[str, int], *overrides: str, size: int = 20, **fields: Any) -> None:
    """Write a run of each step that is right on the first images."""
    for step, right in rights.items():
        spec = write_run(folder, 100 * right / size, f"+step={step}", "seed=0", *overrides, **fields)
        np.save(run_folder(spec) / "correct.npy", np.arange(size) < right)


@pytest.mark.parametrize(("overrides", "is_same"), [
    (("data.holdout=20",), False),
    (("budget.test_images=20",), False),
    (("data=folder", "data.root=other"), False),
    (("budget.regularization=1",), True),
    (("data=fashion_mnist", "data.root=other"), True),  # the same images in every folder
])  # fmt: skip
def test_only_rows_with_the_same_images_have_examples(
    overrides: tuple[str, ...], is_same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "other"):
        make_image_folder(tmp_path / folder, {"a": 1, "b": 1})
    data = next((override for override in overrides if override.startswith("data=")), "data=digits")
    first = [data, "data.root=one"] if data == "data=folder" else [data]
    write_rows(tmp_path, {"baseline": 2, "gelu": 4}, *first)
    write_rows(tmp_path, {"training_recipe": 6, "grn": 9}, *first, *overrides)
    found = choose_examples(read_study(tmp_path / "runs"), None)
    assert [set(examples.right) for examples in found] == ([{0, 1, 2, 3}] if is_same else [{0, 1}, {2, 3}])
    assert [set(examples.images) for examples in found] == ([set(range(2, 9))] if is_same else [{2, 3}, {6, 7, 8}])


def test_runs_that_skipped_images_and_runs_without_results_have_no_examples(tmp_path: Path) -> None:
    write_rows(tmp_path, {"baseline": 2, "gelu": 4})
    write_rows(tmp_path, {"grn": 9}, unreadable={"train": [], "test": ["image 3: OSError: damaged"]})
    spec = write_run(tmp_path, 60.0, "+step=stage_ratio", "seed=0")
    (run_folder(spec) / "correct.npy").unlink()
    write_run(tmp_path, None, "+step=patchify_stem", "seed=0", status="failed", error="MemoryError")
    study = read_study(tmp_path / "runs")
    (examples,) = choose_examples(study, None)
    assert {study.rows[i].name for i in examples.right} == {"baseline", "gelu"}
    assert examples.pictures == [("", "")] * len(examples.images) != []


def test_a_difference_of_exactly_half_of_the_seeds_counts(tmp_path: Path) -> None:
    """7 of 10 seeds against 2 of 10, and 1 of 2 against 0 of 10: the shares as numbers would be below 0.5."""
    for step, right, seeds in (("baseline", 7, 10), ("training_recipe", 2, 10), ("gelu", 1, 2)):
        for seed in range(seeds):
            spec = write_run(tmp_path, 100.0 if seed < right else 50.0, f"+step={step}", f"seed={seed}")
            np.save(run_folder(spec) / "correct.npy", np.array([seed < right, True]))
    (examples,) = choose_examples(read_study(tmp_path / "runs"), None)
    assert examples.images == [0] and examples.right == {0: [7], 1: [2], 2: [1]} and examples.seeds[2] == 2


def test_the_number_of_images_and_pairs_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_rows(tmp_path, ["baseline", "training_recipe", "stage_ratio", "gelu"], num_images=500)
    study = read_study(tmp_path / "runs")
    (every,) = choose_examples(study, None)
    monkeypatch.setattr(examples_module, "MAX_PAIRS", 1)
    (of_one_pair,) = choose_examples(study, None)
    assert len(of_one_pair.images) == 2 * NUM_EXAMPLES < len(every.images)
    monkeypatch.setattr(examples_module, "MAX_IMAGES", 3)
    (three,) = choose_examples(study, None)
    assert len(three.images) == 3 and set(three.images) < set(of_one_pair.images)


def pair_data(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    found = re.search(r'(?s)<script type="application/json" id="pair-data">(.*?)</script>', text)
    assert found is not None
    return json.loads(found[1])


def test_the_data_has_all_differences_of_config_and_all_layers(page_path: Path) -> None:
    data, study = pair_data(page_path), read_study(page_path.parent.parent / "roadmap")
    texts = data["texts"]
    for i, j in combinations(range(len(STEPS)), 2):
        shown = {name: (texts[row[i]], texts[row[j]]) for name, row in data["fields"] if row[i] != row[j]}
        rows = [study.rows[k].records[0] for k in (i, j)]
        expected = {name: (old, new) for name, old, new in changed_fields(*rows)}
        assert shown == expected, (i, j)
    for row, layers in zip(study.rows, data["layers"], strict=True):
        network = row.records[0]["config"]["network"]
        places = [texts[place] for place, _ in layers]
        assert places[0] == "stem" and places[-1] == "head"
        assert sum("block" in place for place in places) == sum(network["depths"])
        kernels = {text for _, unit in layers for text in map(texts.__getitem__, data["units"][unit]) if "conv" in text}
        size = network["kernel_size"]
        assert any(text.startswith(f"{size}×{size}") for text in kernels), kernels


def test_a_text_cannot_end_the_data(tmp_path: Path) -> None:
    for step in ("baseline", "gelu"):
        write_run(tmp_path, 60.0, f"+step={step}")

    def thumbnails(_record: Any, indices: Any, _count: int) -> list[tuple[str, str]]:
        return [("data:image/webp;base64,", "</script><b>class")] * len(indices)

    for seed in (0, 1):
        write_run(tmp_path, 60.0 + 20 * seed, f"+step={('baseline', 'gelu')[seed]}", "seed=1")
    write_report(tmp_path / "runs", tmp_path / "report", thumbnails_of=thumbnails)
    data = pair_data(tmp_path / "report" / "index.html")
    assert {name for _, _, name in data["sets"][0]["images"]} == {"</script><b>class"}


def test_a_study_of_one_row_has_no_comparison(tmp_path: Path) -> None:
    write_run(tmp_path, 60.0, "+step=gelu")
    write_report(tmp_path / "runs", tmp_path / "report")
    assert "Compare two rows" not in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


def test_a_page_is_written_without_pictures_if_they_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path, {"baseline": 2, "gelu": 4})

    def fail(*_: Any) -> list[tuple[str, str]]:
        raise ValueError("the images\nare away")

    write_report(tmp_path / "runs", tmp_path / "report", thumbnails_of=optional_pictures(fail))
    (images,) = pair_data(tmp_path / "report" / "index.html")["sets"]
    assert sorted(images["images"]) == [[2, "", ""], [3, "", ""]]
    assert "the page has no pictures of images: the images are away\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match="are away"):
        write_report(tmp_path / "runs", tmp_path / "report", thumbnails_of=fail)


def test_fields_of_the_budget_and_the_data_are_compared(tmp_path: Path) -> None:
    for more in ((), ("budget.regularization=0.7", "data.image_size=16", "precision=fp32", "device=cpu")):
        write_run(tmp_path, 60.0, "+step=gelu", *more, plan={"epochs": 3, "batch_size": 8, "lr": 0.1 + len(more)})
    one, other = (row.records[0] for row in read_study(tmp_path / "runs").rows)
    changed = {name: set(values) for name, *values in changed_fields(one, other)}
    assert changed.keys() == {"budget.regularization", "data.image_size", "precision", "schedule: lr"}
    assert "0.7" in changed["budget.regularization"] and changed["schedule: lr"] == {"0.1", "4.1"}
    del other["plan"]
    assert "schedule: lr" not in {name for name, *_ in changed_fields(one, other)}
