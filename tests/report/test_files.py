"""The files of a report: where they are written, and errors if they cannot be written."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from roadmap.analysis.table import read_study
from roadmap.commands import report
from roadmap.config.designs import Layout
from roadmap.records.manifest import add_runs
from roadmap.report import figures
from roadmap.report.writer import write_report
from roadmap.sweep import sweeper
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.sweeper import write_study_report
from tests.helpers import call_main, make_study, write_run


@pytest.fixture(autouse=True)
def _without_diagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no networks, because drawing imports torch and starts a process."""

    def thread_pool(*_: Any, **__: Any) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1)

    def no_structure(_: dict[str, Any]) -> None:
        return None

    monkeypatch.setattr(sweeper, "ProcessPoolExecutor", thread_pool)
    monkeypatch.setattr(sweeper, "_structure_of_config", no_structure)
    monkeypatch.setattr(report, "structure_of_config", no_structure)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, to = make_study(tmp_path), tmp_path / "report"
    write_report(study, to)
    before = {path.name: path.read_bytes() for path in to.iterdir()}
    write_run(tmp_path, 99.0, "+step=gelu")
    monkeypatch.setattr(figures, "draw_study", full_disk)
    result = call_main("report", str(study), "--to", str(to))
    assert (result.code, result.err) == (1, f"error: {to}: No space left on device\n")
    assert {path.name: path.read_bytes() for path in to.iterdir()} == before


def test_a_sweep_says_that_its_runs_are_kept_if_the_report_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = write_run(Path("experiments"), 90.0, "+step=gelu", "study=mine")
    add_runs([(spec, [])], Layout())
    monkeypatch.setattr(figures, "draw_study", full_disk)
    assert write_study_report([PlannedRun(spec, [])]) == (
        "reports/mine: No space left on device; there is no new report. The records of the runs are kept; write it"
        " with: roadmap report experiments/mine --to reports/mine"
    )


def test_the_report_of_a_sweep_without_a_study_covers_only_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs: list[PlannedRun] = []
    for data in ("digits", "fashion_mnist"):
        runs += [
            PlannedRun(write_run(Path("experiments"), 90.0, *overrides), list(overrides))
            for overrides in (("+step=baseline", f"data={data}"), ("+step=gelu", f"data={data}"))
        ]
    add_runs([(run.spec, run.overrides) for run in runs], Layout())
    assert write_study_report(runs[:2]) is None
    text = Path("reports/runs/roadmap.md").read_text("utf-8")
    assert "Study runs: digits, base nano" in text and "; 2 runs, seed 0." in text and "data=" not in text
    assert len(read_study(Path("experiments/runs")).records) == 4


def test_a_study_without_any_record_after_a_sweep_is_not_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = write_run(Path("experiments"), 90.0, "+step=gelu", "study=mine")
    add_runs([(spec, [])], Layout())
    for path in Path("experiments").glob("runs/*/record.json"):
        path.unlink()
    reason = write_study_report([PlannedRun(spec, [])])
    assert reason is not None and reason.startswith("no report: experiments/mine: contains no records of runs")


def test_a_study_can_be_given_by_its_name_and_others_are_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()  # another folder of this name
    spec = write_run(Path("experiments"), 90.0, "+step=gelu", "study=mine")
    add_runs([(spec, [])], Layout())
    Path("experiments/empty").mkdir()
    for name in ("other", "experiments/empty"):
        result = call_main("report", name)
        assert result.code == 2 and result.err.count("\n") == 1
        assert result.err.startswith(f"error: {name}: ") and "existing studies: experiments/mine" in result.err
    run = next(Path("experiments/runs").iterdir())
    assert "it is the folder of a single run" in call_main("report", str(run)).err
    assert not Path("reports").exists()
    result = call_main("report", "mine", "--wide")
    assert result.code == 0 and "reports/mine/roadmap.csv" in result.out and "Columns left out" not in result.out
