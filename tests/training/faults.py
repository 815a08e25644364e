"""Helpers of the fault tests: runs in real processes, and comparison of what two runs have left, bit by bit."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roadmap.config.schema import RunSpec
from roadmap.records.history import read_history
from roadmap.records.record import read_record, run_folder, run_name
from roadmap.runtime.exit_codes import EXIT_STOPPED
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import RunProcess
from roadmap.training import checkpoint
from tests.conftest import FAULTS, TINY

# All random draws are on; eight iterations per epoch; a checkpoint only if the test asks for it.
LOADED = (
    *TINY, "budget.epochs=3", "budget.train_images=256", "budget.batch_size=32", "budget.regularization=1",
    "network.drop_path=0.3", "recipe.ema_decay=0.9", "keep_checkpoint=true",
)  # fmt: skip
# A dataset of images that loader processes read and augment, for `data.root`.
IMAGE_FOLDER = (
    "data=folder", "data.image_size=32", "budget.train_images=null", "budget.test_images=null",
    "budget.batch_size=16", "data.workers=2",
)  # fmt: skip
# Fields of record and checkpoint that differ between two runs with the same result.
NOT_COMPARED = {
    "started_at", "wall_seconds", "train_seconds", "earlier_seconds", "images_per_second", "peak_memory_mib",
    "images_per_second_per_device", "model_flops_utilization",
    "compile_seconds", "git", "config", "command",
}  # fmt: skip


def start(spec: RunSpec) -> RunProcess:
    """Start the run in a process of its own, as a sweep does."""
    return RunProcess(PlannedRun(spec, []), "run", threads=1)


def results(spec: RunSpec) -> dict[str, Any]:
    """Return everything that a run has left, except `NOT_COMPARED`."""
    folder = run_folder(spec)
    record = {key: value for key, value in (read_record(folder) or {}).items() if key not in NOT_COMPARED}
    state = checkpoint.read(folder / checkpoint.NAME, run_name(spec))
    state["outcome"] = {key: value for key, value in state["outcome"].items() if key not in NOT_COMPARED}
    weights = [torch.load(folder / name, weights_only=True) for name in ("model.pt", "model_ema.pt")]
    history = [row | {"seconds": ""} for row in read_history(folder)]
    correct = np.load(folder / "correct.npy")
    return {"record": record, "state": state, "weights": weights, "correct": correct, "history": history}


def assert_same_results(interrupted: RunSpec, uninterrupted: RunSpec) -> None:
    """Assert that two runs have left the same, bit by bit."""
    assert_equal(results(interrupted), results(uninterrupted))
    FAULTS["bit-identical resumes"] += 1


def assert_equal(value: Any, expected: Any, path: str = "") -> None:
    """Compare nested containers of tensors, arrays and plain values exactly."""
    if isinstance(expected, dict):
        assert value.keys() == expected.keys(), path
        for key, item in expected.items():
            assert_equal(value[key], item, f"{path}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(value) == len(expected), path
        for i, item in enumerate(expected):
            assert_equal(value[i], item, f"{path}[{i}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(value, expected), path
    elif isinstance(expected, np.ndarray):
        assert np.array_equal(value, expected), path
    else:
        assert value == expected, path


def mtime(path: Path) -> int | None:
    """Return the time of the last change in nanoseconds, or None if the file does not exist."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def kill_until_completed(spec: RunSpec, moments: random.Random, max_kills: int | None = None) -> int:
    """Start the run again and again, and kill it at a random moment after each first checkpoint, until it completes.

    Returns how often it was killed, at most `max_kills` times.
    """
    path, num_kills = run_folder(spec) / checkpoint.NAME, 0
    while True:
        before = mtime(path)
        run = start(spec)
        while run.process.is_alive():
            if num_kills != max_kills and mtime(path) not in (None, before):
                time.sleep(moments.uniform(0, 0.15))
                with contextlib.suppress(ProcessLookupError):  # it has completed
                    os.kill(run.process.pid, signal.SIGKILL)
                break
            time.sleep(0.001)
        run.process.join()
        if run.process.exitcode == 0:
            return num_kills
        assert run.process.exitcode in (-signal.SIGKILL, EXIT_STOPPED)
        num_kills += 1
        FAULTS["kills survived"] += 1
