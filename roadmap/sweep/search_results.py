"""What a search has found (`+study=search`): its candidates, its roadmap, and what the confirmation says."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from roadmap.analysis.racing import Candidate, Model, Race
from roadmap.analysis.statistics import GAIN, LOSS
from roadmap.analysis.table import Study, read_study
from roadmap.config.designs import Layout
from roadmap.records.record import study_folder
from roadmap.runtime.files import write_atomically
from roadmap.runtime.logs import logger
from roadmap.sweep.search import Candidates, own_overrides

CANDIDATES_NAME, ROADMAP_NAME = "candidates.csv", "found"


def write_results(race: Race, layout: Layout, candidates: Candidates, holdout: int) -> None:
    """Write the candidates of the race and the found roadmap to the study's report, and log what was found."""
    spec = candidates.base.spec
    to = Path(spec.reports) / spec.study
    table = candidates_table(race, candidates)
    table.to_csv(to / CANDIDATES_NAME, index=False, lineterminator="\n", float_format="%.6g")
    order = found_order(race)
    path = to / "conf" / "roadmap" / f"{ROADMAP_NAME}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, roadmap_text(order, candidates, spec.data.name).encode())
    study = read_study(study_folder(spec))
    logger.info("\n".join([conclusion(study, race, candidates), selection_cost(study, race, candidates)]))
    front = [f"{row.label} ({row.mmacs:.4g} MMACs, {row.estimate:.2f} %)" for row in _front(table).itertuples()]
    logger.info(f"front of held-out top-1 against multiply-adds: {', '.join(front)}")
    files = "\n".join(f"  {path}" for path in (to / CANDIDATES_NAME, path))
    logger.info(
        f"search:\n{files}\nthe found roadmap, with the seeds of the confirmation:\n  {command(candidates, to)}"
    )


def command(candidates: Candidates, to: Path) -> str:
    """Return the command that trains every step of the found roadmap; runs of the confirmation are finished already."""
    seeds = ",".join(map(str, candidates.fresh_seeds))
    words = ["python", "run_roadmap.py", f"--config-dir={to / 'conf'}", f"roadmap={ROADMAP_NAME}", "+study=roadmap"]
    study = f"study={candidates.base.spec.study}-{ROADMAP_NAME}"
    return shlex.join([*words, study, *own_overrides(candidates.base), f"seed={seeds}"])


def candidates_table(race: Race, candidates: Candidates) -> pd.DataFrame:
    """Return a line for each candidate of the race, the best estimate first.

    Columns: transforms, label, mmacs (10^6 multiply-adds per image), seeds, top1_mean (of the race's seeds, percent),
    estimate (percent; drawn towards what similar candidates reach), in_race.
    """
    known = list(race.results)
    estimates = Model(race.space, race.results).estimates(known)
    lines: list[dict[str, Any]] = []
    for i in np.argsort(-estimates, kind="stable"):
        candidate, values = known[i], list(race.results[known[i]].values())
        line = {"transforms": " ".join(candidates.names(candidate)), "label": candidates.label(candidate)}
        line |= {"mmacs": (candidates.macs(candidate) or 0) / 1e6, "seeds": len(values), "top1_mean": np.mean(values)}
        lines.append(line | {"estimate": estimates[i], "in_race": candidate not in race.dropped})
    return pd.DataFrame(lines)


def _front(table: pd.DataFrame) -> pd.DataFrame:
    """Return the lines that no other line exceeds in estimate at the same or a lower cost."""
    table = table.sort_values(["mmacs", "estimate"], ascending=[True, False])
    return table[table["estimate"] > table["estimate"].cummax().shift(fill_value=-np.inf)]


def found_order(race: Race) -> list[list[str]]:
    """Return the winner's transforms in an order: at each place the one with the best estimate, with what it needs.

    Each entry is one step. Where no single transform makes a possible network, the rest is one step.
    """
    winner, space = race.ranking()[0], race.space
    model = Model(space, race.results)
    current: Candidate = space.base
    order: list[list[str]] = []
    while left := [name for name in space.names if name in winner - current]:
        following = [current | {name} for name in left if space.is_possible(current | {name})] or [winner]
        best = following[int(np.argmax(model.estimates(following)))]
        order.append([name for name in space.names if name in best - current])
        current = best
    return order


def roadmap_text(order: list[list[str]], candidates: Candidates, data: str) -> str:
    """Return the content of conf/roadmap/NAME.yaml for the found order."""
    steps: list[Any] = [{"baseline": []}]
    before: Candidate = frozenset()
    for name in candidates.roadmap.file.steps.values():  # the steps up to the start of the search
        if set(name.transforms) <= candidates.start and set(name.transforms) > before:
            steps.append({name.name: list(name.own)} if list(name.own) != [name.name] else name.name)
            before = frozenset(name.transforms)
    steps += [names[0] if len(names) == 1 else {names[-1]: names} for names in order]
    content = {"title": f"Found on {data}", "base": candidates.base.spec.base.name, "steps": steps}
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None)


def conclusion(study: Study, race: Race, candidates: Candidates) -> str:
    """Return the sentence that says which transforms to take, from the comparisons of the confirmation."""
    winner, roadmap = race.ranking()[0], candidates.roadmap
    names: dict[str, list[str]] = {"take": [], "leave out": [], "not resolved": []}
    whole = candidates.names(winner)
    for row, comparison in zip(study.rows, study.comparisons, strict=True):
        changed = set(row.transforms) ^ set(whole)
        if comparison is None or not changed or not changed <= set(race.space.names):
            continue
        if set(row.transforms) in (set(race.space.full), set(race.space.base)) and len(changed) > 1:
            continue
        removed = changed <= winner
        decided = {LOSS: "take" if removed else "leave out", GAIN: "leave out" if removed else "take"}
        label = " and ".join(roadmap.transforms[name].label for name in roadmap.sort(changed))
        names[decided.get(comparison.verdict, "not resolved")].append(label)
    parts = [f"{what} {', '.join(labels)}" for what, labels in names.items() if labels]
    return f"On {study.rows[0].records[0]['data']} at this budget: {'; '.join(parts)}."


def selection_cost(study: Study, race: Race, candidates: Candidates) -> str:
    """Return the gain over the base on the held-out images of the race, and with fresh seeds on the test set."""
    winner, base = race.ranking()[0], race.space.base
    means = {candidate: float(np.mean(list(race.results[candidate].values()))) for candidate in (winner, base)}
    tested = {frozenset(row.transforms): row.top1 for row in study.rows}
    if winner == base or not tested.get(winner) or not tested.get(base):
        return f"The search found no better network than its start, {candidates.label(base)}."
    held_out, test = means[winner] - means[base], np.mean(tested[winner]) - np.mean(tested[base])
    return (
        f"Found: {candidates.label(winner)}. Gain over {candidates.label(base)}: {held_out:+.2f} points on the held-out"
        f" images of the race, {test:+.2f} with fresh seeds on the test set. The difference, {held_out - test:+.2f}, is"
        " the cost of the selection and the effect of training on all images."
    )
