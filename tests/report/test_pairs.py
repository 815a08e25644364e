"""The comparison of any two rows: the data on the page, and the test images on which rows disagree."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadmap.analysis.table import Study, read_study
from roadmap.records.record import run_folder
from roadmap.report.examples import LEAST_DIFFERENCE, MAX_IMAGES, NUM_EXAMPLES, choose_examples
from roadmap.report.fields import changed_fields
from roadmap.report.writer import write_report
from tests.helpers import make_image_folder, write_run
from tests.report.conftest import SEEDS, STEPS, make_rows


def test_the_images_are_those_on_which_each_pair_disagrees_most(tmp_path: Path) -> None:
    steps = ["baseline", "training_recipe", "stage_ratio", "gelu"]
    results = make_rows(tmp_path, steps, num_images=500)
    study = read_study(tmp_path / "runs")
    assert [row.name for row in study.rows] == steps
    examples = choose_examples(study, None)
    assert 10 < len(examples.images) < MAX_IMAGES and examples.seeds == [SEEDS] * 4
    counts = {i: results[step].sum(0) for i, step in enumerate(steps)}
    for row, expected in counts.items():
        assert examples.right[row] == expected[examples.images].tolist()
    for i, j in [*combinations(counts, 2), *((j, i) for i, j in combinations(counts, 2))]:
        all_shares = ((counts[i] - counts[j]) / SEEDS).tolist()
        largest = [
            sorted(shares, reverse=True)[:NUM_EXAMPLES]
            for shares in (all_shares, [all_shares[k] for k in examples.images])
        ]
        expected, shown = ([value for value in values if value >= LEAST_DIFFERENCE] for values in largest)
        assert shown == expected != [], (i, j)


def test_rows_that_were_evaluated_on_other_images_have_no_examples(tmp_path: Path) -> None:
    make_rows(tmp_path, ["baseline", "training_recipe"], num_images=500)
    spec = write_run(tmp_path, 60.0, "+step=gelu", "seed=0", "budget.test_images=100")
    np.save(run_folder(spec) / "correct.npy", np.arange(100) < 60)
    spec = write_run(tmp_path, 60.0, "+step=stage_ratio", "seed=0")
    (run_folder(spec) / "correct.npy").unlink()
    write_run(tmp_path, None, "+step=patchify_stem", "seed=0", status="failed", error="MemoryError")
    study = read_study(tmp_path / "runs")
    examples = choose_examples(study, None)
    has_images = {row.name: right is not None for row, right in zip(study.rows, examples.right, strict=True)}
    assert {name for name, has in has_images.items() if has} == {"baseline", "training_recipe"}
    assert examples.pictures == [("", "")] * len(examples.images) != []


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
    write_report(tmp_path / "runs", tmp_path / "report", None, thumbnails)
    data = pair_data(tmp_path / "report" / "index.html")
    assert {name for _, _, name in data["images"]} == {"</script><b>class"}


def test_a_study_of_one_row_has_no_comparison(tmp_path: Path) -> None:
    write_run(tmp_path, 60.0, "+step=gelu")
    write_report(tmp_path / "runs", tmp_path / "report")
    assert "Compare two rows" not in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


def test_a_page_without_pictures_names_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_image_folder(tmp_path / "images", {"a": 3, "b": 3})
    for step, right in (("baseline", 2), ("gelu", 4)):
        own = (f"+step={step}", "data=folder", f"data.root={folder}")
        spec = write_run(tmp_path, 100 * right / 6, *own)
        np.save(run_folder(spec) / "correct.npy", np.arange(6) < right)
    study: Study = read_study(tmp_path / "runs")
    assert len(choose_examples(study, None).images) == 2

    def fail(*_: Any) -> list[tuple[str, str]]:
        raise ValueError("the images are away")

    examples = choose_examples(study, fail)
    assert examples.images == [2, 3] and examples.pictures == [("", "")] * 2
    assert "the page has no pictures of test images: the images are away\n" in capsys.readouterr().out
