"""The search of `+study=search` for the best combination of a roadmap's transforms, and its confirmation.

The race (`roadmap.analysis.racing`) evaluates candidates on held-out training images. Then the winner, both ends and
every network that is one change away from the winner are trained with fresh seeds on all training images, and evaluated
on the test set. Only these runs support claims, so that the choice of the winner does not bias them. All runs are in
the pool of finished runs: the same command repeats the search without training anything twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from roadmap.analysis.racing import Candidate, Job, Race, Space
from roadmap.config.choices import Design
from roadmap.config.designs import Layout, Member, overrides_of
from roadmap.config.roadmaps import Roadmap, load_roadmap
from roadmap.config.schema import RunSpec, SpecError
from roadmap.records.manifest import NETWORK_GROUPS, add_runs
from roadmap.records.record import COMPLETED, finished_record, study_folder
from roadmap.runtime.logs import logger
from roadmap.runtime.progress import format_duration
from roadmap.runtime.world import is_distributed
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.forecast import check_plan_device
from roadmap.sweep.gpu_sharing import place_runs
from roadmap.sweep.holdout import set_holdout
from roadmap.sweep.plan import Composer, plan_runs
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.preparation import runs_to_do
from roadmap.sweep.processes import process_context, unblock_signals
from roadmap.sweep.scheduler import run_locally

FIRST_FRESH_SEED = 100  # of the confirmation; the race uses seeds from 0
RACE = "race"  # suffix of the study with the runs of the race
NETWORK_PREFIXES = tuple(f"+{group}=" for group in NETWORK_GROUPS)
Key = TypeVar("Key")
TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h)")
SECONDS = {"s": 1, "min": 60, "h": 3600}


@dataclass
class Candidates:
    """The networks of a search: their runs, costs and labels."""

    base: PlannedRun  # of the command, without a network
    composer: Composer
    roadmap: Roadmap
    start: Candidate
    full: Candidate
    pool: ProcessPoolExecutor  # that counts costs, so that this process does not import torch
    max_macs: float | None = None
    macs_of: dict[Candidate, float | None] = field(default_factory=dict)  # None: the network is impossible

    @property
    def fresh_seeds(self) -> range:
        """Seeds of the confirmation; the race does not use them."""
        return range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + self.base.spec.search.confirm_seeds)

    def names(self, candidate: Candidate) -> list[str]:
        """Return the transforms of a candidate in the order of the roadmap."""
        return self.roadmap.sort(candidate)

    def label(self, candidate: Candidate) -> str:
        """Return the label of a candidate's network."""
        return self.roadmap.network_label(self.names(candidate))

    def run(self, candidate: Candidate, seed: int, holdout: int | None) -> PlannedRun:
        """Return the run of a candidate on held-out images, or without `holdout` on the test set."""
        study = self.base.spec.study + (f"-{RACE}" if holdout is not None else "")
        overrides = [*overrides_of(self.names(candidate), self.roadmap), *own_overrides(self.base), f"seed={seed}"]
        overrides += [] if holdout is None else [f"data.holdout={holdout}"]
        spec = self.composer.compose(overrides)
        spec.study, spec.design.name = study, Design.search if holdout is None else Design.grid
        return PlannedRun(spec, [*overrides, f"study={study}"], (), self.base.folders)

    def macs(self, candidate: Candidate) -> float | None:
        """Return the multiply-adds of one image, None if the network is impossible."""
        if candidate not in self.macs_of:
            self.macs_of[candidate] = self._count(candidate)
        return self.macs_of[candidate]

    def _count(self, candidate: Candidate) -> float | None:
        names = self.names(candidate)
        if self.roadmap.without_unmet_needs(names) != names:
            return None
        try:
            spec = self.run(candidate, 0, None).spec
            return self.pool.submit(_count_macs, spec).result()
        except SpecError:
            return None

    def is_possible(self, candidate: Candidate) -> bool:
        """Return whether the network can be built, and is within the bound on its multiply-adds."""
        macs = self.macs(candidate)
        return macs is not None and (self.max_macs is None or macs <= self.max_macs)


def own_overrides(run: PlannedRun) -> list[str]:
    """Return the overrides of the command without those of the search, its images, seeds and study."""
    dropped = ("data.holdout=", "study=", "search.", "design.", "seed=")
    return [override for override in run.overrides if not override.lstrip("+~").startswith(dropped)]


def _count_macs(spec: RunSpec) -> float:
    from roadmap.models.complexity import measure_cost

    return 1e9 * measure_cost(spec.network, spec.data.image_size).gmacs


def search(config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> None:
    """Search, confirm the result, and write the results.

    Raises SpecError before anything starts, Stopped after a signal, RunFailed if too many runs failed.
    """
    set_holdout(config)
    holdout = config.data.holdout
    runs, _ = plan_runs(config, loader, arguments)
    first = runs[0].spec
    check_plan_device(first.plan_device)
    _check(runs)
    budget = read_budget(first.search.budget)
    roadmap = load_roadmap(first.roadmap)
    start, full = (
        frozenset(roadmap.step(f"design.{name}", getattr(first.design, name) or getattr(roadmap.file, name)).transforms)
        for name in ("start", "full")
    )
    if not full - start or not start <= full:
        raise SpecError(f"design.full={first.design.full}: must contain the start and further transforms")
    with ProcessPoolExecutor(1, mp_context=process_context(), initializer=unblock_signals) as pool:
        composer = Composer(config, loader, roadmap)
        candidates = Candidates(runs[0], composer, roadmap, start, full, pool)
        candidates.max_macs = _bound(candidates, first)
        space = Space(tuple(roadmap.sort(full - start)), start, full, candidates.is_possible)
        logger.info(describe(space, candidates, budget, holdout, first))
        if first.plan:
            return
        race = run_race(space, candidates, budget, holdout)
        layout = confirmation(race.ranking()[0], space, candidates)
        confirm(layout, candidates, first)
    from roadmap.sweep.search_results import write_results

    write_results(race, layout, candidates, holdout)


def _check(runs: Sequence[PlannedRun]) -> None:
    spec = runs[0].spec
    if is_distributed():
        raise SpecError("+study=search: does not run under torchrun; set processes=N for several processes per run")
    if spec.logger:
        advice = f"pass its runs on later with: roadmap log_records {study_folder(spec)} logger=NAME"
        raise SpecError(f"logger: has no effect on a search; leave it out, and {advice}")
    if own := [override for override in runs[0].overrides if override.startswith(NETWORK_PREFIXES)]:
        raise SpecError(f"{own[0]}: the search chooses the networks itself; set design.start and design.full instead")
    if len(runs) > 1:
        raise SpecError("+study=search: takes no sweep; the search chooses networks and seeds itself")


def read_budget(value: Any) -> int | float:
    """Return `search.budget`: a number of runs, or (float) seconds for a text such as 30min or 2h.

    Raises SpecError for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = TIME.fullmatch(str(value))
    if match is None or float(match[1]) == 0:
        raise SpecError(f"search.budget={value}: must be a number of runs, or a time such as 90s, 30min or 2h")
    return float(match[1]) * SECONDS[match[2]]


def _bound(candidates: Candidates, spec: RunSpec) -> float:
    macs = [candidates.macs(end) for end in (candidates.start, candidates.full)]
    impossible = [end for end, count in zip((candidates.start, candidates.full), macs, strict=True) if count is None]
    if impossible:
        candidates.run(impossible[0], 0, None)  # raises the reason
        raise SpecError(f"design: the network {candidates.label(impossible[0])} is impossible")
    known = [count for count in macs if count is not None]
    if spec.search.max_macs is not None and spec.search.max_macs < known[0]:
        message = f"the start of the search has {known[0]:.4g}; give at least as many"
        raise SpecError(f"search.max_macs={spec.search.max_macs:g}: {message}")
    return max(known) if spec.search.max_macs is None else spec.search.max_macs


def describe(space: Space, candidates: Candidates, budget: int | float, holdout: int, spec: RunSpec) -> str:
    """Return what the search will do, and the budget."""
    amount = f"{budget} runs" if isinstance(budget, int) else format_duration(budget)
    ends = " to ".join(candidates.label(end) for end in (space.base, space.full))
    most, mmacs = (len(space.names) + 3) * spec.search.confirm_seeds, (candidates.max_macs or 0) / 1e6
    return (
        f"{spec.study}: {len(space.names)} transforms from {ends}, at most {mmacs:.4g} MMACs per image; race of "
        f"{amount} on {holdout:,} held-out images, then a confirmation of at most {most} runs on the test set"
    )


def run_race(space: Space, candidates: Candidates, budget: int | float, holdout: int) -> Race:
    """Return the finished race. Raises RunFailed if no run completed."""
    least = candidates.base.spec.search.min_images_per_second
    num_runs = budget if isinstance(budget, int) else _runs_in(budget, space, candidates, holdout)
    race = Race(space, num_runs, candidates.base.spec.search.seed)

    def evaluate(jobs: Sequence[Job]) -> dict[Job, float]:
        results: dict[Job, float] = {}
        for job, record in train({job: candidates.run(*job, holdout) for job in jobs}).items():
            if record["status"] == COMPLETED and (least is None or (record["images_per_second"] or 0) >= least):
                results[job] = record["top1"]
        logger.info(f"race: {race.num_runs} of {race.budget} runs")
        return results

    try:
        race.run(evaluate)
    except ValueError as error:
        raise RunFailed(f"{candidates.base.spec.study}: {error}; see the logs of the runs") from error
    return race


def _runs_in(seconds: float, space: Space, candidates: Candidates, holdout: int) -> int:
    """Return the number of runs that fit the time, from the durations of the two ends."""
    runs = {end: candidates.run(end, 0, holdout) for end in (space.base, space.full)}
    durations = [record["wall_seconds"] for record in train(runs).values()]
    if not durations:
        raise RunFailed(f"{candidates.base.spec.study}: no end of the search completed; see the logs of the runs")
    mean, parallel = sum(durations) / len(durations), place_runs(list(runs.values())).num_parallel
    num_runs = max(len(runs), int(seconds * parallel / mean))
    logger.info(f"search.budget: {num_runs} runs of about {format_duration(mean)}, {parallel} at once")
    return num_runs


def train(runs: dict[Key, PlannedRun]) -> dict[Key, dict[str, Any]]:
    """Train the runs that are not finished, and return the records of the finished ones."""
    planned = list(runs.values())
    add_runs([(run.spec, run.overrides) for run in planned], Layout())
    if left := runs_to_do(planned):
        run_locally(left)
    records = {key: finished_record(run.spec) for key, run in runs.items()}
    return {key: record for key, record in records.items() if record is not None}


def confirmation(winner: Candidate, space: Space, candidates: Candidates) -> Layout:
    """Return the networks of the confirmation: the base, the winner, its neighbours by one change, the last step."""
    roadmap, names = candidates.roadmap, candidates.names
    whole = names(winner)
    members = [Member(names(space.base), "base"), Member(whole, "nothing changed", names(space.base))]
    for name in space.names:
        if name in winner:
            rest = roadmap.without_unmet_needs([other for other in whole if other != name])
            left_out = [other for other in whole if other not in rest]
            label = f"without {_labels(left_out, roadmap)}"
        else:
            rest = roadmap.sort(roadmap.with_needs([*whole, name]))
            label = f"with {_labels([other for other in rest if other not in winner], roadmap)}"
        if candidates.is_possible(frozenset(rest)):
            members.append(Member(rest, label, whole))
    members.append(Member(names(space.full), "last step", whole))
    unique: dict[frozenset[str], Member] = {}
    for member in members:  # the winner may be an end, and an end may be a neighbour
        unique.setdefault(frozenset(member.transforms), member)
    return Layout(list(unique.values()))


def _labels(names: Sequence[str], roadmap: Roadmap) -> str:
    return " and ".join(roadmap.transforms[name].label for name in names)


def confirm(layout: Layout, candidates: Candidates, spec: RunSpec) -> None:
    """Train the networks of the confirmation with fresh seeds, and write the study's report."""
    from roadmap.sweep.sweeper import write_study_report

    networks = [frozenset(member.transforms) for member in layout.members]
    runs = [candidates.run(network, seed, None) for seed in candidates.fresh_seeds for network in networks]
    add_runs([(run.spec, run.overrides) for run in runs], layout)
    if left := runs_to_do(runs):
        logger.info(f"{spec.study}: confirmation, {len(runs)} runs, {len(runs) - len(left)} of them already finished")
        run_locally(left)
    if problem := write_study_report(runs):
        raise RunFailed(problem)
