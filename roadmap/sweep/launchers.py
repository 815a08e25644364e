"""Runs of a study that another launcher places: joblib, submitit (SLURM), Ray.

Records decide what came of a run; a launcher that loses a job loses neither the others nor the report.
"""

from __future__ import annotations

import os
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import TaskFunction
from omegaconf import DictConfig

from roadmap.records.record import finished_record, run_folder
from roadmap.runtime.progress import format_duration, say
from roadmap.runtime.signals import Stopped
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import RunProcess, record_failure, summarize_record
from roadmap.sweep.scheduler import POLL_SECONDS

RUNS, STARTED = "ROADMAP_RUNS", "ROADMAP_STARTED"  # how a job knows of the sweep that it belongs to
KILL_WAIT = 60.0  # seconds in which SLURM, which has asked a job to stop, ends it; its own default is 30


def launch(launcher: Any, jobs: Sequence[PlannedRun]) -> dict[Path, dict[str, Any]]:
    """Let the launcher place the runs. What they leave is their records; those of runs whose jobs were lost on the
    way are written here, with what the launcher says, and returned."""
    before = [_traces(job) for job in jobs]
    env = {RUNS: len(jobs), STARTED: time.time()}
    extra = [f"++hydra.job.env_set.{key}='{value}'" for key, value in env.items()]
    here = str(Path.cwd()).replace("'", "\\'")
    extra.append(f"hydra.sweep.dir='{here}'")  # Hydra makes this folder, wherever the job starts
    results: Sequence[JobReturn]
    try:
        with _lost_jobs_as_results(launcher):
            results = launcher.launch([[*job.words, *extra] for job in jobs], initial_job_idx=0)
    except SystemExit as end:  # Ray's answer to SIGTERM, in the place of ours
        raise Stopped("stopped by SIGTERM; the same command goes on from there") from end
    except Exception as error:
        if [_traces(job) for job in jobs] == before:  # none has begun
            raise HydraException(f"{type(launcher).__name__}: {_words(error)}") from error
        results = [_lost(error)] * len(jobs)  # joblib's workers end together
    lost = {}
    for job, result, (written, _) in zip(jobs, results, before, strict=True):
        if result.status is not JobStatus.COMPLETED and _traces(job)[0] == written:
            say(f"{job.title}: its job was lost\n{result._return_value}")
            reason = f"its job was lost ({_words(result._return_value)}); the same command tries it again"
            lost[run_folder(job.spec)] = record_failure(job, reason)
    return lost


def run_as_job(job: PlannedRun, number: int) -> str:
    """One run of a sweep that another launcher placed on this machine; its status."""
    runs, started = int(os.environ.get(RUNS, "1")), float(os.environ.get(STARTED, time.time()))
    title = f"[{number + 1}/{runs}] {job.title}"
    while True:
        content = None if job.spec.force else finished_record(job.spec)
        if content is None:
            process = RunProcess(job, title)
            content = process.finish()
            if process.was_stopped and "SLURM_JOB_ID" in os.environ:
                # SLURM asks all processes of a job to stop and soon ends the job, which it may start anew: a job that
                # had ended by itself would count as done.
                time.sleep(KILL_WAIT)
        if content is not None:
            say(f"{title}: {summarize_record(content)}; study {format_duration(time.time() - started)}")
            return str(content["status"])
        time.sleep(POLL_SECONDS)  # another study is at this run


def in_folder(folder: str, task: TaskFunction, config: DictConfig) -> Any:
    """`task`, where the command was given: relative paths mean the same in every job."""
    os.chdir(folder)
    return task(config)


def _traces(job: PlannedRun) -> list[int | None]:
    """When the run's record and its log were last written."""
    paths = [run_folder(job.spec) / name for name in ("record.json", "log.txt")]
    return [path.stat().st_mtime_ns if path.exists() else None for path in paths]


def _words(error: BaseException) -> str:
    """What a launcher says, which may hold whole logs, in one line of some length."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) < 1200 else f"{text[:200]} ... {text[-900:]}"


def _lost(error: Exception) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=error)


@contextmanager
def _lost_jobs_as_results(launcher: Any) -> Iterator[None]:
    """submitit's and Ray's launchers collect job after job, and raise at the first that was killed: they would leave
    the others. While inside, such a job's error stands among the results."""
    owner: Any
    whole: Any
    replacement: Any
    if "submitit" in type(launcher).__module__:
        import submitit

        owner, name, whole = submitit.Job, "results", submitit.Job.results
        replacement = _or_error(whole, lambda error: [_lost(error)])
    elif type(launcher).__name__ == "RayLauncher":
        import ray
        from hydra_plugins.hydra_ray_launcher import _core

        owner, name, whole = _core, "ray", ray
        replacement = types.SimpleNamespace(get=_or_error(whole.get, _lost))
    else:
        yield
        return
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, whole)


def _or_error(collect: Callable[[Any], Any], told: Callable[[Exception], Any]) -> Callable[[Any], Any]:
    def collect_or_tell(job: Any) -> Any:
        try:
            return collect(job)
        except Exception as error:
            return told(error)

    return collect_or_tell
