"""From the records of a study to its rows and its table. Needs neither Hydra nor torch.

Rows are networks, in the order of the road; the seeds of one network under one setting make one row.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roadmap.analysis import published, statistics
from roadmap.analysis.statistics import Comparison
from roadmap.config.designs import Member
from roadmap.config.steps import all_transforms, differing_transforms, sort_transforms
from roadmap.records.manifest import Manifest, read_manifest, setting_overrides
from roadmap.records.record import COMPLETED, DIVERGED, FAILED, RUNS_FOLDER, read_record

COLUMNS = [
    "step", "label", "n_seeds", "top1_mean", "top1_std", "delta", "params", "gmacs", "images_per_second",
    "paper_top1", "paper_gmacs", "status",
    "against", "delta_low", "delta_high", "n_pairs", "p", "p_holm", "p_images", "p_images_holm", "smallest_p",
    "verdict", "seeds_needed",
    "top1_low", "top1_high", "top5_mean", "loss_mean", "wall_seconds", "peak_memory_mib",
    "n_failed", "n_diverged", "variant", "reference", "beyond", "section",
]  # fmt: skip
STATUSES = (FAILED, DIVERGED, COMPLETED)  # a row's status is the first that one of its seeds has
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """The seeds of one network under one setting."""

    records: Records
    setting: str  # what sets it apart from another row of the same network, as `budget.epochs=3`
    label: str

    @property
    def name(self) -> str:
        return str(self.records[0]["name"])

    @property
    def transforms(self) -> list[str]:
        return [info["name"] for info in self.records[0]["transforms"]]

    @property
    def done(self) -> Records:
        return [content for content in self.records if content["status"] == COMPLETED]

    @property
    def top1(self) -> list[float]:
        return [content["top1"] for content in self.done]


@dataclass(frozen=True)
class Study:
    name: str
    manifest: Manifest
    rows: list[Row]
    against: list[int | None]  # the number of the row that each is compared with
    comparisons: list[Comparison | None]  # beside it, with verdicts
    unfinished: int  # runs that have no record yet
    table: pd.DataFrame

    @property
    def records(self) -> Records:
        return [content for row in self.rows for content in row.records]


def read_study(folder: Path) -> Study:
    """The study in `folder`: the runs that its study.json names, or without one all that have a record in it.

    Raises FileNotFoundError where there are none.
    """
    known = read_manifest(folder)
    if known is None:
        places = [path.parent for path in sorted(folder.glob("*/record.json"))]
    else:
        places = [folder.parent / RUNS_FOLDER / name for name in known.runs]
    found = []
    for place in places:
        content = read_record(place)
        if content is not None:
            own = setting_overrides(shlex.split(content["command"])[2:]) if known is None else known.runs[place.name]
            found.append(content | {"correct": _correct(place, content), "setting": own})
    if not found:
        raise FileNotFoundError(f"{folder}: holds no records of runs")
    return analyze(folder.resolve().name, known or Manifest(folder.resolve().name), found, len(places))


def _correct(place: Path, content: dict[str, Any]) -> np.ndarray:
    """What a run scored on each test image, 0 or 100; without that file, one number, its accuracy."""
    path = place / "correct.npy"
    if path.is_file():
        scores = 100.0 * np.load(path)
        if content["top1"] is not None and abs(scores.mean() - content["top1"]) < 1e-3:
            return scores
    return np.array([math.nan if content["top1"] is None else content["top1"]])


def analyze(name: str, known: Manifest, records: Records, runs: int) -> Study:
    rows = _rows(records, {frozenset(member.transforms): member for member in known.layout.members})
    against = [_compared_with(row, rows, known) for row in rows]
    pairs = [(rows[i], rows[j]) for i, j in enumerate(against) if j is not None]
    decided = iter(statistics.decide([statistics.compare(*_scores(after, before)) for after, before in pairs]))
    comparisons = [None if j is None else next(decided) for j in against]
    table = _make_table(rows, against, comparisons)
    return Study(name, known, rows, against, comparisons, runs - len(records), table)


def _rows(records: Records, members: dict[frozenset[str], Member]) -> list[Row]:
    groups: dict[str, Records] = defaultdict(list)
    for content in sorted(records, key=lambda content: content["seed"]):
        groups[content["config_hash"]].append(content)
    settings = _settings(list(groups.values()))
    places = {names: place for place, names in enumerate(members)}
    rows = []
    for key, group in groups.items():
        member = members.get(frozenset(info["name"] for info in group[0]["transforms"]))
        label = member.label if member is not None and member.label else group[0]["label"]
        rows.append(Row(group, settings[key], f"{label} {settings[key]}".strip()))

    def place(row: Row) -> tuple[Any, ...]:
        first = row.records[0]
        in_paper = published.position(first["config"]["base"]["paper_table"], first["name"])
        in_design = places.get(frozenset(row.transforms), len(places)) if _labelled(members) else 0
        reference = first["transforms"][-1]["reference"] if first["transforms"] else False
        return _natural(row.setting), reference, in_design, len(first["transforms"]), in_paper, first["name"]

    return sorted(rows, key=place)


def _natural(text: str) -> list[str | float]:
    """For sorting: numbers as numbers."""
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", text))]


def _labelled(members: dict[frozenset[str], Member]) -> bool:
    return any(member.label for member in members.values())


def _settings(groups: Sequence[Records]) -> dict[str, str]:
    """What was asked of a row that was not asked of all, as `budget.epochs=3`, by config hash."""
    asked = {group[0]["config_hash"]: group[0]["setting"] for group in groups}
    common = set.intersection(*map(set, asked.values()))
    settings = {key: " ".join(word for word in words if word not in common) for key, words in asked.items()}
    seen: set[tuple[str, str]] = set()
    for group in groups:  # the same words meant something else before, as after a preset was changed
        key = group[0]["config_hash"]
        if (group[0]["name"], settings[key]) in seen:
            settings[key] = f"{settings[key]} config={key}".strip()
        seen.add((group[0]["name"], settings[key]))
    return settings


def _compared_with(row: Row, rows: Sequence[Row], known: Manifest) -> int | None:
    """The row that `row` is compared with: what its design says, else, of those with fewer of its transforms and no
    others, the one with most; a reference is compared with nothing."""
    others = [(i, set(other.transforms)) for i, other in enumerate(rows) if other.setting == row.setting]
    member = next((m for m in known.layout.members if set(m.transforms) == set(row.transforms)), None)
    if member is not None:
        return next((i for i, names in others if member.against is not None and names == set(member.against)), None)
    mine = set(row.transforms)
    if any(info["reference"] for info in row.records[0]["transforms"]):
        return None
    earlier = [(len(names), i) for i, names in others if names < mine]
    return max(earlier)[1] if earlier else None


def _scores(after: Row, before: Row) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Seed -> score on each image, of both; the accuracy alone where a run's images are not at hand, or not the same
    as the others'."""
    found = [{content["seed"]: content["correct"] for content in row.done} for row in (after, before)]
    seeds = sorted(found[0].keys() & found[1].keys())
    if len({side[seed].shape for side in found for seed in seeds}) > 1:
        found = [{seed: scores.mean(keepdims=True) for seed, scores in side.items()} for side in found]
    return found[0], found[1]


def _make_table(
    rows: Sequence[Row], against: Sequence[int | None], compared: Sequence[Comparison | None]
) -> pd.DataFrame:
    """One line per row; the columns are COLUMNS. Accuracies and differences in percent, counts as plain numbers.

    Clocks (`images_per_second`, `wall_seconds`) are those of the fastest seed: other work on the machine only slows.
    `top1_low` and `top1_high`: Student's t interval of the mean over seeds. `delta` and what belongs to it: see
    `statistics.Comparison`, with the row named in `against`. Failed and diverged seeds are counted, not averaged.
    """
    lines = []
    for row, other, comparison in zip(rows, against, compared, strict=True):
        first, done = row.records[0], row.done
        fact = published.published_row(first["config"]["base"]["paper_table"], row.name)
        costs = next((content for content in row.records if "params" in content), {})
        counts = {status: sum(content["status"] == status for content in row.records) for status in STATUSES}
        top1 = pd.Series(row.top1, dtype=float)
        low, high = statistics.t_interval(row.top1)
        infos = first["transforms"]
        changed = _changed(row, rows[other] if other is not None else None)
        line = {
            "verdict": "",
            "step": f"{row.name} {row.setting}".strip(),
            "label": row.label,
            "n_seeds": len(done),
            "top1_mean": top1.mean(),
            "top1_std": top1.std(),
            "params": costs.get("params"),
            "gmacs": costs.get("gmacs"),
            "images_per_second": _values(done, "images_per_second").max(),
            "paper_top1": fact.top1 if fact else math.nan,
            "paper_gmacs": fact.gmacs if fact else math.nan,
            "status": next(status for status in STATUSES if counts[status]),
            "against": rows[other].label if other is not None else "",
            "top1_low": low,
            "top1_high": high,
            "top5_mean": _values(done, "top5").mean(),
            "loss_mean": _values(done, "loss").mean(),
            "wall_seconds": _values(done, "wall_seconds").min(),
            "peak_memory_mib": _values(done, "peak_memory_mib").mean(),
            "n_failed": counts[FAILED],
            "n_diverged": counts[DIVERGED],
            "variant": any(info["variant"] for info in infos),
            "reference": any(info["reference"] for info in infos),
            "beyond": any(not (info["section"] or info["reference"]) for info in infos),
            "section": changed,
        }
        if comparison is not None:
            line |= {"n_pairs": comparison.n, "delta_low": comparison.low, "delta_high": comparison.high}
            for name in ("delta", "p", "p_holm", "p_images", "p_images_holm", "smallest_p", "verdict", "seeds_needed"):
                line[name] = getattr(comparison, name)
        lines.append(line)
    table = pd.DataFrame(lines, columns=COLUMNS)
    table[["params", "n_pairs"]] = table[["params", "n_pairs"]].astype("Int64")
    return table.round(9)  # so that every form of the table rounds the same number


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Ten digits: as many as are the same on every machine, whatever the order in which its processor sums."""
    table.to_csv(path, index=False, lineterminator="\n", float_format="%.10g")


def _changed(row: Row, before: Row | None) -> str:
    """The paper's section of what sets the row apart from the one that it is compared with, else of its last change;
    2 for row 0, empty where the paper has no such change."""
    more, less = differing_transforms(row.transforms, before.transforms if before is not None else [])
    known = [name for name in sort_transforms([*more, *less]) if name in all_transforms()]
    here = {info["name"]: info["section"] for info in row.records[0]["transforms"]}
    if not known:
        return next(iter(reversed(here.values())), "2")
    return here.get(known[-1], all_transforms()[known[-1]].section)


def _values(records: Records, key: str) -> pd.Series:
    return pd.Series([content[key] for content in records], dtype=float)
