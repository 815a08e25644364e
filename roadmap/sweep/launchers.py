"""Cluster launchers: the runs of a sweep as jobs of submitit (SLURM, or processes of this machine) or of Ray.

The user chooses `hydra/launcher=submitit_slurm|submitit_local|ray` and sets fields of `hydra.launcher`. This module
reads them and calls submitit or Ray directly. Records decide the result of a run: a lost job loses neither other runs
nor the report.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from roadmap.config.choices import Device
from roadmap.config.names import one_line
from roadmap.config.schema import RunSpec, SpecError
from roadmap.records.record import finished_record, run_folder
from roadmap.runtime.logs import configure_logging, logger
from roadmap.runtime.signals import Stopped
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import RunProcess, record_failure, summarize_record, with_log
from roadmap.sweep.scheduler import POLL_SECONDS, how_to_resume

# Seconds for which a job that SLURM asked to stop waits for its end; SLURM's own default (KillWait) is 30.
SLURM_KILL_WAIT_SECONDS = 60.0

# One result per run, in order: None, or the error that ended its job.
JobErrors = Sequence[Exception | None]


@dataclass(frozen=True)
class ClusterLauncher:
    """A launcher that the user chose, and its fields."""

    name: str  # as in hydra/launcher=NAME
    submit: Callable[[dict[str, Any], Sequence[ClusterJob]], Iterator[Exception | None]]
    params: dict[str, Any]


@dataclass(frozen=True)
class ClusterJob:
    """A run as a job that another process or machine executes: call it there. It is pickled on the way."""

    run: PlannedRun
    title: str
    folder: str  # working directory of the command: relative paths mean the same in every job
    num_ranks: int = 1  # processes that train the run together, started by the job

    def __call__(self) -> str:
        """Train the run in a process of its own and return its status."""
        os.chdir(self.folder)
        configure_logging()
        while True:
            record = None if self.run.spec.force else finished_record(self.run.spec)
            if record is None:
                process = RunProcess(self.run, self.title, num_ranks=self.num_ranks)
                record = process.finish()
                if process.was_stopped and "SLURM_JOB_ID" in os.environ:
                    # SLURM asks all processes of a job to stop, ends the job soon after, and may requeue it. A job that
                    # had ended by itself would count as completed.
                    time.sleep(SLURM_KILL_WAIT_SECONDS)
            if record is not None:
                logger.info(f"{self.title}: {with_log(summarize_record(record), record, run_folder(self.run.spec))}")
                return str(record["status"])
            time.sleep(POLL_SECONDS)  # another study has locked this run

    def checkpoint(self) -> Any:
        """Return the submission with which submitit requeues this job after a preemption or a timeout."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def launcher_of(config: DictConfig) -> ClusterLauncher | None:
    """Return the launcher of a composed config; None: the runs train on this machine. Raises SpecError for others."""
    params: dict[str, Any] = OmegaConf.to_container(config.hydra.launcher, resolve=True)  # type: ignore[assignment]
    target = str(params.pop("_target_", ""))
    class_name = target.rpartition(".")[2]
    if class_name == "BasicLauncher":
        return None
    if class_name == "SlurmLauncher":
        return ClusterLauncher("submitit_slurm", _submit_to_slurm, params)
    if class_name == "LocalLauncher":
        return ClusterLauncher("submitit_local", _submit_locally, params)
    if class_name == "RayLauncher":
        return ClusterLauncher("ray", _submit_to_ray, params)
    raise SpecError(f"hydra/launcher={target}: not supported; use submitit_slurm, submitit_local, ray, or none")


def run_on_cluster(launcher: ClusterLauncher, runs: Sequence[PlannedRun]) -> dict[Path, dict[str, Any]]:
    """Submit the runs, wait for all of them, and return the failure records of runs whose job was lost, by folder.

    Raises HydraException where no job could be started, Stopped where the launcher was stopped by a signal.
    """
    before = [_modification_times(run) for run in runs]
    folder = str(Path.cwd())
    jobs = [
        ClusterJob(run, f"[{i}/{len(runs)}] {run.title}", folder, num_ranks(launcher, run.spec))
        for i, run in enumerate(runs, start=1)
    ]
    errors: JobErrors
    try:
        errors = list(launcher.submit(launcher.params, jobs))
    except SystemExit as end:  # Ray's reaction to SIGTERM
        raise Stopped(f"stopped by SIGTERM; {how_to_resume()}") from end
    except Exception as error:
        if [_modification_times(run) for run in runs] == before:  # no run has started
            raise HydraException(f"hydra/launcher={launcher.name}: {_one_line(error)}") from error
        errors = [error] * len(runs)
    lost_runs: dict[Path, dict[str, Any]] = {}
    for run, lost, (record_time, _) in zip(runs, errors, before, strict=True):
        if lost is not None and _modification_times(run)[0] == record_time:
            logger.info(f"{run.title}: its job was lost\n{lost}")
            reason = f"its job was lost ({_one_line(lost)}); the same command retries it"
            lost_runs[run_folder(run.spec)] = record_failure(run, reason)
    return lost_runs


def num_ranks(launcher: ClusterLauncher, spec: RunSpec) -> int:
    """Return how many processes of a job train its run: `processes`, or one for each GPU that the job asks for."""
    if spec.processes is not None or spec.device is Device.cpu:
        return spec.processes or 1
    of_ray = (launcher.params.get("ray") or {}).get("remote") or {}
    gpus = launcher.params.get("gpus_per_node") or launcher.params.get("gpus_per_task") or of_ray.get("num_gpus")
    if gpus is None and (gres := re.search(r"gpu(?::[^:,]*)?:(\d+)", str(launcher.params.get("gres")))):
        gpus = gres[1]
    return max(1, int(gpus or 1))


def _submit_to_slurm(params: dict[str, Any], jobs: Sequence[ClusterJob]) -> Iterator[Exception | None]:
    return _submit_with_submitit("slurm", params, jobs)


def _submit_locally(params: dict[str, Any], jobs: Sequence[ClusterJob]) -> Iterator[Exception | None]:
    return _submit_with_submitit("local", params, jobs)


# Parameters that submitit's AutoExecutor takes for every cluster; it takes the others with the cluster's name before.
SUBMITIT_COMMON = (
    "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout",
)  # fmt: skip


def _submit_with_submitit(
    cluster: str, params: dict[str, Any], jobs: Sequence[ClusterJob]
) -> Iterator[Exception | None]:
    """Run the jobs as one array and yield their errors; `params` are the fields of hydra-submitit-launcher."""
    import submitit

    params = dict(params)
    init = {"folder": params.pop("submitit_folder")}
    if "max_num_timeout" in params:
        init[f"{cluster}_max_num_timeout"] = params.pop("max_num_timeout")
    executor = submitit.AutoExecutor(cluster=cluster, **init)
    executor.update_parameters(**{k if k in SUBMITIT_COMMON else f"{cluster}_{k}": v for k, v in params.items()})
    for submitted in executor.submit_array(list(jobs)):
        try:
            submitted.results()
            yield None
        except Exception as error:
            yield error


def _submit_to_ray(params: dict[str, Any], jobs: Sequence[ClusterJob]) -> Iterator[Exception | None]:
    """Run each job as a Ray task and yield their errors; `params` are the fields of hydra-ray-launcher."""
    import ray

    options = params["ray"]
    if not ray.is_initialized():
        ray.init(**(options.get("init") or {}))
    remote_options = options.get("remote") or {}
    remote = ray.remote(**remote_options)(run_cluster_job) if remote_options else ray.remote(run_cluster_job)
    for reference in [remote.remote(job) for job in jobs]:
        try:
            ray.get(reference)
            yield None
        except Exception as error:
            yield error


def run_cluster_job(job: ClusterJob) -> str:
    """Call `job`; Ray needs a function."""
    return job()


def _modification_times(run: PlannedRun) -> list[int | None]:
    """Return when the run's record and its log were last written, in nanoseconds."""
    paths = [run_folder(run.spec) / name for name in ("record.json", "log.txt")]
    return [path.stat().st_mtime_ns if path.exists() else None for path in paths]


def _one_line(error: BaseException) -> str:
    """Return an error of a launcher, which may hold whole logs, as one line of limited length."""
    text = one_line(f"{type(error).__name__}: {error}")
    return text if len(text) < 1200 else f"{text[:200]} ... {text[-900:]}"
