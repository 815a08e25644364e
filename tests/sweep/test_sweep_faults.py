"""A sweep that is stopped or killed resumes, and a run that fails in any way ends no other run.

Real processes, real signals, real files.
"""

from __future__ import annotations

import json
import shlex
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest

from roadmap.config.compose import compose
from roadmap.records.record import run_folder
from roadmap.runtime import lock
from roadmap.runtime.exit_codes import EXIT_STOPPED
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.scheduler import run_locally
from roadmap.sweep.sweeper import raise_for_failures
from roadmap.training import checkpoint
from tests.conftest import FAULTS, TINY, background, until
from tests.helpers import make_image_folder, write_run

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stop_and_resume(signals: Sequence[signal.Signals], runs: Sequence[str], num_runs: int) -> None:
    """Send each signal to the parent process after one more run is finished and another has a checkpoint; then let the
    sweep complete.

    Its runs write checkpoints and end; no finished run is repeated.
    """
    overrides = ("-m", *TINY, *runs, "checkpoint_steps=50")
    folder = Path("experiments/runs")
    finished: dict[Path, int] = {}
    for sign in signals:
        process = background(*overrides)
        until(lambda known=finished: len(list(folder.glob("*/record.json"))) > len(known))
        until(lambda: list(folder.glob("*/checkpoint.pt")))  # another run has begun
        process.send_signal(sign)
        _, err = process.communicate(timeout=60)
        if sign is signal.SIGTERM:
            assert process.returncode == EXIT_STOPPED
            command = shlex.join(["python", "run_roadmap.py", *overrides])
            assert f"of {num_runs} runs done; the same command resumes: {command}\n" in err
        until(lambda: not any(lock.is_held(run) for run in folder.iterdir()))  # its runs have ended
        for path, when in finished.items():
            assert path.stat().st_mtime_ns == when
        finished = {path: path.stat().st_mtime_ns for path in folder.glob("*/record.json")}
        assert all(json.loads(path.read_text())["status"] == "completed" for path in finished)
        assert len(finished) < num_runs
    done = background(*overrides)
    out, err = done.communicate(timeout=200)
    assert done.returncode == 0, err
    assert f"{len(finished)} of them already finished" in out and "resuming from checkpoint" in out
    assert len(list(folder.glob("*/record.json"))) == num_runs
    for path, when in finished.items():
        assert path.stat().st_mtime_ns == when


def test_a_stopped_sweep_resumes() -> None:
    stop_and_resume([signal.SIGTERM], ["+step=gelu", "seed=0", "budget.epochs=5,60"], 2)


@pytest.mark.slow
def test_a_sweep_that_is_stopped_and_then_killed_resumes() -> None:
    stop_and_resume(
        [signal.SIGTERM, signal.SIGKILL], ["+step=baseline,gelu,layer_norm", "seed=0,1", "budget.epochs=60"], 6
    )


def test_a_locked_run_is_postponed(capsys: pytest.CaptureFixture[str]) -> None:
    """Another sweep trains one of two runs: it is not trained again."""
    specs = [compose("+step=gelu", *TINY, f"seed={seed}") for seed in (0, 1)]
    locked = threading.Event()

    def finish_later() -> None:
        with lock.hold(run_folder(specs[0])):
            locked.set()
            until((run_folder(specs[1]) / "record.json").exists)
            write_run(Path("experiments"), 90.0, "+step=gelu", *TINY, "seed=0")

    other = threading.Thread(target=finish_later)
    other.start()
    locked.wait()
    run_locally([PlannedRun(spec, []) for spec in specs])
    other.join()
    assert "finished by another study, top-1 90.00 %" in capsys.readouterr().out
    assert not (run_folder(specs[0]) / "log.txt").exists()


@pytest.mark.slow
def test_two_sweeps_in_one_folder_train_nothing_twice(tmp_path: Path) -> None:
    """Two commands with four processes each, and the same 14 runs."""
    steps = "baseline,training_recipe,stage_ratio,patchify_stem,depthwise_conv,gelu,layer_norm"
    overrides = ("-m", f"+step={steps}", "seed=0,1", *TINY, "budget.epochs=20", "parallel=4")
    for process in [background(*overrides), background(*overrides)]:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    runs = list((tmp_path / "experiments" / "runs").glob("*-seed*"))
    assert len(runs) == 14
    for run in runs:
        assert json.loads((run / "record.json").read_text())["status"] == "completed"
        assert (run / "log.txt").read_text().count(" on cpu ") == 1, run.name  # trained once
    table = pd.read_csv(tmp_path / "reports" / "runs" / "roadmap.csv")
    assert table["n_seeds"].tolist() == [2] * 7
    FAULTS["writers in one folder"] += 8


SABOTAGE = """
import os, signal, sys
import PIL.Image

original = PIL.Image.open

def sabotaged(file, *arguments, **options):
    path = str(getattr(file, "name", file))
    if "exits" in path:
        sys.exit(3)
    if "killed" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    if "crashes" in path:
        import ctypes
        ctypes.string_at(0)
    if "memory" in path:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (1 << 33, -1))
        bytearray(1 << 34)
    if "raises" in path:
        raise RuntimeError("a fault in a dataset")
    return original(file, *arguments, **options)

PIL.Image.open = sabotaged
"""
REASONS = {
    "exits": "exited with code 3",
    "killed": "killed by SIGKILL",
    "crashes": "killed by SIGSEGV",
    "memory": "MemoryError",
    "raises": "RuntimeError: a fault in a dataset",
}
IMAGES = ("data=folder", "data.image_size=32", "data.workers=0", "budget.train_images=null", "budget.test_images=null")


def test_failed_runs_end_no_other_run(tmp_path: Path) -> None:
    """Runs that raise, exit, crash, are killed or run out of memory are recorded with the reason; one run completes."""
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE)
    roots = [make_image_folder(tmp_path / name, {"a": 20, "b": 20}) for name in (*REASONS, "intact")]
    overrides = ["-m", "+step=baseline", *TINY, *IMAGES, "data.root=" + ",".join(map(str, roots)), "parallel=2"]
    process = background(*overrides, PYTHONPATH=str(tmp_path))
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "5 of 6 runs did not complete" in err
    results: dict[str, Any] = {}
    for path in tmp_path.glob("experiments/runs/*/record.json"):
        record = json.loads(path.read_text())
        results[Path(record["config"]["data"]["root"]).name] = (record, (path.parent / "log.txt").read_text())
    assert results.keys() == {*REASONS, "intact"}
    for name, reason in REASONS.items():
        record, log = results[name]
        assert record["status"] == "failed" and reason in record["error"], name
        assert " on cpu " in log
    assert "Segmentation fault" in results["crashes"][1]
    assert "Traceback" in results["raises"][1] and "Traceback" in results["memory"][1]
    assert results["intact"][0]["status"] == "completed"


def test_failures_stop(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("+step=baseline", *TINY, "precision=fp32", "recipe.lr=1e6", "parallel=1", "failures=stop")
    specs = [compose(*overrides, f"seed={seed}") for seed in range(3)]
    not_ended = run_locally([PlannedRun(spec, []) for spec in specs])
    out = capsys.readouterr().out
    assert "failures=stop: started runs write a checkpoint, no other run starts" in out
    folders = [run_folder(spec) for spec in specs]
    assert f"; log: {folders[0] / 'log.txt'}; 1 done in 0:" in out
    assert [path.parent for path in Path().glob("experiments/runs/*/record.json")] == folders[:1]
    assert not_ended == dict.fromkeys(folders[1:], "not started")
    with pytest.raises(RunFailed) as failure:
        raise_for_failures(specs, {}, not_ended)
    first, failed, other, *names = str(failure.value).splitlines()
    assert first == "1 of 3 runs did not complete:"
    assert failed.startswith(f"{folders[0].name}: diverged (the ")
    assert failed.endswith(f"; log: {folders[0] / 'log.txt'}")
    assert other == "2 runs did not finish (failures=stop); the same command trains them:"
    assert names == [f"{folder.name}: not started" for folder in folders[1:]]


def test_failures_stop_says_how_each_run_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run is stopped before its first checkpoint, the third with one, and the fourth completes."""
    specs = [compose("+step=gelu", *TINY, "parallel=4", "failures=stop", f"seed={seed}") for seed in range(4)]
    first, *others = [run_folder(spec) for spec in specs]

    def start(run: PlannedRun, *_: Any) -> Mock:
        folder, result = run_folder(run.spec), {"status": "failed", "error": "it failed"}
        process = Mock(folder=folder, run=run, title="", gpu=None, sentinel=run.spec.seed)
        process.configure_mock(**{"has_new_record": folder == others[2], "finish.return_value": result})
        return process

    checkpoint.save(others[1], "a run", {})
    monkeypatch.setattr("roadmap.sweep.scheduler.RunProcess", start)
    monkeypatch.setattr("roadmap.sweep.scheduler.wait", Mock(return_value=[0]))
    not_ended = run_locally([PlannedRun(spec, []) for spec in specs])
    assert not_ended == {others[0]: "stopped before its first checkpoint", others[1]: "stopped, with a checkpoint"}
    assert first not in not_ended


@pytest.mark.slow
def test_failures_stop_at_the_command_line() -> None:
    overrides = ("-m", "+step=baseline", "seed=0,1,2,3", *TINY, "precision=fp32", "recipe.lr=1e6", "parallel=1")
    process = background(*overrides, "failures=stop")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1 and "failures=stop" in out
    assert len(list(Path().glob("experiments/runs/*/record.json"))) == 1
    assert "1 of 4 runs did not complete" in err and err.count(": not started") == 3
