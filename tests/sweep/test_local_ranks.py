"""Several processes that train one run together, started by the run itself."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from roadmap.config.compose import compose
from roadmap.config.schema import SpecError
from roadmap.records.history import PROGRESS_NAME
from roadmap.records.record import read_record, run_folder
from roadmap.runtime import lock
from roadmap.runtime.exit_codes import EXIT_STOPPED
from roadmap.sweep import local_ranks, placement
from roadmap.sweep.launchers import ClusterLauncher, num_ranks
from roadmap.sweep.local_ranks import check_processes
from roadmap.sweep.placement import choose_placement, count_gpus
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.processes import visible_devices
from roadmap.sweep.run_process import RunProcess, record_death, record_failure, record_mtime
from roadmap.training import checkpoint
from tests.conftest import TINY, CommandLine, until
from tests.helpers import assert_same_results, call_main, read_records

LOADED = (*TINY, "budget.epochs=2", "budget.regularization=1", "network.drop_path=0.3", "precision=fp32")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_single_run_with_two_processes_is_that_of_one(command_line: CommandLine, tmp_path: Path) -> None:
    for processes in (1, 2):
        done = command_line("+step=layer_norm", *LOADED, f"processes={processes}", f"out={processes}")
        assert done.returncode == 0, done.stderr
    one, two = read_records(tmp_path / "1"), read_records(tmp_path / "2")
    assert_same_results(two, one)
    assert two["layer_norm-0"]["device"]["processes"] == 2 and one["layer_norm-0"]["device"]["processes"] == 1
    assert "Warning" not in (next(tmp_path.glob("2/runs/*/log.txt"))).read_text()
    again = call_main("+step=layer_norm", *LOADED, "out=2")
    assert again.code == 0 and "already finished" in again.out, "the number of processes is not in the hash"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", "submitit"])
def test_the_runs_of_a_sweep_have_two_processes_each(launcher: str, command_line: CommandLine, tmp_path: Path) -> None:
    """submitit's jobs start the processes themselves, as on SLURM with several GPUs per node."""
    overrides = ("-m", "+step=layer_norm,gelu", *LOADED)
    if launcher == "submitit":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra [slurm] is not installed")
    place = ("hydra/launcher=submitit_local",) if launcher == "submitit" else ()
    for more in (("out=one",), ("out=two", "processes=2", *place)):
        done = command_line(*overrides, *more)
        assert done.returncode == 0, done.stderr
    one, two = read_records(tmp_path / "one"), read_records(tmp_path / "two")
    assert len(two) == 2
    assert_same_results(two, one)
    assert {record["device"]["processes"] for record in two.values()} == {2}


def start_long_run(tmp_path: Path) -> tuple[RunProcess, Path]:
    """Start a run with two processes, wait until it trains, and return it and its folder."""
    overrides = ("budget.epochs=2000", "budget.equal_epochs=true", "checkpoint_steps=5", f"out={tmp_path}")
    spec = compose("+step=layer_norm", *TINY, *overrides)
    process, folder = RunProcess(PlannedRun(spec, []), "run", threads=2, num_ranks=2), run_folder(spec)
    until(lambda: (folder / checkpoint.NAME).exists() and (folder / PROGRESS_NAME).exists())
    return process, folder


def test_a_signal_makes_both_processes_end_with_a_checkpoint(tmp_path: Path) -> None:
    process, folder = start_long_run(tmp_path)
    process.terminate()
    process.process.join(60)
    assert process.process.exitcode == EXIT_STOPPED and process.was_stopped
    assert not (folder / "record.json").exists() and not lock.is_held(folder)
    assert checkpoint.read(folder / checkpoint.NAME, folder.name)["epoch"] >= 0


@pytest.mark.faults
def test_a_killed_process_ends_the_run_with_the_reason_in_the_record(tmp_path: Path) -> None:
    process, folder = start_long_run(tmp_path)
    os.kill(json.loads((folder / PROGRESS_NAME).read_text())["pid"], signal.SIGKILL)
    record = process.finish()
    assert record is not None and record["status"] == "failed"
    reason = "process 0 of the run ended with SIGKILL; the same command retries it, from its checkpoint if any"
    assert record["error"] == reason
    assert read_record(folder) == record


def test_processes_are_refused_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    message = "error: processes=2: under torchrun its own processes train each run; leave processes out\n"
    for sweep in ((), ("-m",)):
        result = call_main(*sweep, "+step=gelu", *TINY, "processes=2")
        assert (result.code, result.err) == (2, message)


def test_there_are_at_most_as_many_processes_as_gpus_or_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ranks, "count_gpus", lambda: 4)
    monkeypatch.setattr(local_ranks, "num_cores", lambda: 2)
    check_processes(compose("+step=gelu", "processes=4"))
    with pytest.raises(SpecError, match="processes=5: this machine has 4 GPUs; use 4 or less"):
        check_processes(compose("+step=gelu", "processes=5"))
    with pytest.raises(SpecError, match="processes=3: this machine has 2 cores; use 2 or less"):
        check_processes(compose("+step=gelu", "processes=3", "device=cpu"))
    check_processes(compose("+step=gelu", "processes=5"), on_this_machine=False)


@pytest.mark.parametrize(
    ("params", "overrides", "expected"),
    [
        ({"gpus_per_node": 8}, (), 8),
        ({"gpus_per_node": None}, (), 1),
        ({"gpus_per_node": 8}, ("processes=4",), 4),
        ({"gpus_per_node": 8}, ("device=cpu",), 1),
        ({"gpus_per_node": None}, ("device=cpu", "processes=2"), 2),
        ({"gres": "gpu:8"}, (), 8),
        ({"gres": "gpu:a100:4,shard:1"}, (), 4),
        ({"gres": "shard:1"}, (), 1),
        ({"ray": {"remote": {"num_gpus": 2}}}, (), 2),
        ({"ray": {"remote": {"num_gpus": 0.5}}}, (), 1),
    ],
)
def test_a_job_trains_with_a_process_for_each_of_its_gpus(
    params: dict[str, Any], overrides: tuple[str, ...], expected: int
) -> None:
    launcher = ClusterLauncher("submitit_slurm", lambda *_: iter(()), params)
    assert num_ranks(launcher, compose("+step=gelu", *overrides)) == expected


def test_a_run_cannot_have_several_slices_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ranks, "count_gpus", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1,MIG-2")
    check_processes(compose("+step=gelu", "processes=1"))
    with pytest.raises(SpecError, match="processes=2: a process sees only one slice of a GPU"):
        check_processes(compose("+step=gelu", "processes=2"))


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ("process 1: CUDA out of memory", "process 1: CUDA out of memory"),  # the failure that came first
        (
            "RuntimeError: Connection closed by peer",
            "process 1 of the run ended with SIGKILL; the same command retries",
        ),
        (None, "process 1 of the run ended with SIGKILL; the same command retries"),
    ],
)
def test_a_record_of_the_first_failure_is_not_replaced_by_the_end_of_a_process(
    recorded: str | None, expected: str, tmp_path: Path
) -> None:
    run = PlannedRun(compose("+step=gelu", f"out={tmp_path}"), [])
    before = record_mtime(run_folder(run.spec))
    assert before is None
    if recorded is not None:
        record_failure(run, recorded)
    record = record_death(run, "process 1 of the run ended with SIGKILL", before)
    assert record["error"].startswith(expected)
    assert read_record(run_folder(run.spec)) == record
    earlier = record_mtime(run_folder(run.spec))  # a record of an earlier attempt is replaced
    assert record_death(run, "process 0 of the run ended with SIGSEGV", earlier)["error"].startswith("process 0 of")


def test_the_gpus_of_a_machine_are_divided_into_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "count_gpus", lambda: 8)
    runs = [PlannedRun(compose("+step=gelu", "processes=4", f"seed={seed}"), []) for seed in range(3)]
    chosen = choose_placement(runs)
    assert (chosen.num_parallel, chosen.num_groups, chosen.num_ranks) == (2, 2, 4)
    assert chosen.resources.device_share == 1
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices(range(4, 8)) == "4,5,6,7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b,MIG-c,3")
    assert visible_devices(range(2)) == "GPU-a,GPU-b" and visible_devices([2]) == "MIG-c"
    assert visible_devices(None) == "GPU-a, GPU-b,MIG-c,3"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("MIG-a,MIG-b, MIG-c", 3), ("MIG-a,MIG-a", 1), ("GPU-a,GPU-b", 2), ("0,1", 2), (None, 2)],
)
def test_slices_of_a_gpu_are_counted(visible: str | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, CUDA is pretended to see two GPUs, or one if the list contains slices."""
    monkeypatch.setattr(placement, "GPU_DEVICE_FILES", ("null",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1 if visible and "MIG" in visible else 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == expected


@pytest.mark.parametrize(
    ("code", "reason"), [(-9, "killed by SIGKILL; the system does this when"), (0, None), (75, None)]
)
def test_a_process_that_died_under_torchrun_is_published(
    code: int, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes of the run on other GPUs wait for it."""
    publish = Mock()
    monkeypatch.setattr("roadmap.runtime.distributed.publish_failure", publish)
    monkeypatch.setattr("roadmap.sweep.run_process.is_distributed", lambda: True)
    monkeypatch.setattr("roadmap.sweep.run_process.is_rank_zero", lambda: False)
    process = RunProcess.__new__(RunProcess)
    process.folder, process.number = tmp_path / "gelu-0123-seed0", 3
    process.process = SimpleNamespace(join=lambda: None, exitcode=code)
    record = process.finish()
    assert record == {"status": "completed" if code == 0 else "failed"}
    if reason is None:
        assert not publish.called
    else:
        (group, published), _ = publish.call_args
        assert group == "gelu-0123-seed0 3" and published.startswith(reason)
