"""The confirmation of a search (`+study=search`): its networks, trained with fresh seeds on all training images.

Only these runs support claims: they are evaluated on the test set, which the race has not seen, so that the choice of
the best candidate does not bias them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from roadmap.analysis.racing import Candidate, Space
from roadmap.config.choices import Design
from roadmap.config.designs import Layout, Member
from roadmap.records.manifest import add_runs
from roadmap.records.record import run_name
from roadmap.report.search import ENDS, FOUND
from roadmap.runtime.logs import logger
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.preparation import runs_to_do
from roadmap.sweep.scheduler import run_locally
from roadmap.sweep.search_candidates import Candidates
from roadmap.sweep.sweeper import raise_for_failures, write_study_report

Order = Sequence[Sequence[str]]  # the transforms of each step


def changes(winner: Candidate, space: Space, candidates: Candidates) -> Layout:
    """Return the found network, and what is compared with it: both ends and every network that is one change away."""
    names = candidates.names
    whole = names(winner)
    members = [Member(whole, FOUND), Member(names(space.base), ENDS["start"], whole)]
    members.append(Member(names(space.full), ENDS["full"], whole))
    for name in space.names:
        other = space.change(winner, name)
        word, changed = ("without", winner - other) if name in winner else ("with", other - winner)
        if space.is_possible(other):
            members.append(Member(names(other), f"{word} {candidates.roadmap.joined_labels(names(changed))}", whole))
    unique: dict[frozenset[str], Member] = {}
    for member in members:  # the found network may be an end, and an end may be one change away from it
        unique.setdefault(frozenset(member.transforms), member)
    return Layout(list(unique.values()))


def found_roadmap(order: Order, space: Space, candidates: Candidates) -> Layout:
    """Return the start of the search, the steps to the found network, and the last step of the roadmap searched."""
    names = candidates.names
    current: Candidate = space.base
    members = [Member(names(current), candidates.label(current))]
    for step in order:
        before, current = current, current | set(step)
        members.append(Member(names(current), candidates.roadmap.joined_labels(step), names(before)))
    if space.full not in {frozenset(member.transforms) for member in members}:
        label = f"last step: {candidates.label(space.full)}"
        members.append(Member(names(space.full), label, names(current)))
    return Layout(members)


def plan_confirmation(layouts: Sequence[Layout], candidates: Candidates) -> list[PlannedRun]:
    """Return the runs of both studies; add them to the studies, in the place of those of an earlier confirmation."""
    studies, runs = (candidates.base.spec.study, candidates.found_study), list[PlannedRun]()
    for layout, name, design in zip(layouts, studies, (Design.search, Design.search_found), strict=True):
        own = [
            candidates.run(frozenset(member.transforms), seed, None, name, design)
            for seed in candidates.fresh_seeds
            for member in layout.members
        ]
        add_runs([(run.spec, run.overrides) for run in own], layout, replace=True)
        runs += own
    return runs


def train_confirmation(runs: Sequence[PlannedRun], study: str) -> dict[Path, str]:
    """Train the runs that are not finished. A network that both studies contain is trained once.

    With failures=stop, return the state of each unfinished run by folder.
    """
    unique = {run_name(run.spec): run for run in runs}
    left = runs_to_do(list(unique.values()))
    if not left:
        return {}
    logger.info(f"{study}: confirmation, {len(left)} runs to train on all training images with fresh seeds")
    return run_locally(left)


def write_reports(runs: Sequence[PlannedRun]) -> list[str]:
    """Write the reports of both studies, that with the conclusions last; return why a report could not be written."""
    by_study: dict[str, list[PlannedRun]] = {}
    for run in runs:
        by_study.setdefault(run.spec.study, []).append(run)
    return [problem for own in reversed(by_study.values()) if (problem := write_study_report(own)) is not None]


def check_completed(runs: Sequence[PlannedRun], not_ended: dict[Path, str], problems: Sequence[str]) -> None:
    """Raise RunFailed, with a line for each, if there are `problems` or if runs have failed or diverged."""
    unique = {run_name(run.spec): run.spec for run in runs}
    try:
        raise_for_failures(list(unique.values()), {}, not_ended)
    except RunFailed as failure:
        problems = [str(failure), *problems]
    if problems:
        raise RunFailed("\n".join(problems))
