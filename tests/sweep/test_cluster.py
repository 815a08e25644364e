"""Cluster launchers without a cluster: the launcher of a config, and records of lost jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from roadmap.config.compose import compose
from roadmap.config.schema import SpecError
from roadmap.records.record import new_record, read_record, run_folder, write_record
from roadmap.runtime.signals import Stopped
from roadmap.sweep.launchers import ClusterJob, ClusterLauncher, launcher_of, run_on_cluster
from roadmap.sweep.planned_run import PlannedRun
from tests.conftest import TINY, CommandLine
from tests.helpers import RESULTS


def config(target: str, **params: Any) -> Any:
    return OmegaConf.create({"hydra": {"launcher": {"_target_": target, **params}}})


def test_the_launcher_of_a_config() -> None:
    assert launcher_of(config("hydra._internal.core_plugins.basic_launcher.BasicLauncher")) is None
    plugins = "hydra_plugins.hydra_submitit_launcher.submitit_launcher."
    for target, name in [
        (f"{plugins}SlurmLauncher", "submitit_slurm"),
        (f"{plugins}LocalLauncher", "submitit_local"),
        ("hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher", "ray"),
    ]:
        launcher = launcher_of(config(target, timeout_min=5))
        assert launcher is not None and (launcher.name, launcher.params) == (name, {"timeout_min": 5})
    with pytest.raises(SpecError, match="hydra/launcher=other.Launcher: not supported; use submitit_slurm"):
        launcher_of(config("other.Launcher"))


@pytest.fixture
def runs(tmp_path: Path) -> list[PlannedRun]:
    specs = [compose(f"+step={step}", *TINY, f"out={tmp_path}") for step in ("baseline", "gelu", "layer_norm")]
    return [PlannedRun(spec, ["seed=0"]) for spec in specs]


def leave_record(run: PlannedRun) -> None:
    write_record(run_folder(run.spec), new_record(run.spec, "") | RESULTS | {"status": "completed"})


def test_a_lost_job_leaves_a_failure_record(runs: list[PlannedRun]) -> None:
    def submit(params: dict[str, Any], jobs: Sequence[ClusterJob]) -> Iterator[Exception | None]:
        assert params == {"nodes": 1} and [job.title for job in jobs] == [
            f"[{i}/3] {run.title}" for i, run in enumerate(runs, start=1)
        ]
        leave_record(runs[0])
        yield None
        yield RuntimeError("killed by the cluster")
        leave_record(runs[2])
        yield RuntimeError("lost after its record was written")

    lost = run_on_cluster(ClusterLauncher("ray", submit, {"nodes": 1}), runs)
    assert list(lost) == [run_folder(runs[1].spec)]
    records = [read_record(run_folder(run.spec)) for run in runs]
    assert [record and record["status"] for record in records] == ["completed", "failed", "completed"]
    assert records[1] is not None
    reason = "its job was lost (RuntimeError: killed by the cluster); the same command retries it"
    assert records[1]["error"] == reason


def test_a_launcher_that_starts_no_job_is_refused(runs: list[PlannedRun]) -> None:
    def refuse(_params: dict[str, Any], _jobs: Sequence[ClusterJob]) -> Iterator[Exception | None]:
        raise RuntimeError("no sbatch here")

    with pytest.raises(HydraException, match="hydra/launcher=submitit_slurm: RuntimeError: no sbatch here"):
        run_on_cluster(ClusterLauncher("submitit_slurm", refuse, {}), runs)
    assert not any(run_folder(run.spec).exists() for run in runs)


def test_a_launcher_that_fails_in_a_sweep_loses_the_unfinished_runs(runs: list[PlannedRun]) -> None:
    def fail(_params: dict[str, Any], _jobs: Sequence[ClusterJob]) -> Iterator[Exception | None]:
        leave_record(runs[0])
        raise RuntimeError("connection lost")

    lost = run_on_cluster(ClusterLauncher("ray", fail, {}), runs)
    assert list(lost) == [run_folder(run.spec) for run in runs[1:]]


def test_a_stopped_launcher_stops_the_sweep(runs: list[PlannedRun]) -> None:
    def stop(_params: dict[str, Any], _jobs: Sequence[ClusterJob]) -> Iterator[Exception | None]:
        raise SystemExit(1)

    with pytest.raises(Stopped, match="stopped by SIGTERM; the same command resumes"):
        run_on_cluster(ClusterLauncher("ray", stop, {}), runs)


@pytest.mark.slow
def test_a_job_of_submitit_trains_its_run(command_line: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra [slurm] is not installed")
    result = command_line("-m", "+step=baseline", *TINY, "hydra/launcher=submitit_local")
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "experiments" / "runs").glob("baseline-*")
    record = read_record(folder)
    assert record is not None and record["status"] == "completed"
    assert list(tmp_path.glob("experiments/runs/.submitit/*/*_log.out"))
    assert (tmp_path / "reports" / "runs" / "index.html").is_file()


def test_a_preempted_job_requeues_itself(runs: list[PlannedRun]) -> None:
    pytest.importorskip("submitit", reason="the extra [slurm] is not installed")
    job = ClusterJob(runs[0], "[1/1] baseline", ".")
    submission = job.checkpoint()  # submitit calls it, and submits what it returns
    assert (submission.function, submission.args, submission.kwargs) == (job, (), {})
