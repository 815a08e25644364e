"""The search of `+study=search` for the best combination of a roadmap's transforms.

The race (`roadmap.analysis.racing`) evaluates candidates on held-out training images; the confirmation
(`roadmap.sweep.search_confirmation`) compares its winner with other networks on the test set. All runs are in the pool
of finished runs: the same command continues a stopped search, and repeats a finished one without training anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from roadmap.analysis.racing import Job, NoResultError, Race, Space, steps_to
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import RunSpec, SearchSpec, SpecError
from roadmap.config.validation import check_positive, require
from roadmap.records.manifest import NETWORK_GROUPS, check_study
from roadmap.records.record import COMPLETED, RUNS_FOLDER, study_folder
from roadmap.runtime.logs import logger
from roadmap.runtime.progress import format_duration
from roadmap.runtime.world import is_distributed
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.estimate import mean_duration
from roadmap.sweep.forecast import check_plan_device
from roadmap.sweep.gpu_sharing import place_runs
from roadmap.sweep.holdout import set_holdout
from roadmap.sweep.plan import Composer, plan_runs
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.processes import process_context, unblock_signals
from roadmap.sweep.search_candidates import Candidates, train
from roadmap.sweep.search_confirmation import (
    changes,
    found_roadmap,
    plan_confirmation,
    train_confirmation,
    write_reports,
)
from roadmap.sweep.search_results import save_results

NETWORK_PREFIXES = tuple(f"+{group}=" for group in NETWORK_GROUPS)
TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h)")
SECONDS = {"s": 1, "min": 60, "h": 3600}


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
        candidates = Candidates(runs[0], Composer(config, loader, roadmap), roadmap, start, full, pool)
        candidates.max_macs = _bound(candidates, first)
        space = Space(tuple(roadmap.sort(full - start)), start, full, candidates.is_possible)
        logger.info(describe(space, candidates, budget, holdout))
        if first.plan:
            return
        for study in (first.study, candidates.race_study, candidates.found_study):
            check_study(replace(first, study=study))  # before hours of training
        race = run_race(space, candidates, budget, holdout)
        winner = race.ranking()[0]
        order = steps_to(winner, race)
        layouts = [changes(winner, space, candidates), found_roadmap(order, space, candidates)]
        confirmation = plan_confirmation(layouts, candidates)
        train_confirmation(confirmation, first.study)
        save_results(race, order, candidates, holdout)
    write_reports(confirmation)


def _validate(search: SearchSpec) -> None:
    seeds = search.confirm_seeds
    require(seeds >= 1, "search.confirm_seeds", seeds, "must be at least 1; claims need about 10")
    require(search.seed >= 0, "search.seed", search.seed, "must not be negative")
    for name in ("max_macs", "min_images_per_second"):
        if (value := getattr(search, name)) is not None:
            check_positive(value, f"search.{name}")


def _check(runs: Sequence[PlannedRun]) -> None:
    spec = runs[0].spec
    _validate(spec.search)
    if spec.study == RUNS_FOLDER:
        raise SpecError(f"search.budget={spec.search.budget}: a search needs a study; add +study=search or study=NAME")
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
        candidates.run(impossible[0], 0, None, spec.study)  # raises the reason
        raise SpecError(f"design: the network {candidates.label(impossible[0])} is impossible")
    known = [count for count in macs if count is not None]
    if spec.search.max_macs is not None and spec.search.max_macs < known[0]:
        message = f"the start of the search has {known[0]:.4g}; give at least as many"
        raise SpecError(f"search.max_macs={spec.search.max_macs:g}: {message}")
    return max(known) if spec.search.max_macs is None else spec.search.max_macs


def describe(space: Space, candidates: Candidates, budget: int | float, holdout: int) -> str:
    """Return what the search will do; for a plan, also how long its runs take."""
    spec = candidates.base.spec
    amount = f"{budget} runs" if isinstance(budget, int) else format_duration(budget)
    ends = " to ".join(candidates.label(end) for end in (space.base, space.full))
    # The found network and both ends, one change for each transform, and at most one more step for each transform.
    most, mmacs = (2 * len(space.names) + 3) * spec.search.confirm_seeds, (candidates.max_macs or 0) / 1e6
    lines = [
        f"{spec.study}: {len(space.names)} transforms, from {ends}, at most {mmacs:.4g} MMACs per image",
        f"race: {amount} on {holdout:,} held-out training images",
        f"confirmation: at most {most} runs on the test set, with {spec.search.confirm_seeds} fresh seeds",
    ]
    if spec.plan:
        runs = [candidates.run(end, 0, holdout, spec.study) for end in (space.base, space.full)]
        mean, parallel = mean_duration(runs), place_runs(runs).num_parallel
        if mean is not None:
            times = [format_duration(count * mean / parallel) for count in (budget, most) if isinstance(count, int)]
            race_time = f"race about {times[0]}, " if isinstance(budget, int) else ""
            runs_text = f"runs of about {format_duration(mean)}, {parallel} at once"
            lines.append(f"time: {race_time}confirmation at most {times[-1]}; {runs_text}")
    return "\n".join(lines)


def run_race(space: Space, candidates: Candidates, budget: int | float, holdout: int) -> Race:
    """Return the finished race. Raises RunFailed if no run completed."""
    least = candidates.base.spec.search.min_images_per_second
    num_runs = budget if isinstance(budget, int) else _runs_in(budget, space, candidates, holdout)
    race = Race(space, num_runs, candidates.base.spec.search.seed)

    def evaluate(jobs: Sequence[Job]) -> dict[Job, float]:
        results: dict[Job, float] = {}
        runs = {job: candidates.run(*job, holdout, candidates.race_study) for job in jobs}
        for job, record in train(runs).items():
            if record["status"] == COMPLETED and (least is None or (record["images_per_second"] or 0) >= least):
                results[job] = record["top1"]
        logger.info(f"race: {race.num_runs} of {race.budget} runs")
        return results

    try:
        race.run(evaluate)
    except NoResultError as error:
        raise RunFailed(f"{candidates.base.spec.study}: {error}; see the logs of the runs") from error
    return race


def _runs_in(seconds: float, space: Space, candidates: Candidates, holdout: int) -> int:
    """Return the number of runs that fit the time, from the durations of the two ends."""
    runs = {end: candidates.run(end, 0, holdout, candidates.race_study) for end in (space.base, space.full)}
    durations = [record["wall_seconds"] for record in train(runs).values()]
    if not durations:
        raise RunFailed(f"{candidates.base.spec.study}: no end of the search completed; see the logs of the runs")
    mean, parallel = sum(durations) / len(durations), place_runs(list(runs.values())).num_parallel
    num_runs = max(len(runs), int(seconds * parallel / mean))
    logger.info(f"search.budget: {num_runs} runs of about {format_duration(mean)}, {parallel} at once")
    return num_runs
