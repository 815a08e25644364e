"""The rows and the table of a study, from its records. Imports neither Hydra nor torch.

A row is one network under one setting, with all of its seeds. Rows are in the order of the roadmap.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roadmap.analysis import statistics
from roadmap.analysis.settings import natural_key, settings_of
from roadmap.analysis.statistics import Comparison
from roadmap.analysis.study_records import Records, read_study_records
from roadmap.config.designs import Member
from roadmap.config.roadmaps import Roadmap, load_roadmap
from roadmap.records.manifest import Manifest
from roadmap.records.record import COMPLETED, DIVERGED, FAILED

# The columns of roadmap.csv. How a report shows them is defined in `roadmap.report.columns`.
COLUMNS = [
    "step", "label", "n_seeds", "top1_mean", "top1_std", "delta", "params", "gmacs", "images_per_second",
    "paper_top1", "paper_gmacs", "status",
    "against", "delta_low", "delta_high", "n_pairs", "p", "p_holm", "p_images", "p_images_holm", "smallest_p",
    "verdict", "seeds_needed",
    "top1_low", "top1_high", "top5_mean", "loss_mean", "wall_seconds", "peak_memory_mib",
    "n_failed", "n_diverged", "variant", "reference", "beyond", "section",
]  # fmt: skip
# Further columns, if a run has a moving average of the weights, or was evaluated with `roadmap evaluate`.
EMA_COLUMNS = ["ema_top1_mean", "ema_top1_std"]
EVALUATION_COLUMNS = ["robustness_mean", "calibration_error_mean", "latency_ms"]
STATUSES = (FAILED, DIVERGED, COMPLETED)  # the status of a row is the first of these that one of its seeds has


@dataclass(frozen=True)
class Row:
    """One network under one setting: the records of its seeds."""

    records: Records
    setting: str  # overrides that not all rows have, as `budget.epochs=3`
    label: str

    @property
    def name(self) -> str:
        """Name of the network."""
        return str(self.records[0]["name"])

    @property
    def transforms(self) -> list[str]:
        """Names of its transforms, in the order of the roadmap."""
        return [info["name"] for info in self.records[0]["transforms"]]

    @property
    def completed(self) -> Records:
        """Records of the completed seeds."""
        return [record for record in self.records if record["status"] == COMPLETED]

    @property
    def top1(self) -> list[float]:
        """Top-1 accuracy of each completed seed, percent."""
        return [record["top1"] for record in self.completed]


@dataclass(frozen=True)
class Study:
    """The rows of a study, their comparisons and their table."""

    name: str
    manifest: Manifest
    rows: list[Row]
    against: list[int | None]  # for each row, the index of the row that it is compared with
    comparisons: list[Comparison | None]  # for each row, with verdict
    unfinished: int  # number of runs without a record
    roadmap: Roadmap
    table: pd.DataFrame  # one line for each row, with the columns COLUMNS and, where there are averages, EMA_COLUMNS
    problems: list[str] = field(default_factory=list)  # a sentence for each kind of damaged file

    @property
    def records(self) -> Records:
        """Records of all rows."""
        return [record for row in self.rows for record in row.records]


def read_study(folder: Path, runs: Mapping[str, Sequence[str]] | None = None, roadmap: str | None = None) -> Study:
    """Read the study in `folder`: the runs of its study.json, or, without that file, all records in the folder.

    With `runs` (overrides by the name of the run's folder), only these runs are read. `roadmap` names their roadmap, by
    default that of the study. Files that cannot be used are
    left out and named in `problems`. Raises SpecError if there is no record.
    """
    manifest, records, num_unfinished, loaded, problems = read_study_records(folder, runs, roadmap)
    study = analyze(folder.resolve().name, manifest, records, len(records) + num_unfinished, loaded)
    return replace(study, problems=problems)


def analyze(name: str, manifest: Manifest, records: Records, num_runs: int, roadmap: Roadmap | None = None) -> Study:
    """Return the study with its rows, comparisons and table; `num_runs` includes runs without a record.

    `roadmap` is that of the records, by default ResNet to ConvNeXt.
    """
    roadmap = roadmap or load_roadmap()
    rows = _rows(records, roadmap, {frozenset(member.transforms): member for member in manifest.layout.members})
    against = [_compared_with(row, rows, manifest) for row in rows]
    pairs = [(rows[i], rows[j]) for i, j in enumerate(against) if j is not None]
    conclude = statistics.describe if manifest.is_descriptive else statistics.decide
    decided = iter(conclude([statistics.compare(*_scores(after, before)) for after, before in pairs]))
    comparisons = [None if j is None else next(decided) for j in against]
    table = _make_table(rows, against, comparisons, roadmap)
    return Study(name, manifest, rows, against, comparisons, num_runs - len(records), roadmap, table)


def _rows(records: Records, roadmap: Roadmap, members: dict[frozenset[str], Member]) -> list[Row]:
    """Group the records by config and sort the groups in the order of the roadmap or of the design."""
    groups: dict[str, Records] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["seed"]):
        groups[record["config_hash"]].append(record)
    settings = settings_of(list(groups.values()))
    indices = {names: index for index, names in enumerate(members)}
    labelled = any(member.label for member in members.values())
    rows = []
    for config_hash, group in groups.items():
        member = members.get(frozenset(info["name"] for info in group[0]["transforms"]))
        label = member.label if member is not None and member.label else group[0]["label"]
        rows.append(Row(group, settings[config_hash], f"{label} {settings[config_hash]}".strip()))

    def order(row: Row) -> tuple[Any, ...]:
        first = row.records[0]
        in_paper = roadmap.reference(first["config"]["base"]["paper_table"]).position(first["name"])
        in_design = indices.get(frozenset(row.transforms), len(indices)) if labelled else 0
        reference = first["transforms"][-1]["reference"] if first["transforms"] else False
        return natural_key(row.setting), reference, in_design, len(first["transforms"]), in_paper, first["name"]

    return sorted(rows, key=order)


def _compared_with(row: Row, rows: Sequence[Row], manifest: Manifest) -> int | None:
    """Return the index of the row that `row` is compared with, None for no comparison.

    The design of the study decides. Without a design, it is the row with most transforms among the rows whose
    transforms are a proper subset of the row's; a reference network is compared with nothing.
    """
    others = [(i, set(other.transforms)) for i, other in enumerate(rows) if other.setting == row.setting]
    transforms = set(row.transforms)
    member = next((m for m in manifest.layout.members if set(m.transforms) == transforms), None)
    if member is not None:
        return next((i for i, names in others if member.against is not None and names == set(member.against)), None)
    if any(info["reference"] for info in row.records[0]["transforms"]):
        return None
    subsets = [(len(names), i) for i, names in others if names < transforms]
    return max(subsets)[1] if subsets else None


def _scores(after: Row, before: Row) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Return for both rows the scores on each image by seed.

    They are reduced to the accuracy if the scores of a run are missing or are not of the same images.
    """
    sides = [{record["seed"]: record["correct"] for record in row.completed} for row in (after, before)]
    seeds = sorted(sides[0].keys() & sides[1].keys())
    if len({side[seed].shape for side in sides for seed in seeds}) > 1:
        sides = [{seed: scores.mean(keepdims=True) for seed, scores in side.items()} for side in sides]
    return sides[0], sides[1]


def _make_table(
    rows: Sequence[Row], against: Sequence[int | None], comparisons: Sequence[Comparison | None], roadmap: Roadmap
) -> pd.DataFrame:
    """Return one line for each row, with the columns COLUMNS, and EMA_COLUMNS and EVALUATION_COLUMNS where runs have
    values.

    Accuracies and differences are in percent.

    `images_per_second` and `wall_seconds` are those of the fastest seed, because other processes on the machine can
    only make a run slower. `top1_low` and `top1_high` are Student's t interval of the mean over seeds. `delta` and the
    columns that belong to it: see `statistics.Comparison`; the other row is named in `against`. Failed and diverged
    seeds are counted, but not averaged.
    """
    lines = []
    evaluated = [record["evaluation"] for row in rows for record in row.completed if record.get("evaluation")]
    corruptions = max(map(_corruptions, evaluated), key=len, default=())  # runs with others are not comparable
    for row, other, comparison in zip(rows, against, comparisons, strict=True):
        first, completed = row.records[0], row.completed
        published = roadmap.reference(first["config"]["base"]["paper_table"]).row(row.name)
        costs = next((record for record in row.records if "params" in record), {})
        counts = {status: sum(record["status"] == status for record in row.records) for status in STATUSES}
        top1 = pd.Series(row.top1, dtype=float)
        ema_top1 = pd.Series([record["ema"]["top1"] for record in completed if record.get("ema")], dtype=float)
        low, high = statistics.t_interval(row.top1)
        infos = first["transforms"]
        line = {
            "verdict": "",
            "step": f"{row.name} {row.setting}".strip(),
            "label": row.label,
            "n_seeds": len(completed),
            "top1_mean": top1.mean(),
            "top1_std": top1.std(),
            "ema_top1_mean": ema_top1.mean(),
            "ema_top1_std": ema_top1.std(),
            "params": costs.get("params"),
            "gmacs": costs.get("gmacs"),
            "images_per_second": _values(completed, "images_per_second").max(),
            "paper_top1": math.nan if published is None or published.top1 is None else published.top1,
            "paper_gmacs": math.nan if published is None or published.gmacs is None else published.gmacs,
            "status": next(status for status in STATUSES if counts[status]),
            "against": rows[other].label if other is not None else "",
            "top1_low": low,
            "top1_high": high,
            "top5_mean": _values(completed, "top5").mean(),
            "loss_mean": _values(completed, "loss").mean(),
            "wall_seconds": _values(completed, "wall_seconds").min(),
            "peak_memory_mib": _values(completed, "peak_memory_mib").mean(),
            "n_failed": counts[FAILED],
            "n_diverged": counts[DIVERGED],
            "variant": any(info["variant"] for info in infos),
            "reference": any(info["reference"] for info in infos),
            "beyond": bool(roadmap.reference_rows)
            and published is None
            and any(not (info["section"] or info["reference"]) for info in infos),
            "section": _section(row, rows[other] if other is not None else None, roadmap),
        }
        evaluations = [record["evaluation"] for record in completed if record.get("evaluation")]
        comparable = [found for found in evaluations if _corruptions(found) == corruptions]
        line["robustness_mean"] = _values(comparable, "corrupted_top1").mean()
        line["calibration_error_mean"] = _values(evaluations, "calibration_error").mean()
        line["latency_ms"] = _values([found.get("latency", {}) for found in evaluations], "batch_1_ms").min()
        if comparison is not None:
            line |= {"n_pairs": comparison.n, "delta_low": comparison.low, "delta_high": comparison.high}
            for name in ("delta", "p", "p_holm", "p_images", "p_images_holm", "smallest_p", "verdict", "seeds_needed"):
                line[name] = getattr(comparison, name)
        lines.append(line)
    has_ema = any(record.get("ema") for row in rows for record in row.completed)
    table = pd.DataFrame(lines, columns=[*COLUMNS, *(EMA_COLUMNS if has_ema else []), *EVALUATION_COLUMNS])
    table = table.drop(columns=[name for name in EVALUATION_COLUMNS if table[name].isna().all()])
    table[["params", "n_pairs"]] = table[["params", "n_pairs"]].astype("Int64")
    return table.round(9)  # every form of the table then rounds the same number


def _corruptions(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the corruptions and severities of an evaluation."""
    by_name: Mapping[str, Mapping[str, float]] = evaluation.get("corruptions", {})
    return tuple(sorted(f"{name} {severity}" for name, values in by_name.items() for severity in values))


def _section(row: Row, before: Row | None, roadmap: Roadmap) -> str:
    """Return the section of the difference to the row that `row` is compared with, or of its last transform.

    It is the base's for row 0, and empty if the roadmap has no section with the change.
    """
    added, removed = roadmap.differing(row.transforms, before.transforms if before is not None else [])
    known = [name for name in roadmap.sort([*added, *removed]) if name in roadmap.transforms]
    sections = {info["name"]: info["section"] for info in row.records[0]["transforms"]}
    if not known:
        return next(iter(reversed(sections.values())), roadmap.base_section)
    return sections.get(known[-1], roadmap.section_of(known[-1]))


def _values(records: Records, key: str) -> pd.Series:
    return pd.Series([record.get(key) for record in records], dtype=float)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write the table with ten digits: these are the same on every machine, in whatever order its processor sums."""
    table.to_csv(path, index=False, lineterminator="\n", float_format="%.10g")
