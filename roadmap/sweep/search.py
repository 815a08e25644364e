"""The search of `+study=search` for the best combination of a roadmap's transforms.

The race (`roadmap.analysis.racing`) evaluates candidates on held-out training images; the confirmation
(`roadmap.sweep.search_confirmation`) compares its winner with other networks on the test set. All runs are in the pool
of finished runs: the same command continues a stopped search, and repeats a finished one without training anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from roadmap.analysis.racing import Candidate, Job, NoResultError, Race, Space, round_size, steps_to
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import RunSpec, SpecError
from roadmap.config.search_budget import read_budget
from roadmap.records.record import COMPLETED, run_name, study_folder
from roadmap.runtime.files import write_atomically
from roadmap.runtime.logs import logger
from roadmap.runtime.progress import format_duration
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.estimate import mean_duration
from roadmap.sweep.forecast import check_plan_device
from roadmap.sweep.gpu_sharing import place_runs
from roadmap.sweep.holdout import set_holdout
from roadmap.sweep.plan import Composer, plan_runs
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.preparation import runs_to_do
from roadmap.sweep.processes import ignore_interrupts, process_context
from roadmap.sweep.search_candidates import Candidates
from roadmap.sweep.search_checks import check_command, check_design, check_settings, check_studies, ends_of
from roadmap.sweep.search_confirmation import (
    changes,
    check_completed,
    found_roadmap,
    plan_confirmation,
    train_confirmation,
    write_reports,
)
from roadmap.sweep.search_results import save_results

SIZE_NAME = "race.json"  # in the folder of the race's study: its number of runs and the size of its rounds
MOST_PARALLEL = 64  # more runs at once are not considered


def search(config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> None:
    """Search, confirm the result, and write the results.

    Raises SpecError before anything starts, Stopped after a signal, and RunFailed if a run of the confirmation failed,
    all runs of a round of the race, or with failures=stop any run.
    """
    check_design(config)
    set_holdout(config)
    holdout = config.data.holdout
    runs, _ = plan_runs(config, loader, arguments)
    first = runs[0].spec
    check_plan_device(first.plan_device)
    check_command(runs, arguments)
    check_studies(first)
    budget = read_budget(first.search.budget)
    roadmap = load_roadmap(first.roadmap)
    start, full = ends_of(first, roadmap)
    with ProcessPoolExecutor(1, mp_context=process_context(), initializer=ignore_interrupts) as pool:
        candidates = Candidates(runs[0], Composer(config, loader, roadmap), roadmap, start, full, pool)
        candidates.max_macs = _bound(candidates, first)
        names = tuple(roadmap.sort(full - start))
        space = Space(names, start, full, candidates.is_possible, roadmap.needs)
        if not space.first_candidates():
            raise SpecError(_all_above_the_bound(space, candidates))
        check_settings(first, candidates.settings(holdout))
        logger.info(describe(space, candidates, budget, holdout))
        if first.plan:
            return
        race = run_race(space, candidates, budget, holdout)
        winner = race.ranking()[0]
        order = steps_to(winner, race)
        layouts = [changes(winner, space, candidates), found_roadmap(order, space, candidates)]
        confirmation = plan_confirmation(layouts, candidates)
        save_results(race, order, candidates, holdout)
    not_ended = train_confirmation(confirmation, first.study)
    problems = write_reports(confirmation)
    check_completed(confirmation, not_ended, problems)


def _bound(candidates: Candidates, spec: RunSpec) -> float:
    macs = []
    for end in (candidates.start, candidates.full):
        if (count := candidates.macs(end)) is None:
            candidates.run(end, 0, None, spec.study)  # raises the reason
            raise SpecError(f"design: the network {candidates.label(end)} cannot be built")
        macs.append(count)
    return max(macs) if spec.search.max_macs is None else spec.search.max_macs


def _all_above_the_bound(space: Space, candidates: Candidates) -> str:
    bound, candidates.max_macs = candidates.max_macs, None
    least = min(candidates.macs(candidate) or 0 for candidate in space.first_candidates())
    message = f"the cheapest of the networks that the search trains first has {least:.0f}; give at least as many"
    return f"search.max_macs={bound:g}: {message}"


def describe(space: Space, candidates: Candidates, budget: int | float, holdout: int) -> str:
    """Return what the search will do; for a plan, also how long its runs take."""
    spec = candidates.base.spec
    seeds, num_first = spec.search.confirm_seeds, len(space.first_candidates())
    amount = f"{budget} runs" if isinstance(budget, int) else f"as many runs as take {format_duration(budget)}"
    ends = " to ".join(candidates.label(end) for end in (space.base, space.full))
    # The found network and both ends, one change for each transform, and at most one more step for each transform.
    most, mmacs = (2 * len(space.names) + 3) * seeds, (candidates.max_macs or 0) / 1e6
    lines = [
        f"{spec.study}: {len(space.names)} transforms, from {ends}, at most {mmacs:.4g} MMACs per image",
        f"race: {amount} on {holdout:,} held-out training images",
        f"confirmation: at most {most} runs on the test set, with {seeds} fresh seeds",
    ]
    if isinstance(budget, int) and budget < num_first:
        lines.append(
            f"note: the search begins with {num_first} networks; search.budget={budget} does not train all of them"
        )
    family = len(space.names) + 2
    if (enough := next(n for n in range(1, 100) if 2 / 2**n * family <= 0.05)) > seeds:
        lines.append(
            f"note: {seeds} seeds cannot resolve all of {family} comparisons; search.confirm_seeds={enough} can"
        )
    if spec.plan and spec.plan_device in ("auto", "here"):
        runs = [candidates.run(end, 0, holdout, spec.study) for end in (space.base, space.full)]
        mean, parallel = mean_duration(runs), _num_parallel(runs)
        if mean is not None:
            race_time = ""
            if isinstance(budget, int):
                at_once = min(parallel, round_size(budget, num_first, parallel))
                race_time = f"race about {format_duration(budget * mean / at_once)}, "
            confirmation = f"confirmation at most about {format_duration(most * mean / parallel)}"
            runs_text = f"runs of about {format_duration(mean)}, {parallel} at once"
            lines.append(f"time: {race_time}{confirmation}; {runs_text}")
    return "\n".join(lines)


def run_race(space: Space, candidates: Candidates, budget: int | float, holdout: int) -> Race:
    """Return the finished race. Raises RunFailed if all runs of a round failed, or no candidate has a result."""
    spec = candidates.base.spec
    num_runs, batch = _size_of_race(space, candidates, budget, holdout)
    race = Race(space, num_runs, spec.search.seed, batch)
    least = spec.search.min_images_per_second

    def evaluate(jobs: Sequence[Job]) -> dict[Job, float]:
        runs = {job: candidates.run(*job, holdout, candidates.race_study) for job in jobs}
        results: dict[Job, float] = {}
        for job, record in candidates.train(runs).items():
            if least is not None and (record.get("images_per_second") or 0) < least:
                candidates.slow.add(job[0])
            elif record["status"] == COMPLETED:
                results[job] = record["top1"]
        logger.info(f"race: {race.num_runs} of {race.budget} runs")
        return results

    try:
        race.run(evaluate)
    except NoResultError as error:
        reason = "all failed, diverged, or are slower than search.min_images_per_second; see the logs of the runs"
        raise RunFailed(f"{spec.study}: {error}: {reason}") from error
    if not race.ranking():
        raise RunFailed(f"{spec.study}: no candidate is left; see the logs of the runs")
    return race


def _num_parallel(runs: Sequence[PlannedRun]) -> int:
    """Return how many runs such as these train at once in a round with enough of them."""
    return place_runs(([*runs] * MOST_PARALLEL)[:MOST_PARALLEL]).num_parallel


def _size_of_race(space: Space, candidates: Candidates, budget: int | float, holdout: int) -> tuple[int, int]:
    """Return the runs of the race and of each round: those of its first start, so that it continues as it began."""
    spec = candidates.base.spec
    path = study_folder(spec).with_name(candidates.race_study) / SIZE_NAME
    first: list[Candidate] = space.first_candidates()
    ends = [end for end in (space.base, space.full) if end in first] or first[:2]
    runs = {end: candidates.run(end, 0, holdout, candidates.race_study) for end in ends}
    key = " ".join([f"budget={spec.search.budget}", *(run_name(run.spec) for run in runs.values())])
    sizes: dict[str, Any] = {}
    if path.is_file():
        try:
            sizes = json.loads(path.read_text(encoding="utf-8"))
            return int(sizes[key]["budget"]), int(sizes[key]["batch"])
        except (ValueError, TypeError, LookupError):
            sizes = sizes if isinstance(sizes, dict) else {}
    runs_to_do(list(runs.values()))  # raises SpecError before anything is written
    parallel = _num_parallel(list(runs.values()))
    if isinstance(budget, float):
        durations = [record["wall_seconds"] for record in candidates.train(runs).values()]
        if not durations:
            raise RunFailed(f"{spec.study}: no end of the search completed; see the logs of the runs")
        mean, seconds = sum(durations) / len(durations), budget
        budget = int(seconds * parallel / mean)
        at_once = min(parallel, round_size(budget, len(first), parallel))
        budget = max(len(runs), int(seconds * at_once / mean))
        logger.info(f"search.budget: {budget} runs of about {format_duration(mean)}, {at_once} at once")
    batch = round_size(budget, len(first), parallel)
    sizes[key] = {"budget": budget, "batch": batch}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(sizes, indent=1) + "\n").encode())
    return budget, batch
