"""Several processes, several parts, other launchers: the same read_records as one process leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from roadmap.config.compose import compose
from roadmap.config.schema import Device, Precision
from roadmap.data.sampling import batch_positions
from roadmap.records.record import run_folder
from roadmap.runtime import distributed
from roadmap.runtime.world import SINGLE_PROCESS, current_world
from roadmap.training import device, trainer
from roadmap.training.metrics import Metrics
from tests.conftest import TINY, CommandLine
from tests.helpers import THREE_STEPS, assert_same_results, read_records, torchrun

LOADED = (*TINY, "budget.epochs=2", "budget.regularization=1", "network.drop_path=0.3", "precision=fp32")


@pytest.mark.slow
def test_a_study_under_torchrun_ends_in_the_records_of_one_process(command_line: CommandLine, tmp_path: Path) -> None:
    words = ("-m", f"+step={THREE_STEPS}", *LOADED)
    one = command_line(*words, "out=one", "reports=told_one")
    assert one.returncode == 0, one.stderr
    two = torchrun(*words, "out=two", "reports=told_two", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("3 runs below") == 1 and "2 processes" in two.stdout  # one of them speaks
    assert_same_results(read_records(tmp_path / "two"), read_records(tmp_path / "one"))
    assert {content["device"]["processes"] for content in read_records(tmp_path / "two").values()} == {2}
    assert (tmp_path / "told_two" / "runs" / "roadmap.png").exists()
    again = torchrun(*words, "out=two", "reports=told_two", cwd=tmp_path)
    assert again.returncode == 0 and "3 of them finished before" in again.stdout


@pytest.mark.slow
def test_a_run_goes_on_under_another_number_of_processes(tmp_path: Path) -> None:
    words = ("+step=layer_norm", *LOADED, "budget.epochs=4")
    whole = torchrun(*words, "out=whole", processes=1, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    spec = compose(*words)
    source = run_folder(compose(*words, f"out={tmp_path}/broken"))
    training = trainer.Trainer(spec, device.choose_device(Device.cpu, Precision.fp32), Metrics())
    training.plan = training.plan.__class__(**vars(training.plan) | {"epochs": 2})  # stopped half-way, by one process
    training.train(source)
    training.save(source)
    resumed = torchrun(*words, "out=broken", processes=2, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on from its checkpoint at epoch 3, step 0" in resumed.stdout
    assert "it was written by 1 processes" in resumed.stdout
    assert_same_results(read_records(tmp_path / "broken"), read_records(tmp_path / "whole"))


@pytest.mark.slow
def test_a_mistake_under_torchrun_is_told_in_one_line(tmp_path: Path) -> None:
    done = torchrun("+step=gelu", *TINY, "budget.batch_size=2", cwd=tmp_path)
    assert done.returncode != 0
    assert "error: budget.batch_size=2: there are 2 processes with 1 parts each" in done.stderr


@pytest.mark.parametrize("step", ["layer_norm", "separate_downsampling"])
def test_parts_of_a_batch_make_the_same_step(step: str) -> None:
    """Of networks without BatchNorm, which sees a part at a time."""
    curves = []
    for parts in (1, 3):
        spec = compose(f"+step={step}", *LOADED, f"accumulate={parts}")
        outcome = Metrics()
        trainer.train(spec, device.choose_device(Device.cpu, Precision.fp32), outcome)
        curves.append(outcome.curve)
    for row, other in zip(*curves, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize(("batch_size", "parts"), [(8, 1), (8, 2), (8, 4), (10, 3), (9, 2)])
def test_parts_cover_a_batch_in_pairs(batch_size: int, parts: int) -> None:
    found = [batch_positions(batch_size, part, parts) for part in range(parts)]
    assert sorted(torch.cat(found).tolist()) == list(range(batch_size))
    for part in found:
        assert (part + part.flip(0) == batch_size - 1).all()


def test_one_process_agrees_with_itself() -> None:
    assert current_world() == SINGLE_PROCESS and distributed.world_size() == 1
    assert distributed.all_reduce_max(1.0, 2.0) == [1, 2] and distributed.all_gather("x") == ["x"]
    assert distributed.broadcast_before_group("k", "v") == "v" and distributed.broadcast(3) == 3
