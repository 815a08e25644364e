"""Damaged records, study lists and correct.npy are recognized in one place."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadmap.config.schema import SpecError
from roadmap.records.check import check_manifest, check_record
from roadmap.records.manifest import read_manifest
from roadmap.records.record import InvalidRecordError, load_record, read_record
from roadmap.records.scores import pack_correct, read_scores
from tests.conftest import ROOT
from tests.records.damage import damaged_copies, keys_of, small_record

PUBLISHED = ROOT / "reports" / "fashion_mnist"
RUN = sorted(path for path in (PUBLISHED / "runs").iterdir() if path.name.startswith("gelu-"))[0]
# Fields that may be missing, because earlier versions do not write them or no reader needs them.
NOT_NEEDED = {
    *("activations", "classes", "compile_seconds", "ema", "images_per_second_per_device", "loss"),
    *("model_flops_utilization", "num_classes", "num_test", "num_train", "plan", "started_at", "train_seconds"),
}


@pytest.fixture
def record() -> dict[str, Any]:
    content = load_record(RUN)
    assert content is not None
    return content


def test_published_records_and_studies_are_valid() -> None:
    for folder in sorted((PUBLISHED / "runs").iterdir())[::20]:
        content = load_record(folder)
        assert content is not None and read_scores(folder, content).problem is None
    for path in PUBLISHED.glob("*/study.json"):
        assert check_manifest(json.loads(path.read_text())) is None


def test_the_check_of_a_damaged_record_raises_nothing(record: dict[str, Any]) -> None:
    found = [check_record(damaged) for _, damaged in damaged_copies(small_record(record))]
    assert sum(reason is not None for reason in found) > 400
    assert all(reason is None or (reason and "\n" not in reason) for reason in found)
    others: list[Any] = [None, 1, "x", [], {}]
    assert all(map(check_record, others))


def test_a_record_without_a_needed_field_is_invalid(record: dict[str, Any]) -> None:
    for name in record.keys() - NOT_NEEDED - {"format"}:
        assert check_record({key: value for key, value in record.items() if key != name}) == f"{name} is missing"
    assert check_record({key: value for key, value in record.items() if key not in NOT_NEEDED}) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff\xfe", "is not a text"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[]", "has no format; this version reads the formats 3 and 4"),
        (b'{"format": 2}', "has format 2; this version reads the formats 3 and 4"),
        (b'{"format": 5}', "has format 5; this version reads the formats 3 and 4"),
        (b'{"format": 3}', "name is missing"),
    ],
)
def test_a_damaged_record_has_a_reason_and_is_not_read(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(InvalidRecordError, match=reason):
        load_record(tmp_path)
    assert read_record(tmp_path) is None


def test_the_check_of_a_damaged_study_list_raises_nothing(tmp_path: Path) -> None:
    content = json.loads((PUBLISHED / "add_one_in" / "study.json").read_text())
    content["runs"] = dict(list(content["runs"].items())[:2])
    content["layout"] = {"members": content["layout"]["members"][:2], "orders": [["gelu", "grn"], ["grn", "gelu"]]}
    assert check_manifest(content) is None and len(list(keys_of(content))) > 10
    found = [check_manifest(damaged) for _, damaged in damaged_copies(content)]
    assert sum(reason is not None for reason in found) > 100
    for name in ("../../elsewhere", "", "a\0b"):
        assert check_manifest(content | {"runs": {name: []}}) == "runs has an invalid value"
    (tmp_path / "study.json").write_text(json.dumps(content | {"design": "x"}))
    with pytest.raises(SpecError, match=r"invalid study file \(design has an invalid value\); fix or delete it"):
        read_manifest(tmp_path)


def scores_problem(folder: Path) -> str | None:
    scores = read_scores(folder, {"top1": 50.0, "num_test": 100})
    assert (scores.values.shape == (1,)) is (scores.problem is not None)
    return scores.problem


def test_a_damaged_list_of_correct_images_leaves_the_accuracy(tmp_path: Path) -> None:
    path = tmp_path / "correct.npy"
    assert scores_problem(tmp_path) == "is missing"
    correct = np.arange(100) < 50
    arrays: list[np.ndarray] = [correct.reshape(10, 10), correct.astype(float), np.array([None]), np.zeros(0, bool)]
    for array in arrays:
        np.save(path, array, allow_pickle=True)
        assert scores_problem(tmp_path) in ("is not a list of true and false", "cannot be read")
    np.save(path, ~correct[:10])
    assert scores_problem(tmp_path) == "does not have the accuracy of record.json"
    np.save(path, pack_correct(~correct & (np.arange(100) < 99)))
    assert scores_problem(tmp_path) == "does not have the accuracy of record.json"
    for packed in (pack_correct(correct[:90]), pack_correct(correct)[None]):
        np.save(path, packed)
        assert scores_problem(tmp_path) == "is not a list of true and false"
    np.save(path, pack_correct(correct))
    assert scores_problem(tmp_path) is None
    assert read_scores(tmp_path, {"top1": 50.0}).problem == "is not a list of true and false"  # of how many images?
    np.save(path, correct)  # of an earlier version
    assert scores_problem(tmp_path) is None
    whole, generator = path.read_bytes(), random.Random(0)
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert scores_problem(tmp_path) is not None
    for _ in range(500):  # the header is a Python literal
        damaged = bytearray(whole)
        for _ in range(generator.choice((1, 2, 5))):
            damaged[generator.randrange(128)] = generator.choice(b"0123456789,()[]{}'|OUL<> \n\\\xff")
        path.write_bytes(damaged)
        scores_problem(tmp_path)
    huge = whole.replace(b"(100,), }" + b" " * 12, b"(99999999999999999,), }"[:21].ljust(21))
    path.write_bytes(huge)
    assert scores_problem(tmp_path) is not None
    path.unlink()
    path.mkdir()
    assert scores_problem(tmp_path) == "is missing"


def test_a_pipe_in_the_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    for name in ("record.json", "correct.npy"):
        os.mkfifo(tmp_path / name)
    assert load_record(tmp_path) is None
    assert scores_problem(tmp_path) == "is missing"
