"""A study: many runs, each in a process of its own, then the report.

Hydra's sweeper plugin for this project. It composes and checks every run before the first one starts, leaves out what
is finished or asked for twice, trains seed by seed along the road, and hands the runs to whatever launcher is
configured (hydra/launcher=joblib, submitit_slurm, ray, ...); without one it places them on this machine itself.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import sys
import time
import types
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from roadmap import record, road
from roadmap.config import to_spec
from roadmap.data.catalogue import fetch
from roadmap.progress import duration, say
from roadmap.spec import Device, RunSpec, SpecError

RUNS, STARTED = "ROADMAP_RUNS", "ROADMAP_STARTED"  # how a job knows of the sweep that it belongs to


class RunFailed(Exception):
    """A run, or some of a sweep, failed or diverged; its record says why."""


class Sweeper(HydraSweeper):
    """All combinations of the comma lists, as Hydra's basic sweeper, but planned and checked before anything starts."""

    __module__ = "hydra_plugins.roadmap"  # see register_sweeper

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}  # hydra.sweeper.params: what a study sweeps over

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.loader = config, hydra_context.config_loader
        context: dict[str, Any] = {"hydra_context": hydra_context, "task_function": task_function}
        self.launcher = Plugins.instance().instantiate_launcher(config=config, **context)

    def sweep(self, arguments: list[str]) -> None:
        """Run everything and write the report. Raises RunFailed at the end if a run failed or diverged."""
        jobs = self.plan(arguments)
        specs = [job.spec for job in jobs]
        for data in {repr(spec.data): spec.data for spec in specs}.values():
            fetch(data)
        todo = [job for job in jobs if job.spec.force or record.finished(job.spec) is None]
        if todo:
            check([job.spec for job in todo])
        folders = sorted({record.study_folder(spec) for spec in specs})
        before = f", {len(jobs) - len(todo)} of them finished before (force=true repeats them)" if todo != jobs else ""
        say(f"{specs[0].study}: {len(jobs)} runs below {', '.join(map(str, folders))}{before}")
        if todo and type(self.launcher).__name__ == "BasicLauncher":
            run_here(todo)
        elif todo:
            env = {RUNS: len(todo), STARTED: time.time()}
            extra = [f"++hydra.job.env_set.{key}='{value}'" for key, value in env.items()]
            for result in self.launcher.launch([[*job.words, *extra] for job in todo], initial_job_idx=0):
                _ = result.return_value  # raises what the task function raised: only our own faults
        write_reports(folders, Path(specs[0].reports))
        bad = []
        for spec in specs:
            content = record.read(record.run_folder(spec)) or {"status": record.FAILED, "error": "left no record"}
            if content["status"] != record.COMPLETED:
                bad.append(f"{record.run_folder(spec).name}: {describe(content)}")
        if bad:
            raise RunFailed("\n".join([f"{len(bad)} of {len(specs)} runs did not complete:", *bad]))

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


def register_sweeper() -> None:
    """Make the sweeper known to Hydra, which takes plugins from modules below `hydra_plugins` alone."""
    plugins = Plugins.instance()
    alias = types.ModuleType(Sweeper.__module__)
    vars(alias)["Sweeper"] = Sweeper
    sys.modules.setdefault("hydra_plugins", types.ModuleType("hydra_plugins"))
    sys.modules[alias.__name__] = alias
    plugins.register(Sweeper)


class Job(NamedTuple):
    spec: RunSpec
    words: list[str]  # the overrides that make it

    @property
    def title(self) -> str:
        return f"{road.name_of(list(self.spec.transforms))} seed={self.spec.seed}"

    @property
    def command(self) -> str:
        words = [word.replace("+study=named_", "study=") for word in self.words]  # see config.name_study
        return shlex.join(["python", "run_roadmap.py", *words])


def check(specs: Sequence[RunSpec]) -> None:
    """Raise SpecError where a run's device, data or weights do not fit: before anything is trained or written."""
    alike = {repr((s.data, s.budget, s.recipe.batch_size, s.device, s.weights and s.network)): s for s in specs}
    with _context().Pool(1) as pool:  # there torch is imported, once for this and for all runs
        pool.map(_check, alike.values())


def _check(spec: RunSpec) -> None:
    from roadmap import train

    train.check(spec)


def run_alone(job: Job) -> None:
    """One run in this process. Raises RunFailed if it fails or diverges."""
    folder = record.run_folder(job.spec)
    content = None if job.spec.force else record.finished(job.spec)
    if content is not None:
        say(f"{job.title}: finished before, {describe(content)}; force=true repeats it")
    else:
        from roadmap import train

        fetch(job.spec.data)
        say(job.title)
        content = train.run(job.spec, job.command)
        say(f"{job.title}: {describe(content)}")
    say(f"record: {folder / 'record.json'}")
    if content["status"] != record.COMPLETED:
        raise RunFailed(f"{job.title}: {content['status']}")


def run_here(jobs: Sequence[Job]) -> None:
    """All runs on this machine, each in a process of its own, as many at once as serves."""
    at_once, threads = placement(jobs)
    say(f"{at_once} at once{f', {threads} CPU threads each' if threads else ''} (parallel=N for another number)")
    started, waiting, done = time.time(), list(enumerate(jobs, start=1)), 0
    running: dict[Any, RunProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, job = waiting.pop(0)
                process = RunProcess(job, f"[{number}/{len(jobs)}] {job.title}", threads)
                running[process.sentinel] = process
            for sentinel in wait(list(running)):
                process = running.pop(sentinel)
                content = process.finish()
                done += 1
                elapsed = time.time() - started
                left = duration(elapsed / done * (len(jobs) - done))
                say(f"{process.title}: {describe(content)}; {done} done in {duration(elapsed)}, about {left} left")
    finally:
        for process in running.values():
            process.stop()


def run_as_job(job: Job, number: int) -> str:
    """One run of a sweep that another launcher placed on this machine; its status."""
    runs, started = int(os.environ.get(RUNS, "1")), float(os.environ.get(STARTED, time.time()))
    content = None if job.spec.force else record.finished(job.spec)
    if content is None:
        process = RunProcess(job, f"[{number + 1}/{runs}] {job.title}", None)
        content = process.finish()
        say(f"{process.title}: {describe(content)}; study {duration(time.time() - started)}")
    return str(content["status"])


def placement(jobs: Sequence[Job]) -> tuple[int, int | None]:
    """How many runs at once, and with how many CPU threads each (None: as many as PyTorch takes).

    Networks for small images gain more from processes than from threads: on two cores two processes of one thread
    train 1.2 to 1.5 times as many images/s as one of two (`benchmarks/cpu.py`). An accelerator takes one run at a time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = jobs[0].spec.parallel
    if asked is None and not all(on_cpu(job.spec.device) and job.spec.data.small_images for job in jobs):
        return 1, None
    at_once = min(asked or cores, len(jobs))
    return at_once, max(1, cores // at_once)


def on_cpu(device: Device) -> bool:
    """Whether a run would compute on the CPU; only `auto` needs torch to tell."""
    if device is not Device.auto:
        return device is Device.cpu
    import torch

    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def describe(content: dict[str, Any]) -> str:
    """A record in a few words."""
    if content["status"] != record.COMPLETED:
        return f"{content['status']} ({content['error']})"
    rate = content["images_per_second"]
    return f"top-1 {content['top1']:.2f} %, {rate:,.0f} images/s, {content['wall_seconds']:.0f} s"


class RunProcess:
    """One run in a process of its own: whatever happens there ends neither this process nor the other runs."""

    def __init__(self, job: Job, title: str, threads: int | None) -> None:
        self.job, self.title = job, title
        self.folder = record.run_folder(job.spec)
        self.earlier = self._written()
        self.process = _context().Process(target=_child, args=(job, title, threads), name=self.folder.name)
        self.process.start()
        say(title)

    @property
    def sentinel(self) -> int:
        return int(self.process.sentinel)

    def finish(self) -> dict[str, Any]:
        """Wait for the run; its record, or one that says how its process died."""
        try:
            self.process.join()
        except BaseException:
            self.stop()
            raise
        content = record.read(self.folder)
        if content is None or self._written() == self.earlier:
            code = self.process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
            content = _failure(self.job, f"the process of the run {how}")
        return content

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()

    def _written(self) -> int | None:
        path = self.folder / "record.json"
        return path.stat().st_mtime_ns if path.exists() else None


def _context() -> Any:
    """A server process that has imported torch once and forks a fresh process for every run; where forking is not safe
    (macOS) or not there (Windows), a new interpreter for every run."""
    method = "forkserver" if sys.platform == "linux" else "spawn"
    multiprocessing.set_start_method(method, force=True)  # joblib's workers name one that only they know
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["roadmap.train"])
    return context


def _child(job: Job, title: str, threads: int | None) -> None:
    import torch

    from roadmap import train

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        train.run(job.spec, job.command, title)
    except SpecError as error:  # known only now, as a batch larger than the data: the sweep goes on without it
        _failure(job, str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _failure(job: Job, reason: str) -> dict[str, Any]:
    """Write and return the record of a run that could not write its own."""
    content = record.start(job.spec, job.command) | {"error": reason, "top1": None, "curve": []}
    record.write(record.run_folder(job.spec), content)
    return content


def write_reports(folders: Sequence[Path], reports: Path) -> None:
    from roadmap import report

    for folder in folders:
        say(report.write(folder, reports / folder.name))
