"""A study: many runs, each in a process of its own, then the report.

Hydra's sweeper plugin for this project. It composes and checks every run before the first one starts, leaves out what
is finished or asked for twice, trains seed by seed along the road, and hands the runs to whatever launcher is
configured (hydra/launcher=joblib, submitit_slurm, ray, ...); without one it places them on this machine itself.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from roadmap import lock, record, road
from roadmap.config import to_spec
from roadmap.data.catalogue import fetch
from roadmap.processes import (
    LEADS,
    POLL_SECONDS,
    TEAM,
    Job,
    RunProcess,
    context,
    describe,
    listen,
    record_failure,
    run_here,
)
from roadmap.progress import duration, say
from roadmap.spec import RunSpec, SpecError
from roadmap.stop import Stopped

RUNS, STARTED = "ROADMAP_RUNS", "ROADMAP_STARTED"  # how a job knows of the sweep that it belongs to
KILL_WAIT = 60.0  # seconds in which SLURM, which has asked a job to stop, ends it; its own default is 30


class RunFailed(Exception):
    """A run, or some of a sweep, failed or diverged; its record says why."""


class Sweeper(HydraSweeper):
    """All combinations of the comma lists, as Hydra's basic sweeper, but planned and checked before anything starts."""

    __module__ = "hydra_plugins.roadmap"  # see register_sweeper

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}  # hydra.sweeper.params: what a study sweeps over

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.loader = config, hydra_context.config_loader
        task = functools.partial(_in_folder, str(Path.cwd()), task_function)
        context: dict[str, Any] = {"hydra_context": hydra_context, "task_function": task}
        self.launcher = Plugins.instance().instantiate_launcher(config=config, **context)

    def sweep(self, arguments: list[str]) -> None:
        """Run everything and write the report. Raises RunFailed at the end if a run failed or diverged."""
        jobs = self.plan(arguments)
        specs = [job.spec for job in jobs]
        todo = _team_agrees(_prepare, jobs)
        folders = sorted({record.study_folder(spec) for spec in specs})
        before = f", {len(jobs) - len(todo)} of them finished before (force=true repeats them)" if todo != jobs else ""
        say(f"{specs[0].study}: {len(jobs)} runs below {', '.join(map(str, folders))}{before}")
        lost: dict[Path, dict[str, Any]] = {}
        if todo and type(self.launcher).__name__ == "BasicLauncher":
            run_here(todo)
        elif todo:
            lost = self._launch(todo)
        if not LEADS:
            return
        write_reports(folders, Path(specs[0].reports))
        bad = []
        for spec in specs:
            folder = record.run_folder(spec)
            nothing = {"status": record.FAILED, "error": "left no record"}
            content = record.read(folder) or lost.get(folder, nothing)
            if content["status"] != record.COMPLETED:
                bad.append(f"{folder.name}: {describe(content)}")
        if bad:
            raise RunFailed("\n".join([f"{len(bad)} of {len(specs)} runs did not complete:", *bad]))

    def _launch(self, jobs: Sequence[Job]) -> dict[Path, dict[str, Any]]:
        """Let the launcher place the runs. What they leave is their records; those of runs whose jobs were lost on the
        way are written here, with what the launcher says, and returned."""
        before = [_traces(job) for job in jobs]
        env = {RUNS: len(jobs), STARTED: time.time()}
        extra = [f"++hydra.job.env_set.{key}='{value}'" for key, value in env.items()]
        here = str(Path.cwd()).replace("'", "\\'")
        extra.append(f"hydra.sweep.dir='{here}'")  # Hydra makes this folder, wherever the job starts
        results: Sequence[JobReturn]
        try:
            with _lost_jobs_as_results(self.launcher):
                results = self.launcher.launch([[*job.words, *extra] for job in jobs], initial_job_idx=0)
        except SystemExit as end:  # Ray's answer to SIGTERM, in the place of ours
            raise Stopped("stopped by SIGTERM; the same command goes on from there") from end
        except Exception as error:
            if [_traces(job) for job in jobs] == before:  # none has begun
                raise HydraException(f"{type(self.launcher).__name__}: {_words(error)}") from error
            results = [_lost(error)] * len(jobs)  # joblib's workers end together
        lost = {}
        for job, result, (written, _) in zip(jobs, results, before, strict=True):
            if result.status is not JobStatus.COMPLETED and _traces(job)[0] == written:
                say(f"{job.title}: its job was lost\n{result._return_value}")
                reason = f"its job was lost ({_words(result._return_value)}); the same command tries it again"
                lost[record.run_folder(job.spec)] = record_failure(job, reason)
        return lost

    def plan(self, arguments: list[str]) -> list[Job]:
        """Every run, each once, seed by seed along the road. Raises SpecError, and Hydra's errors, for the first that
        is impossible: then nothing has started."""
        swept = [f"{key}={value}" for key, value in self.params.items()]
        parsed = OverridesParser.create(config_loader=self.loader).parse_overrides([*swept, *arguments])
        unique: dict[Path, Job] = {}
        for words in BasicSweeper.split_arguments(parsed, None)[0]:
            spec = to_spec(self.loader.load_sweep_config(self.config, list(words)))
            unique.setdefault(record.run_folder(spec), Job(spec, list(words)))
        if not unique:
            raise HydraException("the sweep is empty: a glob(...) matched nothing")
        station = road.order(list(road.transforms())).index
        jobs = list(unique.values())
        return sorted(jobs, key=lambda job: (job.spec.seed, [station(name) for name in job.spec.transforms]))


def _in_folder(folder: str, task: TaskFunction, config: DictConfig) -> Any:
    """`task`, where the command was given: relative paths mean the same in every job."""
    os.chdir(folder)
    return task(config)


def _traces(job: Job) -> list[int | None]:
    """When the run's record and its log were last written."""
    paths = [record.run_folder(job.spec) / name for name in ("record.json", "log.txt")]
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


def register_sweeper() -> None:
    """Make the sweeper known to Hydra, which takes plugins from modules below `hydra_plugins` alone."""
    plugins = Plugins.instance()
    alias = types.ModuleType(Sweeper.__module__)
    vars(alias)["Sweeper"] = Sweeper
    sys.modules.setdefault("hydra_plugins", types.ModuleType("hydra_plugins"))
    sys.modules[alias.__name__] = alias
    plugins.register(Sweeper)


def _prepare(jobs: Sequence[Job]) -> list[Job]:
    """The runs that are not finished, after all that can be said against them has been said."""
    for data in {repr(job.spec.data): job.spec.data for job in jobs}.values():
        fetch(data)
    todo = [job for job in jobs if job.spec.force or record.finished(job.spec) is None]
    if todo:
        check([job.spec for job in todo])
    return todo


def _team_agrees(prepare: Callable[[Sequence[Job]], list[Job]], jobs: Sequence[Job]) -> list[Job]:
    """`prepare(jobs)`; under torchrun the first process does it, for all."""
    if not TEAM:
        return prepare(jobs)
    from roadmap.distributed import agree

    chosen = [jobs.index(job) for job in prepare(jobs)] if LEADS else []
    return [jobs[number] for number in json.loads(agree("todo", json.dumps(chosen)))]


def check(specs: Sequence[RunSpec]) -> None:
    """Raise SpecError where a run's device, data or weights do not fit: before anything is trained or written."""
    alike = {}
    for spec in specs:
        fields = (spec.data, spec.budget, spec.recipe.batch_size, spec.accumulate, spec.device)
        alike[repr((*fields, spec.weights and spec.network))] = spec
    # There torch is imported, once for this and for all runs.
    with ProcessPoolExecutor(1, mp_context=context(), initializer=listen) as pool:
        try:
            list(pool.map(_check, alike.values()))
        except BrokenProcessPool as error:
            what = "checking the data ended its process; the system does that when memory runs out"
            raise SpecError(f"data.name={specs[0].data.name}: {what}") from error


def _check(spec: RunSpec) -> None:
    from roadmap import run

    run.check(spec)


def run_alone(job: Job) -> None:
    """One run in this process. Raises RunFailed if it fails or diverges, Stopped after a signal."""
    folder = record.run_folder(job.spec)
    content = None if job.spec.force or TEAM else record.finished(job.spec)
    if content is not None:
        say(f"{job.title}: finished before, {describe(content)}; force=true repeats it")
    else:
        from roadmap.run import run

        if LEADS and lock.is_held(folder):
            say(f"{job.title}: another process is at it; waiting for that")
        say(job.title)
        content = run(job.spec, job.command, wait=True)
        say(f"{job.title}: {describe(content)}")
    say(f"record: {folder / 'record.json'}")
    if content["status"] != record.COMPLETED:
        raise RunFailed(f"{job.title}: {content['status']}")


def run_as_job(job: Job, number: int) -> str:
    """One run of a sweep that another launcher placed on this machine; its status."""
    runs, started = int(os.environ.get(RUNS, "1")), float(os.environ.get(STARTED, time.time()))
    title = f"[{number + 1}/{runs}] {job.title}"
    while True:
        content = None if job.spec.force else record.finished(job.spec)
        if content is None:
            process = RunProcess(job, title)
            content = process.finish()
            if process.was_stopped and "SLURM_JOB_ID" in os.environ:
                # SLURM asks all processes of a job to stop and soon ends the job, which it may start anew: a job that
                # had ended by itself would count as done.
                time.sleep(KILL_WAIT)
        if content is not None:
            say(f"{title}: {describe(content)}; study {duration(time.time() - started)}")
            return str(content["status"])
        time.sleep(POLL_SECONDS)  # another study is at this run


def write_reports(folders: Sequence[Path], reports: Path) -> None:
    from roadmap import report

    for folder in folders:
        say(report.write(folder, reports / folder.name))
