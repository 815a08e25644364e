"""Sweeps on clusters: the same records as without a launcher, and a lost job ends no other job.

Real processes on this machine: submitit with its local executor, Ray with a cluster that the test starts.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from roadmap.runtime import lock
from roadmap.runtime.exit_codes import EXIT_STOPPED
from roadmap.training import checkpoint
from tests.conftest import TINY, CommandLine, background, until
from tests.helpers import THREE_STEPS, assert_same_results, read_records

pytestmark = pytest.mark.slow

OVERRIDES = (*TINY, "budget.epochs=2", "budget.regularization=1", "precision=fp32")
LONG = (*TINY, "budget.epochs=150", "precision=fp32", "checkpoint_steps=20")
RAY = (
    "hydra/launcher=ray", "hydra.launcher.ray.init.address=local", "+hydra.launcher.ray.init.num_cpus=2",
    "+hydra.launcher.ray.init.include_dashboard=false",
    "+hydra.launcher.ray.init.object_store_memory=80000000", "+hydra.launcher.ray.init.log_to_driver=false",
)  # fmt: skip
LAUNCHERS = {"submitit_local": ("hydra/launcher=submitit_local",), "ray": RAY}


def need(launcher: str) -> None:
    plugin = launcher.partition("_")[0]
    extra = {"submitit": "slurm"}.get(plugin, plugin)
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher", reason=f"the extra [{extra}] is not installed")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a run has as many as without a launcher
    yield
    for pid in job_processes(tmp_path):  # what a failed test left
        os.kill(pid, signal.SIGKILL)


def processes_with(*parts: str) -> list[int]:
    """Return the processes whose command lines contain all of `parts`, in the order of their start."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            line = path.read_text()
            if all(part in line for part in parts):
                found.append(int(path.parent.name))
    return sorted(found)


def job_processes(folder: Path) -> list[int]:
    """Return the processes that submitit started for this test."""
    return processes_with("submitit.core._submit", str(folder))


def process_tree(process: int) -> list[int]:
    """Return the process and all processes that it started."""
    found = [process]
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        found += [pid for child in path.read_text().split() for pid in process_tree(int(child))]
    return found


def trains(run: Path) -> bool:
    return (run / checkpoint.NAME).exists()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The records of a study that trains on this machine, without a launcher."""
    folder = tmp_path_factory.mktemp("plain")
    overrides = (
        "-m",
        f"+step={THREE_STEPS}",
        *OVERRIDES,
        "study=cluster",
        f"out={folder}",
        f"reports={folder}/reports",
    )
    process = background(*overrides, OMP_NUM_THREADS="1")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    return read_records(folder)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_leaves_the_same_records(plain: dict[str, Any], tmp_path: Path, launcher: str) -> None:
    """Also with a study name, and with relative folders, which belong to the working directory of the command."""
    need(launcher)
    overrides = (
        "-m",
        f"+step={THREE_STEPS}",
        *OVERRIDES,
        "study=cluster",
        "out=on_cluster",
        "reports=cluster_reports",
        *LAUNCHERS[launcher],
    )
    process = background(*overrides)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    found = read_records(tmp_path / "on_cluster")
    assert len(found) == 3
    assert_same_results(found, plain)
    for name, record in found.items():
        assert record["command"].partition(" out=")[0] == plain[name]["command"].partition(" out=")[0]
    assert (tmp_path / "cluster_reports" / "cluster" / "roadmap.png").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"on_cluster", "cluster_reports"}
    again = background(*overrides)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0 and "3 of them already finished" in out, err


def test_a_preempted_job_is_requeued_and_resumes() -> None:
    """SLURM sends SIGUSR2 to all processes of a job before it preempts the job; submitit handles the signal."""
    need("submitit_local")
    process = background("-m", "+step=gelu", *LONG, "hydra/launcher=submitit_local")
    (job,) = until(lambda: job_processes(Path.cwd()))
    log = until(lambda: next(Path().glob("experiments/runs/gelu*/log.txt"), None))
    until(lambda: trains(log.parent))
    for pid in process_tree(job):
        os.kill(pid, signal.SIGUSR2)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    messages = log.read_text()
    assert "stopped by SIGTERM at epoch" in messages and "resuming from checkpoint at epoch" in messages
    (submitit,) = Path().glob("experiments/runs/.submitit/*/*_log.out")
    assert submitit.read_text().count("Starting with JobEnvironment") == 2
    (record,) = read_records(Path("experiments")).values()
    assert record["status"] == "completed" and len(record["curve"]) == 150


def test_a_lost_job_ends_no_other_job() -> None:
    """Of three jobs, one is killed and one runs out of time: submitit counts a signal to so short a job as a timeout,
    and may not requeue it here. The third completes; the other two have left checkpoints and a reason."""
    need("submitit_local")
    short = ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "+hydra.launcher.max_num_timeout=0")
    process = background("-m", "+step=baseline,gelu,layer_norm", *LONG, *short)
    until(lambda: sum(map(trains, Path().glob("experiments/runs/*-seed0"))) == 3)
    killed, late, _ = job_processes(Path.cwd())
    os.kill(killed, signal.SIGKILL)
    os.kill(late, signal.SIGUSR2)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert "2 of 3 runs did not complete" in err and "its job was lost (UncompletedJobError: Job " in err
    found = read_records(Path("experiments"))
    assert {name: record["status"] for name, record in found.items()} == {
        "baseline-0": "failed", "gelu-0": "failed", "layer_norm-0": "completed"
    }  # fmt: skip
    assert "has not produced any output" in found["baseline-0"]["error"]
    assert "Job not requeued because: timed-out too many times" in found["gelu-0"]["error"]
    for name in ("baseline", "gelu"):
        (run,) = Path("experiments/runs").glob(f"{name}-*")
        assert "stopped by SIGTERM at epoch" in (run / "log.txt").read_text()  # it did not outlive its job
        assert not lock.is_held(run) and trains(run)
    assert (Path("reports") / "runs" / "roadmap.csv").exists()


def test_a_signal_to_all_processes_of_a_study() -> None:
    """As SLURM sends it: the runs write checkpoints, the study waits for them and reports how it ended."""
    overrides = ("-m", "+step=baseline,gelu", *LONG, "checkpoint_steps=null", "budget.epochs=9000", "parallel=2")
    process = background(*overrides, "checkpoint_minutes=0.02", apart=True)
    logs = until(lambda: len(found := list(Path().glob("experiments/runs/*/log.txt"))) == 2 and found)
    until(lambda: all(trains(log.parent) for log in logs))
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_STOPPED, out + err
    assert "stopped by SIGTERM: 0 of 2 runs done; the same command resumes" in err
    for log in logs:
        assert "stopped by SIGTERM at epoch" in log.read_text()
        assert not lock.is_held(log.parent) and not (log.parent / "record.json").exists()


def test_a_killed_worker_of_ray_ends_no_other_run() -> None:
    """Without the three retries that Ray gives a task whose worker died."""
    need("ray")
    process = background("-m", "+step=baseline,gelu", *LONG, *RAY, "+hydra.launcher.ray.remote.max_retries=0")
    until(lambda: sum(map(trains, Path().glob("experiments/runs/*-seed0"))) == 2)
    tasks = processes_with("ray::run_cluster_job")
    workers = [pid for pid in tasks if Path(f"/proc/{pid}/cwd").resolve() == Path.cwd()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert "1 of 2 runs did not complete" in err and "its job was lost (WorkerCrashedError" in err
    states = [record["status"] for record in read_records(Path("experiments")).values()]
    assert sorted(states) == ["completed", "failed"]


def test_an_invalid_launcher_field_is_refused_in_one_line(command_line: CommandLine, tmp_path: Path) -> None:
    need("submitit_slurm")
    done = command_line("-m", "+step=gelu", *TINY, "hydra/launcher=submitit_slurm", "hydra.launcher.nodes=x")
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
