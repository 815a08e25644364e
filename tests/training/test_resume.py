"""A run that is killed at any moment resumes from its last checkpoint and ends with the same bits.

Real processes, real signals, real files.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from roadmap.config.compose import compose
from roadmap.config.roadmaps import load_roadmap, roadmap_names
from roadmap.records.record import run_folder
from tests.conftest import FAULTS
from tests.helpers import make_image_folder
from tests.training.faults import IMAGE_FOLDER, LOADED, assert_same_results, kill_until_completed, start

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("folder")]

IN_FAST_SUITE = "gelu"  # has BatchNorm, whose statistics a checkpoint contains, and every augmentation
LAST_STEPS = {name: load_roadmap(name).step_names[-1] for name in roadmap_names()}
NETWORKS = [*load_roadmap().step_names, *(f"{LAST_STEPS[name]} roadmap={name}" for name in LAST_STEPS)]
CASES = [(IN_FAST_SUITE, 3), *(pytest.param(network, 6, marks=pytest.mark.slow) for network in dict.fromkeys(NETWORKS))]


@pytest.mark.parametrize(("network", "max_kills"), CASES)
def test_a_run_that_is_killed_several_times_ends_with_the_same_bits(network: str, max_kills: int) -> None:
    overrides = (*f"+step={network}".split(), *LOADED)
    uninterrupted = compose(*overrides, "out=uninterrupted")
    record = start(uninterrupted).finish()
    assert record is not None and record["status"] == "completed", record
    interrupted = compose(*overrides, "checkpoint_steps=1", "out=interrupted")
    assert kill_until_completed(interrupted, random.Random(network), max_kills) >= 2
    assert_same_results(interrupted, uninterrupted)


@pytest.mark.slow
def test_a_run_with_loader_workers_is_killed_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", {"a": 40, "b": 40})
    overrides = ("+step=separate_downsampling", *LOADED, *IMAGE_FOLDER, f"data.root={root}")
    uninterrupted = compose(*overrides, "out=uninterrupted")
    interrupted = compose(*overrides, "out=interrupted", "checkpoint_steps=1")
    start(uninterrupted).finish()
    assert kill_until_completed(interrupted, random.Random(0)) >= 2
    assert_same_results(interrupted, uninterrupted)


@pytest.mark.slow
def test_a_kill_during_the_writing_of_a_checkpoint() -> None:
    """The network is wide, so that writing its checkpoint takes long enough to be interrupted."""
    wide = ("base.swin_width=64", "base.wide_width=96", "budget.epochs=2")
    overrides = ("+step=separate_downsampling", *LOADED, *wide)
    uninterrupted = compose(*overrides, "out=uninterrupted")
    interrupted = compose(*overrides, "out=interrupted", "checkpoint_steps=1")
    start(uninterrupted).finish()
    folder, num_kills = run_folder(interrupted), 0
    while True:
        run = start(interrupted)
        earliest = time.monotonic() + random.Random(num_kills).uniform(0, 1.5)
        while run.process.is_alive():
            partial = next(folder.glob(".checkpoint.pt.*"), None)
            if partial is not None and time.monotonic() > earliest and num_kills < 5:
                os.kill(run.process.pid, signal.SIGKILL)
                break
        run.process.join()
        if run.process.exitcode == 0:
            break
        num_kills += next(folder.glob(".checkpoint.pt.*"), None) is not None  # it really was half written
    assert num_kills >= 3
    assert_same_results(interrupted, uninterrupted)
    FAULTS["kills survived"] += num_kills
    assert not list(folder.glob(".checkpoint.pt.*"))
