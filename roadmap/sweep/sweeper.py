"""A study: many runs, each in a process of its own, then the report.

Hydra's sweeper plugin for this project. It composes and checks every run before the first one starts, leaves out what
is finished or asked for twice, trains seed by seed along the road, and hands the runs to whatever launcher is
configured (hydra/launcher=joblib, submitit_slurm, ray, ...); without one it places them on this machine itself.
"""

from __future__ import annotations

import copy
import functools
import re
import sys
import types
from pathlib import Path
from typing import Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from roadmap.config.compose import to_spec
from roadmap.config.designs import overrides_of, reference_overrides, study_layout
from roadmap.config.schema import DesignSpec, RunSpec, SpecError
from roadmap.config.steps import all_transforms, sort_transforms
from roadmap.records.manifest import NETWORK_GROUPS, add_runs, setting_overrides
from roadmap.records.record import (
    COMPLETED,
    FAILED,
    RUNS_FOLDER,
    config_hash,
    read_record,
    run_folder,
    study_folder,
)
from roadmap.runtime.progress import LEADS, say
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.estimate import estimate_runtime
from roadmap.sweep.launchers import in_folder, launch
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.preparation import rank_zero_chooses, runs_to_do
from roadmap.sweep.run_process import summarize_record
from roadmap.sweep.scheduler import run_locally


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
                say(estimate_runtime(jobs))
            return
        todo = rank_zero_chooses(runs_to_do, jobs)
        if LEADS:
            add_runs([(job.spec, job.words) for job in jobs], self.layout)
        before = f", {len(jobs) - len(todo)} of them finished before (force=true repeats them)" if todo != jobs else ""
        if self.layout.orders:
            orders, steps = len(self.layout.orders), len(self.layout.orders[0])
            networks = len({config_hash(spec) for spec in specs})
            say(f"{orders} orders of {steps} steps (design.orders) take {networks} networks, {len(jobs)} runs")
        say(f"{specs[0].study}: {len(jobs)} runs below {Path(specs[0].out) / RUNS_FOLDER}{before}")
        lost: dict[Path, dict[str, Any]] = {}
        if todo and type(self.launcher).__name__ == "BasicLauncher":
            run_locally(todo)
        elif todo:
            lost = launch(self.launcher, todo)
        if not LEADS:
            return
        write_report(specs[0])
        bad = []
        for spec in specs:
            folder = run_folder(spec)
            nothing = {"status": FAILED, "error": "left no record"}
            content = read_record(folder) or lost.get(folder, nothing)
            if content["status"] != COMPLETED:
                bad.append(f"{folder.name}: {summarize_record(content)}")
        if bad:
            raise RunFailed("\n".join([f"{len(bad)} of {len(specs)} runs did not complete:", *bad]))

    def plan(self, arguments: list[str]) -> list[PlannedRun]:
        """Every run, each once, seed by seed along the road. Raises SpecError, and Hydra's errors, for the first that
        is impossible: then nothing has started."""
        params = [f"{key}={value}" for key, value in self.params.items()]
        parsed = OverridesParser.create(config_loader=self.loader).parse_overrides([*params, *arguments])
        self.layout = study_layout(cast(DesignSpec, OmegaConf.to_object(self.config.design)))
        networks = [overrides_of(member.transforms) for member in self.layout.members] or [[]]
        named = tuple(f"+{group}=" for group in NETWORK_GROUPS)
        own = next((word for word in [*params, *arguments] if word.startswith(named)), None)
        if self.layout.members and own is not None:
            design = self.config.design.name.value
            raise SpecError(
                f"{own}: design.name={design} chooses the networks itself; design.full=STEP gives it another"
            )
        unique: dict[Path, PlannedRun] = {}
        composed: dict[tuple[str, ...], RunSpec] = {}

        def add(words: list[str]) -> None:
            seeds = [word for word in words if re.fullmatch(r"seed=\d+", word)]
            others = tuple(word for word in words if word not in seeds)
            if len(seeds) != 1 or "${" in "".join(others) or others not in composed:
                composed[others] = to_spec(self.loader.load_sweep_config(self.config, words))
            spec = copy.deepcopy(composed[others])  # of other seeds nothing else is new: composing takes its time
            if seeds:
                spec.seed = int(seeds[0].removeprefix("seed="))
            unique.setdefault(run_folder(spec), PlannedRun(spec, words))

        for swept in BasicSweeper.split_arguments(parsed, None)[0]:
            for network in networks:
                add([*network, *swept])
            if self.config.reference is not None:
                others = [word for word in swept if not word.startswith(named)]
                add([*reference_overrides(self.config.reference), *others])
        if not unique:
            raise HydraException("the sweep is empty: a glob(...) matched nothing")
        for name in ("study", "out", "reports"):
            several = sorted({getattr(job.spec, name) for job in unique.values()})
            if len(several) > 1:
                raise SpecError(f"{name}={','.join(several)}: a sweep has one; give several commands")
        station = sort_transforms(list(all_transforms())).index
        jobs = _told_apart(list(unique.values()))
        return sorted(jobs, key=lambda job: (job.spec.seed, [station(name) for name in job.spec.transforms]))


def _told_apart(jobs: list[PlannedRun]) -> list[PlannedRun]:
    settings = [setting_overrides(job.words) for job in jobs]
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


def write_report(spec: RunSpec) -> None:
    from roadmap.report.writer import write_report

    say(write_report(study_folder(spec), Path(spec.reports) / spec.study))
