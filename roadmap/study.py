"""A study: many runs, each in a process of its own, then the report.

Hydra's sweeper plugin for this project. It composes and checks every run before the first one starts, leaves out what
is finished or asked for twice, trains seed by seed along the road, and hands the runs to whatever launcher is
configured (hydra/launcher=joblib, submitit_slurm, ray, ...); without one it places them on this machine itself.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import sys
import types
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from roadmap import designs, forecast, lock, manifest, record, road
from roadmap.config import to_spec
from roadmap.data.catalogue import fetch
from roadmap.launchers import in_folder, launch
from roadmap.processes import Job, context, describe, listen, run_here
from roadmap.progress import LEADS, TEAM, say
from roadmap.spec import Design, DesignSpec, RunSpec, SpecError


class RunFailed(Exception):
    """A run, or some of a sweep, failed or diverged; its record says why."""


class Sweeper(HydraSweeper):
    """All combinations of the comma lists, as Hydra's basic sweeper, but planned and checked before anything starts."""

    __module__ = "hydra_plugins.roadmap"  # see register_sweeper

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}  # hydra.sweeper.params: what a study sweeps over

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.loader = config, hydra_context.config_loader
        task = functools.partial(in_folder, str(Path.cwd()), task_function)
        context: dict[str, Any] = {"hydra_context": hydra_context, "task_function": task}
        self.launcher = Plugins.instance().instantiate_launcher(config=config, **context)

    def sweep(self, arguments: list[str]) -> None:
        """Run everything and write the report. Raises RunFailed at the end if a run failed or diverged."""
        jobs = self.plan(arguments)
        specs = [job.spec for job in jobs]
        if specs[0].plan:
            if LEADS:
                say(forecast.tell(jobs))
            return
        todo = _team_agrees(_prepare, jobs)
        if LEADS:
            manifest.add([(job.spec, job.words) for job in jobs], self.layout)
        before = f", {len(jobs) - len(todo)} of them finished before (force=true repeats them)" if todo != jobs else ""
        if self.layout.orders:
            orders, steps = len(self.layout.orders), len(self.layout.orders[0])
            networks = len({record.config_hash(spec) for spec in specs})
            say(f"{orders} orders of {steps} steps (design.orders) take {networks} networks, {len(jobs)} runs")
        say(f"{specs[0].study}: {len(jobs)} runs below {Path(specs[0].out) / record.RUNS}{before}")
        lost: dict[Path, dict[str, Any]] = {}
        if todo and type(self.launcher).__name__ == "BasicLauncher":
            run_here(todo)
        elif todo:
            lost = launch(self.launcher, todo)
        if not LEADS:
            return
        write_report(specs[0])
        bad = []
        for spec in specs:
            folder = record.run_folder(spec)
            nothing = {"status": record.FAILED, "error": "left no record"}
            content = record.read(folder) or lost.get(folder, nothing)
            if content["status"] != record.COMPLETED:
                bad.append(f"{folder.name}: {describe(content)}")
        if bad:
            raise RunFailed("\n".join([f"{len(bad)} of {len(specs)} runs did not complete:", *bad]))

    def plan(self, arguments: list[str]) -> list[Job]:
        """Every run, each once, seed by seed along the road. Raises SpecError, and Hydra's errors, for the first that
        is impossible: then nothing has started."""
        params = [f"{key}={value}" for key, value in self.params.items()]
        parsed = OverridesParser.create(config_loader=self.loader).parse_overrides([*params, *arguments])
        self.layout = designs.layout(cast(DesignSpec, OmegaConf.to_object(self.config.design)))
        networks = [designs.words(member.transforms) for member in self.layout.members] or [[]]
        named = tuple(f"+{group}=" for group in manifest.NETWORK)
        own = next((word for word in [*params, *arguments] if word.startswith(named)), None)
        if self.layout.members and own is not None:
            design = self.config.design.name.value
            raise SpecError(
                f"{own}: design.name={design} chooses the networks itself; design.full=STEP gives it another"
            )
        unique: dict[Path, Job] = {}
        composed: dict[tuple[str, ...], RunSpec] = {}

        def add(words: list[str]) -> None:
            seeds = [word for word in words if re.fullmatch(r"seed=\d+", word)]
            others = tuple(word for word in words if word not in seeds)
            if len(seeds) != 1 or "${" in "".join(others) or others not in composed:
                composed[others] = to_spec(self.loader.load_sweep_config(self.config, words))
            spec = copy.deepcopy(composed[others])  # of other seeds nothing else is new: composing takes its time
            if seeds:
                spec.seed = int(seeds[0].removeprefix("seed="))
            unique.setdefault(record.run_folder(spec), Job(spec, words))

        for swept in BasicSweeper.split_arguments(parsed, None)[0]:
            for network in networks:
                add([*network, *swept])
            if self.config.reference is not None:
                others = [word for word in swept if not word.startswith(named)]
                add([*designs.reference(self.config.reference), *others])
        if not unique:
            raise HydraException("the sweep is empty: a glob(...) matched nothing")
        for name in ("study", "out", "reports"):
            several = sorted({getattr(job.spec, name) for job in unique.values()})
            if len(several) > 1:
                raise SpecError(f"{name}={','.join(several)}: a sweep has one; give several commands")
        station = road.order(list(road.transforms())).index
        jobs = _told_apart(list(unique.values()))
        return sorted(jobs, key=lambda job: (job.spec.seed, [station(name) for name in job.spec.transforms]))


def _told_apart(jobs: list[Job]) -> list[Job]:
    settings = [manifest.setting_of(job.words) for job in jobs]
    common = set(settings[0]).intersection(*settings)
    return [
        job._replace(setting=tuple(word for word in setting if word not in common))
        for job, setting in zip(jobs, settings, strict=True)
    ]


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
    todo = [job for job in jobs if job.spec.force or record.finished(job.spec) is None]
    for data in {repr(job.spec.data): job.spec.data for job in todo}.values():
        fetch(data)
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
    if job.spec.reference is not None:
        raise SpecError(
            f"reference={job.spec.reference}: goes with a study; alone it is +transform={job.spec.reference}"
        )
    if job.spec.design.name is not Design.grid:
        name = job.spec.design.name.value
        raise SpecError(f"design.name={name}: goes with a study, as +study={name}")
    if job.spec.plan:
        say(forecast.tell([job]))
        return
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
    if LEADS:
        manifest.add([(job.spec, job.words)], designs.Layout())
    say(f"record: {folder / 'record.json'}")
    if content["status"] != record.COMPLETED:
        raise RunFailed(f"{job.title}: {content['status']}")


def write_report(spec: RunSpec) -> None:
    from roadmap import report

    say(report.write(record.study_folder(spec), Path(spec.reports) / spec.study))
