"""What only a GPU can show: these tests are skipped without one (`pytest -m gpu`)."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from roadmap.config.choices import Device, Precision
from roadmap.config.compose import compose
from roadmap.config.schema import RunSpec
from roadmap.records.record import read_record, run_folder
from roadmap.training import checkpoint
from roadmap.training.device import choose_device
from roadmap.training.metrics import Metrics
from roadmap.training.run import run
from roadmap.training.trainer import Trainer
from tests.conftest import TINY
from tests.helpers import run_processes, set_rank

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("folder"),
]
ON_GPU = (
    *(override for override in TINY if override != "device=cpu"),
    "device=cuda",
    "base.width=16",
    "budget.epochs=2",
)


def losses_of(*overrides: str) -> list[float]:
    """Return the training loss of each epoch of a run that completes."""
    record = run(compose(*ON_GPU, "deterministic=true", *overrides, "force=true"))
    assert record["status"] == "completed", record.get("error")
    return [row["train_loss"] for row in record["curve"]]


@pytest.mark.parametrize("step", ["baseline", "separate_downsampling"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_compiled_runs_have_the_losses_of_eager_ones(step: str, accumulate: int) -> None:
    """With one part, CUDA graphs are used; their outputs are overwritten by the next call."""
    overrides = (f"+step={step}", f"accumulate={accumulate}", "recipe.norm_batch_size=16", "precision=fp32")
    assert losses_of(*overrides, "compile=true") == pytest.approx(losses_of(*overrides), rel=1e-2)


def test_masks_of_stochastic_depth_do_not_make_new_cuda_graphs() -> None:
    """A graph that reads its inputs at a new address is recorded again; torch warns after many recordings."""
    overrides = ("+step=separate_downsampling", "network.drop_path=0.3", "precision=fp32")
    assert losses_of(*overrides, "compile=true") == pytest.approx(losses_of(*overrides), rel=1e-2)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sixteen_bits_have_nearly_the_losses_of_fp32(precision: str) -> None:
    losses = losses_of("+step=separate_downsampling", f"precision={precision}")
    assert all(map(math.isfinite, losses))
    assert losses == pytest.approx(losses_of("+step=separate_downsampling", "precision=fp32"), rel=0.05)


def test_a_run_resumes_on_a_gpu_to_the_bit() -> None:
    spec = compose(*ON_GPU, "+step=baseline", "deterministic=true", "checkpoint_steps=1")
    device_config = choose_device(Device.cuda, Precision.auto)

    class Interrupted(Exception):
        pass

    whole = Trainer(spec, device_config, Metrics())
    expected = whole.train(Path("whole"))
    interrupted = Trainer(spec, device_config, Metrics())
    train_iteration = interrupted.train_iteration

    def interrupt(*arguments: Any) -> None:
        if interrupted.epoch == 1 and interrupted.iteration == 1:
            interrupted.save()
            raise Interrupted
        train_iteration(*arguments)

    interrupted.train_iteration = interrupt  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        interrupted.train(Path("part"))
    state = torch.load(Path("part") / checkpoint.NAME, weights_only=True)["state"]["model"]
    assert all(tensor.device.type == "cpu" for tensor in state.values())
    resumed = Trainer(spec, device_config, Metrics())
    resumed.resume(Path("part"))
    found = resumed.train(Path("part"))
    assert all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), expected.state_dict().values(), strict=True)
    )


def fail_or_wait(rank: int, port: int, spec: RunSpec, is_killed: bool) -> None:
    """Run as one of two processes on two GPUs; process 1 fails or is killed in its third iteration."""
    set_rank(rank, port)
    train_iteration, count = Trainer.train_iteration, [0]

    def fail(*arguments: Any) -> None:
        count[0] += 1
        if rank == 1 and count[0] == 3:
            if is_killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise torch.OutOfMemoryError("CUDA out of memory")
        train_iteration(*arguments)

    Trainer.train_iteration = fail  # type: ignore[method-assign]
    run(spec)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_failing_process_ends_the_run_under_nccl_within_a_minute(is_killed: bool) -> None:
    spec, started = compose(*ON_GPU, "+step=baseline"), time.monotonic()
    run_processes(fail_or_wait, spec, is_killed, exit_codes=[None, -signal.SIGKILL if is_killed else None])
    record = read_record(run_folder(spec))
    assert record is not None
    assert is_killed or record["error"].startswith("process 1: OutOfMemoryError")
    assert record["status"] == "failed"
    assert time.monotonic() - started < 60


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_train_as_one() -> None:
    overrides = (*ON_GPU, "+step=baseline", "precision=fp32", "deterministic=true")
    alone = run(compose(*overrides, "out=alone"))
    run_processes(train_rank, compose(*overrides, "out=together"))
    together = read_record(run_folder(compose(*overrides, "out=together")))
    assert together is not None
    losses = [[row["train_loss"] for row in record["curve"]] for record in (alone, together)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def train_rank(rank: int, port: int, spec: RunSpec) -> None:
    """Train as one of two processes."""
    set_rank(rank, port)
    run(spec)
