"""A process of a run that fails, is killed or is refused does not leave the others waiting."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from roadmap.config.choices import Device
from roadmap.config.compose import compose
from roadmap.config.schema import RunSpec, SpecError
from roadmap.records.record import read_record, run_folder
from roadmap.runtime import distributed
from roadmap.runtime.exit_codes import EXIT_RUN_FAILED
from roadmap.runtime.world import World, name_of_group
from roadmap.training.run import run
from roadmap.training.trainer import Trainer
from tests.conftest import TINY
from tests.helpers import run_processes, set_rank

LOADED = (*TINY, "budget.epochs=2", "budget.regularization=1", "network.drop_path=0.3", "precision=fp32")


def fail_and_wait(rank: int, port: int, spec: RunSpec, is_killed: bool) -> None:
    """Run as one of two processes: process 1 fails and keeps its connections, or is killed, while process 0 waits.

    As with NCCL, whose operations wait in both cases.
    """
    set_rank(rank, port)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(distributed, "GRACE_SECONDS", 1.0)

        def wait(*_: Any) -> None:
            time.sleep(100)

        def fail(*_: Any) -> None:
            if is_killed:
                os.kill(os.getpid(), signal.SIGKILL)
            distributed.publish_failure(name_of_group(run_folder(spec).name, ""), "CUDA out of memory")
            time.sleep(100)

        if rank == 1:
            monkeypatch.setattr(Trainer, "train_iteration", fail)
        elif is_killed:  # with Gloo, an operation would end with an error
            monkeypatch.setattr(Trainer, "train_iteration", wait)
        run(spec)


@pytest.mark.parametrize(("is_killed", "reason"), [(False, "process 1: CUDA out of memory"), (True, "process 1 died")])
def test_a_process_that_waits_for_another_one_ends_with_the_reason_in_the_record(
    is_killed: bool, reason: str, tmp_path: Path
) -> None:
    spec = compose("+step=baseline", *LOADED, f"out={tmp_path}")
    started = time.monotonic()
    exit_codes = [EXIT_RUN_FAILED, -signal.SIGKILL if is_killed else EXIT_RUN_FAILED]
    run_processes(fail_and_wait, spec, is_killed, exit_codes=exit_codes)
    record = read_record(run_folder(spec))
    assert record is not None and record["status"] == "failed" and record["error"] == reason
    assert time.monotonic() - started < 60  # not the 30 minutes of the group, nor the 100 s of process 1


@pytest.mark.parametrize("num_processes", [2, 3])
def test_there_are_at_most_as_many_processes_as_gpus(num_processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process uses the GPU of its local rank. Here, two GPUs are pretended, and no group is made.

    All processes of the machine refuse to start: otherwise some would wait for the others."""

    class GroupMade(Exception):
        pass

    monkeypatch.setattr(distributed, "_store", Mock())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(distributed.dist, "PrefixStore", Mock())
    monkeypatch.setattr(distributed.dist, "init_process_group", Mock(side_effect=GroupMade))
    for rank in range(num_processes):
        used: list[int] = []
        world = World(rank, num_processes, rank, num_processes)
        monkeypatch.setattr(torch.cuda, "set_device", used.append)
        monkeypatch.setattr(distributed, "current_world", Mock(return_value=world))
        expected = pytest.raises(
            SpecError, match="--nproc-per-node=3: this machine has 2 GPUs; start at most 2 processes"
        )
        with expected if num_processes == 3 else pytest.raises(GroupMade), distributed.process_group("", Device.auto):
            pass
        assert used == ([] if num_processes == 3 else [rank])
