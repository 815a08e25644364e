"""Damaged files: the report names them, leaves their runs out, and is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from roadmap.analysis.study_records import MAX_NAMED
from roadmap.analysis.table import read_study
from roadmap.records.record import RUNS_FOLDER
from roadmap.report.wording import notes
from roadmap.report.writer import write_report
from tests.conftest import ROOT
from tests.helpers import call_main
from tests.records.damage import FEW_VALUES, VALUES, damaged_copies, small_record

PUBLISHED = ROOT / "reports" / "fashion_mnist"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of two steps with two seeds each, made of published records."""
    folder = tmp_path / "experiments" / "roadmap"
    content = json.loads((PUBLISHED / "roadmap" / "study.json").read_text())
    names = [name for name in content["runs"] if name.startswith(("gelu-", "fewer_norms-"))]
    names = [name for name in names if name.endswith(("seed0", "seed1"))]
    content["runs"] = {name: content["runs"][name] for name in names}
    assert len(names) == 4
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(content))
    for name in names:
        run = folder.parent / RUNS_FOLDER / name
        shutil.copytree(PUBLISHED / RUNS_FOLDER / name, run)
        change_record(run, study="roadmap")
    return folder


def report(study: Path) -> str:
    """Return the notes of the study's report, as they are in each of its files."""
    return "\n".join(notes(read_study(study)))


def run_folder(study: Path) -> Path:
    return study.parent / RUNS_FOLDER / next(iter(json.loads((study / "study.json").read_text())["runs"]))


def change_record(folder: Path, **fields: Any) -> None:
    content = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(content | fields))


@pytest.mark.parametrize("name", ["status", "seed", "config", "transforms", "versions", "top1"])
def test_a_run_whose_record_lacks_a_field_is_left_out_and_named(name: str, study: Path) -> None:
    folder = run_folder(study)
    content = json.loads((folder / "record.json").read_text())
    del content[name]
    (folder / "record.json").write_text(json.dumps(content))
    out = report(study)
    assert f"Left out: runs/{folder.name}/record.json ({name} is missing)." in out and "; 3 runs, " in out


def test_a_truncated_record_is_left_out_and_named(study: Path) -> None:
    path = run_folder(study) / "record.json"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"Left out: runs/{path.parent.name}/record.json (is not valid JSON)." in report(study)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None])
def test_a_damaged_or_missing_correct_npy_leaves_the_accuracy(content: bytes | None, study: Path) -> None:
    path = run_folder(study) / "correct.npy"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    out = report(study)
    reason = "is missing" if content is None else "cannot be read"
    assert f"Only the accuracy of these runs is used, not the single test images: runs/{path.parent.name}" in out
    assert f"/correct.npy {reason}." in out and "; 4 runs, " in out


def test_a_report_with_damaged_files_is_written(study: Path) -> None:
    to, folder = study.parent / "report", run_folder(study)
    (folder / "record.json").write_text("{")
    for path in study.parent.glob("runs/*/correct.npy"):
        path.write_bytes(b"")
    out = write_report(study, to)
    for text in (out, *(to.joinpath(name).read_text("utf-8") for name in ("roadmap.md", "roadmap.tex"))):
        assert f"Left out: runs/{folder.name}/record.json (is not valid JSON)." in text
    assert "record.json (is not valid JSON)" in (to / "index.html").read_text("utf-8")


def test_many_damaged_files_are_counted(study: Path) -> None:
    for i in range(MAX_NAMED + 3):
        folder = study.parent / RUNS_FOLDER / f"broken-{i}"
        folder.mkdir()
        (folder / "record.json").write_text("{")
    content = json.loads((study / "study.json").read_text())
    content["runs"] |= {f"broken-{i}": [] for i in range(MAX_NAMED + 3)}
    (study / "study.json").write_text(json.dumps(content))
    assert "broken-9/record.json (is not valid JSON); 3 more." in report(study)


@pytest.mark.parametrize("damage", ["{", "", "[]", '{"runs": 1}'])
def test_with_a_damaged_study_list_the_rows_are_the_runs_that_name_the_study(damage: str, study: Path) -> None:
    other = run_folder(study)
    (study / "study.json").write_text(damage)
    change_record(other, study="other")
    out = report(study)
    assert "roadmap/study.json: invalid study file (" in out and "whose record names this study" in out
    assert "; 3 runs, " in out
    assert (study / "study.json").read_text() == damage


def test_a_study_without_a_usable_record_gives_a_one_line_error_that_names_a_file(study: Path) -> None:
    for path in study.parent.glob("runs/*/record.json"):
        path.write_text("")
    result = call_main("report", str(study), "--to", str(study.parent / "report"))
    assert result.code == 2 and result.err.count("\n") == 1 and "Traceback" not in result.err
    assert "contains no records of runs; runs/" in result.err and "is not valid JSON" in result.err
    assert not (study.parent / "report").exists()


def test_copies_of_a_run_are_counted_once(study: Path) -> None:
    (study / "study.json").unlink()
    folder = run_folder_of(study)
    shutil.copytree(folder, folder.with_name("copy"))
    out = report(study.parent / RUNS_FOLDER)
    assert f"(the same run as {'copy' if folder.name > 'copy' else folder.name})" in out and "; 4 runs, " in out


def run_folder_of(study: Path) -> Path:
    return sorted((study.parent / RUNS_FOLDER).iterdir())[0]


@pytest.mark.parametrize("values", [FEW_VALUES, pytest.param(VALUES, marks=pytest.mark.slow)], ids=["few", "all"])
def test_damaged_records_give_no_traceback(values: tuple[Any, ...], study: Path) -> None:
    """Every key deleted and every value replaced, each in a record of its own, in one report."""
    folder = run_folder(study)
    content = small_record(json.loads((folder / "record.json").read_text()))
    runs = study.parent / "damaged"
    count = 0
    for _, damaged in damaged_copies(content, values):
        count += 1
        if damaged.get("seed") == content["seed"]:
            damaged["seed"] = 1000 + count
        (runs / str(count)).mkdir(parents=True)
        (runs / str(count) / "record.json").write_text(json.dumps(damaged))
    result = read_study(runs)
    assert count > 200 and 10 < len(result.records) < count / 2
    assert any(line.startswith("Left out: ") for line in result.problems)
    kept: dict[str, str] = {}  # one run of each row and result: a figure of all of them takes long
    for record in result.records:
        key = [record.get(name) for name in ("label", "config", "transforms", "status", "top1", "error", "device")]
        kept.setdefault(json.dumps(key), record["run"])
    for path in set(runs.iterdir()) - {runs / name for name in kept.values()}:
        shutil.rmtree(path)
    write_report(runs, study.parent / "report")
