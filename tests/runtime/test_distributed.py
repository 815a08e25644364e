"""Several processes under torchrun: the same records as one process leaves."""

from __future__ import annotations

import dataclasses
import datetime
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from roadmap.config.choices import Device, Optimizer, Precision
from roadmap.config.compose import compose
from roadmap.config.schema import RunSpec
from roadmap.records.record import read_record, run_folder
from roadmap.runtime import distributed, lock
from roadmap.runtime.world import SINGLE_PROCESS, current_world
from roadmap.training.device import choose_device
from roadmap.training.metrics import Metrics
from roadmap.training.run import run
from roadmap.training.trainer import Trainer
from tests.conftest import TINY, CommandLine
from tests.helpers import (
    THREE_STEPS,
    assert_same_results,
    call_main,
    read_records,
    run_processes,
    set_rank,
    torchrun,
)

LOADED = (*TINY, "budget.epochs=2", "budget.regularization=1", "network.drop_path=0.3", "precision=fp32")


def train_first_epochs(spec: RunSpec, epochs: int, folder: Path) -> None:
    """Leave a checkpoint after `epochs` epochs of the run, trained in this process, in `folder`."""

    class Interrupted(Exception):
        pass

    trainer = Trainer(spec, choose_device(Device.cpu, Precision.fp32), Metrics())
    train_iteration = trainer.train_iteration

    def interrupt_after(*args: Any) -> None:
        if trainer.epoch == epochs:
            trainer.save()
            raise Interrupted
        train_iteration(*args)

    trainer.train_iteration = interrupt_after  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        trainer.train(folder)


@pytest.mark.slow
def test_a_sweep_with_two_processes_leaves_the_records_of_one(tmp_path: Path) -> None:
    """BatchNorm over both processes; one run is resumed from the checkpoint of a single process."""
    specs = [compose(f"+step={step}", *LOADED, f"out={tmp_path}/one") for step in ("baseline", "layer_norm")]
    for spec in specs:
        run(spec)
    resumed = dataclasses.replace(specs[1], out=str(tmp_path / "two"))
    train_first_epochs(specs[1], 1, run_folder(resumed))
    done = torchrun("-m", "+step=baseline,layer_norm", *LOADED, "out=two", "reports=reports", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 runs in") == 1 and ", 2 processes" in done.stdout  # only rank zero prints
    assert_same_results(read_records(tmp_path / "two"), read_records(tmp_path / "one"))
    assert {record["device"]["processes"] for record in read_records(tmp_path / "two").values()} == {2}
    log = (run_folder(resumed) / "log.txt").read_text()
    assert "resuming from checkpoint at epoch 2, iteration 0" in log
    assert "checkpoint was written by 1 processes" in log
    assert (tmp_path / "reports" / "runs" / "roadmap.png").exists()


@pytest.mark.slow
def test_a_finished_sweep_under_torchrun_is_skipped(command_line: CommandLine, tmp_path: Path) -> None:
    overrides = ("-m", f"+step={THREE_STEPS}", *LOADED)
    one = command_line(*overrides, "out=one")
    assert one.returncode == 0, one.stderr
    two = torchrun(*overrides, "out=two", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    assert_same_results(read_records(tmp_path / "two"), read_records(tmp_path / "one"))
    again = torchrun(*overrides, "out=two", cwd=tmp_path)
    assert again.returncode == 0 and "3 of them already finished" in again.stdout


@pytest.mark.slow
def test_a_single_run_resumes_with_another_number_of_processes(tmp_path: Path) -> None:
    overrides = ("+step=layer_norm", *LOADED, "budget.epochs=4")
    whole = torchrun(*overrides, "out=whole", processes=1, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    spec = compose(*overrides)
    train_first_epochs(spec, 2, run_folder(dataclasses.replace(spec, out=str(tmp_path / "resumed"))))
    resumed = torchrun(*overrides, "out=resumed", processes=2, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from checkpoint at epoch 3, iteration 0" in resumed.stdout
    assert_same_results(read_records(tmp_path / "resumed"), read_records(tmp_path / "whole"))


@pytest.mark.slow
def test_an_invalid_command_under_torchrun_exits_with_one_line(tmp_path: Path) -> None:
    done = torchrun("+step=gelu", *TINY, "budget.batch_size=2", cwd=tmp_path)
    assert done.returncode != 0
    assert "error: budget.batch_size=2: 2 processes with 1 parts each need two images per part" in done.stderr


def parameters_after_updates(spec: RunSpec) -> dict[str, torch.Tensor]:
    """Return the network's parameters after two updates."""
    trainer = Trainer(spec, choose_device(Device.cpu, Precision.fp32), Metrics())
    trainer.model.train()
    forward = trainer.wrap_model()
    batches = trainer.augment.augment_in_chunks(trainer.train_batches.epoch(0, 0), 0)
    for trainer.iteration in range(2):
        trainer.train_iteration(forward, batches)
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def check_updates(rank: int, port: int, spec: RunSpec, expected: dict[str, torch.Tensor]) -> None:
    """Run as one of two processes: its updates are those of one process."""
    set_rank(rank, port)
    with distributed.process_group("updates", Device.cpu):
        for name, parameter in parameters_after_updates(spec).items():
            torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("norm_batch_size", ["null", 8, 16], ids=["shared norms", "two groups each", "a group each"])
def test_two_processes_make_the_updates_of_one(norm_batch_size: str | int) -> None:
    """With SGD, whose updates are proportional to the gradient; AdamW's would hide a wrong factor."""
    spec = compose("+step=baseline", *LOADED, "recipe.lr=1", f"recipe.norm_batch_size={norm_batch_size}")
    assert spec.recipe.optimizer is Optimizer.sgd
    expected = parameters_after_updates(spec)
    faster = parameters_after_updates(dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, lr=2)))
    assert all(float((expected[name] - value).abs().max()) > 1e-4 for name, value in faster.items())
    run_processes(check_updates, spec, expected)


def check_collectives(rank: int, port: int) -> None:
    """Run as one of two processes."""
    set_rank(rank, port)
    with distributed.process_group("run 1", Device.cpu) as world:
        assert world.rank == rank and distributed.world_size() == 2
        assert distributed.all_reduce_max(rank, -rank) == [1, 0]
        assert distributed.all_reduce_sum(torch.ones(3) * (rank + 1)).tolist() == [3, 3, 3]
        assert distributed.all_gather(f"rank {rank}") == ["rank 0", "rank 1"]
        assert distributed.broadcast("zero" if rank == 0 else None) == "zero"
    assert distributed.broadcast_before_group("key", f"rank {rank}") == "rank 0"
    if rank == 1:
        distributed.publish_failure("run 1", "out of memory")
    else:
        assert distributed.published_failure("run 1") == "process 1: out of memory"
        assert distributed.published_failure("run 2") is None


def test_collectives_of_two_processes() -> None:
    run_processes(check_collectives)


def check_first_failure(rank: int, port: int) -> None:
    """Run as one of two processes: process 0 fails first."""
    set_rank(rank, port)
    with distributed.process_group("another run", Device.cpu):
        if rank == 0:
            distributed.publish_failure("run", "out of memory")
        distributed.all_gather(None)
        if rank == 1:
            distributed.publish_failure("run", "Connection closed by peer")
        distributed.all_gather(None)
        assert distributed.published_failure("run") == "process 0: out of memory"


def test_the_first_failure_is_published() -> None:
    run_processes(check_first_failure)


def wait_for_lock(rank: int, port: int, spec: RunSpec) -> None:
    """Run as one of two processes, whose group allows two seconds for an operation."""
    set_rank(rank, port)
    distributed.connect()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(distributed, "TIMEOUT", datetime.timedelta(seconds=2))
        run(spec, wait=True)


def test_waiting_for_a_lock_is_not_limited_by_the_time_out_of_the_group(tmp_path: Path) -> None:
    spec = compose("+step=baseline", *LOADED, f"out={tmp_path}")
    folder = run_folder(spec)

    def hold_lock() -> None:
        with lock.hold(folder):
            time.sleep(20)

    holder = threading.Thread(target=hold_lock)
    holder.start()
    run_processes(wait_for_lock, spec)
    holder.join()
    record = read_record(folder)
    assert record is not None and record["status"] == "completed", record


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "WORLD_SIZE=2: there are several processes, but RANK, LOCAL_RANK are missing; start them with torchrun, or"
            " unset WORLD_SIZE",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "WORLD_SIZE=2: there are several processes, but LOCAL_RANK is missing; start them with torchrun, or unset"
            " WORLD_SIZE",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "-1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "RANK=-1: not a number; start the processes with torchrun",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "RANK=2: must be less than WORLD_SIZE=2; start the processes with torchrun",
        ),
    ],
    ids=["no ranks", "no local rank", "negative", "too large"],
)
def test_incomplete_variables_of_torchrun_exit_with_one_line(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = call_main("+step=gelu", *TINY)
    assert (result.code, result.err) == (2, f"error: {message}\n") and result.out == ""


def test_one_process_needs_no_group() -> None:
    assert current_world() == SINGLE_PROCESS and distributed.world_size() == 1
    assert distributed.all_reduce_max(1.0, 2.0) == [1, 2] and distributed.all_gather("x") == ["x"]
    assert distributed.broadcast_before_group("k", "v") == "v" and distributed.broadcast(3) == 3
    assert distributed.published_failure("run") is None
