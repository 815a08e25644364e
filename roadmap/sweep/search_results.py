"""What a search has found (`+study=search`), as `roadmap.report.search` reads it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from roadmap.analysis.racing import Candidate, Model, Race
from roadmap.records.record import study_folder
from roadmap.report.search import FOUND_PATH, RESULT_NAME
from roadmap.runtime.files import write_atomically
from roadmap.sweep.search_candidates import Candidates, own_overrides


def save_results(race: Race, order: Sequence[Sequence[str]], candidates: Candidates, holdout: int) -> None:
    """Write the candidates of the race and the found roadmap to the study's folder."""
    spec = candidates.base.spec
    content = {
        "data": spec.data.name,
        "holdout": holdout,
        "num_runs": race.num_runs,
        "settings": candidates.settings(holdout),
        "max_macs": candidates.max_macs,
        "min_images_per_second": spec.search.min_images_per_second,
        "start": candidates.names(race.space.base),
        "full": candidates.names(race.space.full),
        "changes": _changes(race, candidates),
        "roadmap": _roadmap_text(order, candidates),
        "command": _command(candidates),
        "candidates": list(_lines(race, candidates)),
    }
    write_atomically(
        study_folder(spec) / RESULT_NAME, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    )


def _lines(race: Race, candidates: Candidates) -> list[dict[str, Any]]:
    """Return an entry for each candidate: the winner first, then those in the race, the best estimate first."""
    known = race.ranking() + [candidate for candidate in race.results if candidate in race.dropped]
    estimates = Model(race.space, race.results).estimates(known)
    in_race = [candidate not in race.dropped for candidate in known]
    has_failed = [candidate in race.failed for candidate in known]
    return [
        {
            "transforms": candidates.names(known[i]),
            "label": candidates.label(known[i]),
            "mmacs": (candidates.macs(known[i]) or 0) / 1e6,
            "top1": list(race.results[known[i]].values()),  # percent, by seed
            "estimate": float(estimates[i]),
            "in_race": in_race[i],
            "failed": has_failed[i],
        }
        for i in sorted(range(len(known)), key=lambda i: (not in_race[i], -estimates[i]))
    ]


def _changes(race: Race, candidates: Candidates) -> dict[str, list[str] | None]:
    """Return for each transform the network that is one change away from the winner, None if it is not possible."""
    winner, space = race.ranking()[0], race.space
    others = {name: space.change(winner, name) for name in space.names}
    return {name: candidates.names(other) if space.is_possible(other) else None for name, other in others.items()}


def _command(candidates: Candidates) -> str:
    """Return the command that trains every step of the found roadmap."""
    spec = candidates.base.spec
    folder = (Path(spec.reports) / spec.study / FOUND_PATH).parent.parent
    own = [
        word.replace("--config-dir=", "hydra.searchpath=[") + "]" * word.startswith("--config-dir=")
        for word in candidates.base.folders
    ]
    words = ["python", "run_roadmap.py", f"--config-dir={folder}", *own, f"roadmap={FOUND_PATH.stem}", "+study=roadmap"]
    words += [f"study={candidates.found_study}-steps", *own_overrides(candidates.base)]
    if any(word.startswith("+preset=") for word in words):  # it may set fields of the search
        words += ["data.holdout=null", "search.budget=null"]
    return shlex.join(words)


def _roadmap_text(order: Sequence[Sequence[str]], candidates: Candidates) -> str:
    """Return the content of conf/roadmap/NAME.yaml for the found order."""
    steps: list[Any] = [{"baseline": []}]
    before: Candidate = frozenset()
    for step in candidates.roadmap.file.steps.values():  # the steps up to the start of the search
        if set(step.transforms) <= candidates.start and set(step.transforms) > before:
            steps.append({step.name: list(step.own)} if list(step.own) != [step.name] else step.name)
            before = frozenset(step.transforms)
    steps += [names[0] if len(names) == 1 else {names[-1]: list(names)} for names in order]
    spec = candidates.base.spec
    content = {"title": f"Found on {spec.data.name}", "base": spec.base.name, "steps": steps}
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
