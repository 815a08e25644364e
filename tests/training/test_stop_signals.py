"""A signal makes a run write a checkpoint and exit with code 75; the same command resumes. Real processes."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from roadmap.config.compose import compose
from roadmap.records.record import run_folder, run_name
from roadmap.runtime.exit_codes import EXIT_STOPPED
from roadmap.training import checkpoint
from tests.conftest import FAULTS, TINY, background, until
from tests.helpers import make_image_folder
from tests.training.faults import IMAGE_FOLDER, LOADED, assert_same_results, mtime, start

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("folder")]

SIGNALS = [
    signal.SIGTERM,
    pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("sign", SIGNALS)
def test_a_signal_writes_a_checkpoint(sign: signal.Signals) -> None:
    overrides = ("+step=gelu", *LOADED, "budget.epochs=6")
    uninterrupted = compose(*overrides, "out=uninterrupted")
    interrupted = compose(*overrides, "out=interrupted", "checkpoint_steps=5")
    start(uninterrupted).finish()
    folder = run_folder(interrupted)
    run = start(interrupted)
    until((folder / checkpoint.NAME).exists)
    os.kill(run.process.pid, sign)
    record = run.finish()
    assert run.process.exitcode == EXIT_STOPPED
    assert record is not None and record["status"] == "failed"
    assert "was stopped by a signal; the same command retries it, from its checkpoint if any" in record["error"]
    log = (folder / "log.txt").read_text()
    position = re.search(rf"stopped by {sign.name} at epoch (\d+), iteration (\d+)", log)
    assert position is not None, log
    state = checkpoint.read(folder / checkpoint.NAME, run_name(interrupted))
    assert [state["epoch"] + 1, state["step"]] == [int(number) for number in position.groups()]
    resumed = start(interrupted).finish()
    assert resumed is not None and resumed["status"] == "completed"
    log = (folder / "log.txt").read_text()
    assert f"resuming from checkpoint at epoch {position[1]}, iteration {position[2]}" in log
    assert_same_results(interrupted, uninterrupted)
    FAULTS["signals answered"] += 1


def test_a_signal_before_the_training_leaves_no_checkpoint() -> None:
    spec = compose("+step=gelu", *LOADED)
    run = start(spec)
    os.kill(run.process.pid, signal.SIGTERM)  # blocked until the process can handle it
    record = run.finish()
    assert run.process.exitcode == EXIT_STOPPED and run.was_stopped
    assert record is not None and "was stopped by a signal" in record["error"]
    assert not (run_folder(spec) / checkpoint.NAME).exists()


def checkpoint_times() -> dict[Path, int | None]:
    return {path: mtime(path) for path in Path().glob("experiments/runs/*/checkpoint.pt")}


@pytest.mark.slow
def test_signals_at_the_command_line() -> None:
    """One run is stopped twice and completed, by the same command."""
    overrides = ("+step=gelu", *TINY, "budget.epochs=150", "checkpoint_steps=20")
    for sign in (signal.SIGTERM, signal.SIGINT):
        before = checkpoint_times()
        process = background(*overrides)
        until(lambda known=before: checkpoint_times() != known)
        process.send_signal(sign)
        _, err = process.communicate(timeout=60)
        assert process.returncode == EXIT_STOPPED, err
        assert f"stopped by {sign.name} at epoch" in err
        assert "; the same command resumes: python run_roadmap.py +step=gelu" in err
        FAULTS["signals answered"] += 1
        assert not list(Path().glob("experiments/runs/*/record.json"))
    out, err = background(*overrides).communicate(timeout=120)
    assert "resuming from checkpoint at epoch" in out and "record:" in out, err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_signal_to_a_run_and_its_loader_workers(tmp_path: Path) -> None:
    """A cluster sends it to all processes of a job at once. The workers live until the checkpoint is written."""
    root = make_image_folder(tmp_path / "images", {"a": 40, "b": 40})
    overrides = ("+step=gelu", *LOADED, "budget.epochs=200", *IMAGE_FOLDER, f"data.root={root}")
    spec = compose(*overrides, "checkpoint_steps=4")
    path = run_folder(spec) / checkpoint.NAME
    for _ in range(3):
        before = mtime(path)
        run = start(spec)
        until(lambda known=before: mtime(path) not in (None, known))
        children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
        assert len(children) >= 2
        for pid in (*map(int, children), run.process.pid):
            os.kill(pid, signal.SIGTERM)
        run.finish()
        assert run.process.exitcode == EXIT_STOPPED
        FAULTS["signals answered"] += 1
        until(lambda pids=children: not any(Path(f"/proc/{pid}").exists() for pid in pids), 15)
    assert "exited unexpectedly" not in (path.parent / "log.txt").read_text()
