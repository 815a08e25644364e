"""Several processes, several parts, other launchers: the same records as one process leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from roadmap import device, distributed, record, train
from roadmap.config import compose
from roadmap.spec import Device, Precision
from tests.conftest import ROOT, TINY, CommandLine

LOADED = (*TINY, "budget.epochs=2", "budget.regularization=1", "network.drop_path=0.3", "precision=fp32")
STATIONS = "baseline,increase_width,separate_downsampling"


def torchrun(*words: str, processes: int = 2, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    command += [str(ROOT / "run_roadmap.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def records(folder: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/*/record.json")]
    return {f"{content['name']}-{content['seed']}": content for content in found}


def assert_alike(found: dict[str, Any], expected: dict[str, Any], rel: float = 1e-4) -> None:
    """The same runs with the same loss curves, but for the order of sums."""
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert found[name]["status"] == content["status"] == "completed"
        assert found[name]["config_hash"] == content["config_hash"]
        for row, other in zip(found[name]["curve"], content["curve"], strict=True):
            assert row == pytest.approx(other, rel=rel), name
        assert found[name]["num_test"] == content["num_test"]


@pytest.mark.slow
def test_a_study_under_torchrun_ends_in_the_records_of_one_process(command_line: CommandLine, tmp_path: Path) -> None:
    words = ("-m", f"+step={STATIONS}", *LOADED)
    one = command_line(*words, "out=one", "reports=told_one")
    assert one.returncode == 0, one.stderr
    two = torchrun(*words, "out=two", "reports=told_two", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("3 runs below") == 1 and "2 processes" in two.stdout  # one of them speaks
    assert_alike(records(tmp_path / "two"), records(tmp_path / "one"))
    assert {content["device"]["processes"] for content in records(tmp_path / "two").values()} == {2}
    assert (tmp_path / "told_two" / "runs" / "roadmap.png").exists()
    again = torchrun(*words, "out=two", "reports=told_two", cwd=tmp_path)
    assert again.returncode == 0 and "3 of them finished before" in again.stdout


@pytest.mark.slow
def test_a_run_goes_on_under_another_number_of_processes(tmp_path: Path) -> None:
    words = ("+step=layer_norm", *LOADED, "budget.epochs=4")
    whole = torchrun(*words, "out=whole", processes=1, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    spec = compose(*words)
    source = record.run_folder(compose(*words, f"out={tmp_path}/broken"))
    training = train.Training(spec, device.choose(Device.cpu, Precision.fp32), train.Outcome())
    training.plan = training.plan.__class__(**vars(training.plan) | {"epochs": 2})  # stopped half-way, by one process
    training.train(source)
    training.save(source)
    resumed = torchrun(*words, "out=broken", processes=2, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on from its checkpoint at epoch 3, step 0" in resumed.stdout
    assert "it was written by 1 processes" in resumed.stdout
    assert_alike(records(tmp_path / "broken"), records(tmp_path / "whole"))


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
        outcome = train.Outcome()
        train.train(spec, device.choose(Device.cpu, Precision.fp32), outcome)
        curves.append(outcome.curve)
    for row, other in zip(*curves, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize(("batch_size", "parts"), [(8, 1), (8, 2), (8, 4), (10, 3), (9, 2)])
def test_parts_cover_a_batch_in_pairs(batch_size: int, parts: int) -> None:
    found = [distributed.positions(batch_size, part, parts) for part in range(parts)]
    assert sorted(torch.cat(found).tolist()) == list(range(batch_size))
    for part in found:
        assert (part + part.flip(0) == batch_size - 1).all()


def test_one_process_agrees_with_itself() -> None:
    assert distributed.world() == distributed.ALONE and distributed.size() == 1
    assert distributed.largest(1.0, 2.0) == [1, 2] and distributed.collect("x") == ["x"]
    assert distributed.agree("k", "v") == "v" and distributed.from_leader(3) == 3
