"""Progress of a run while it trains: one line per epoch, history.csv and progress.json."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.compose import compose
from roadmap.records import history
from roadmap.records.record import run_folder
from roadmap.runtime.logs import configure_logging
from roadmap.training import progress
from roadmap.training.metrics import Metrics
from roadmap.training.progress import RunProgress
from roadmap.training.run import run
from tests.conftest import ROOT, TINY

pytestmark = pytest.mark.usefixtures("folder")


def test_each_epoch_has_a_line_in_log_and_history(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states: list[dict[str, Any]] = []

    def spy(folder: Path, state: Any) -> None:
        history.write_progress(folder, state)
        states.append(json.loads((folder / "progress.json").read_text()))

    monkeypatch.setattr(progress, "write_progress", spy)
    monkeypatch.setattr(progress, "LINE_INTERVAL_SECONDS", 1e9)  # no other lines, however slow the machine is
    spec = compose("+step=gelu", *TINY, "budget.epochs=4", "budget.evaluations=2")
    record = run(spec, "the command")
    folder = run_folder(spec)
    log = (folder / "log.txt").read_text().splitlines()
    assert log[1].endswith(" the command") and log[2].startswith("  on cpu")
    out = capsys.readouterr().out
    number = r"[\d,.]+"
    for epoch, line in enumerate(log[3:], start=1):
        top1 = rf" · top-1 {number} %" if epoch % 2 == 0 else ""
        left = r" · \d+:\d\d left" if epoch < 4 else ""
        assert re.fullmatch(rf"  epoch {epoch}/4 · loss {number}{top1} · {number} images/s{left}", line), line
        assert f"\n{line}\n" in out
    assert len(log) == 7
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    seconds = [float(row.pop("seconds")) for row in rows]
    assert seconds == sorted(seconds) and 0 < seconds[-1] < record["wall_seconds"] + 0.001
    expected = [{"test_top1": "", "test_loss": ""} | {key: str(x) for key, x in row.items()} for row in record["curve"]]
    assert rows == expected
    assert states[0] | {"updated": 0, "pid": 0} == vars(history.Progress(1, 4, 0, 4, updated=0, pid=0))
    assert not (folder / "progress.json").exists()  # the run has its record
    assert (record["num_train"], record["num_test"], record["num_classes"]) == (128, 64, 10)


def test_progress_is_written_every_two_seconds_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [100.0], list[int]()

    def spy(_: Path, state: history.Progress) -> None:
        written.append(state.iteration)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "write_progress", spy)
    shown = RunProgress(2, 100, "title", tmp_path, first=50)
    for iteration in range(51, 101):
        now[0] += 0.125
        shown.update(0, iteration, 1.0, 10.0, 0.1)
    assert written == [50, 66, 82, 98]
    assert shown.state.seconds_left == pytest.approx(12.5)  # of the 50 iterations since the resume


def test_a_disk_that_is_full_during_the_training_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(path: Path, text: str) -> bool:
        return bool(path == text)

    monkeypatch.setattr(history, "_replace", no_space)
    spec = compose("+step=gelu", *TINY, "budget.epochs=2")
    assert run(spec)["status"] == "completed"
    assert not (run_folder(spec) / "history.csv").exists()


def test_a_clock_that_jumps_does_not_change_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert metrics.wall_seconds < 60
    paths = [path for package in ("training", "sweep") for path in (ROOT / "roadmap" / package).glob("*.py")]
    found = [path.name for path in paths if "time.time()" in path.read_text()]
    assert found == ["progress.py"]  # when progress.json was written


def test_a_sweep_shows_few_epochs_on_the_console_and_all_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = io.StringIO()
    configure_logging(console)
    shown = RunProgress(10, 4, "title", tmp_path)
    for epoch in range(10):
        now[0] += 4
        shown.update(epoch, 4, 1.0, 10.0, 0.1)
        shown.end_epoch({"epoch": epoch + 1, "train_loss": 1.0}, now[0])
    assert capsys.readouterr().out.count("title epoch") == 10  # standard output is the log
    assert [line.split()[2] for line in console.getvalue().splitlines()] == ["3/10", "6/10", "9/10"]
