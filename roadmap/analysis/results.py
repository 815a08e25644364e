"""The results of a study as tidy tables: one row per run, and one row per run and epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from roadmap.analysis.study_records import Records, read_study_records

# Columns that both tables begin with: they identify a run.
KEYS = ["run", "roadmap", "step", "label", "setting", "seed"]
RESULTS = [
    "status", "error", "top1", "top5", "loss", "num_train", "num_test", "num_classes", "params", "gmacs", "activations",
    "images_per_second", "images_per_second_per_device", "model_flops_utilization", "train_seconds", "compile_seconds",
    "wall_seconds", "peak_memory_mib", "started_at", "study", "base", "data", "config_hash", "format", "command",
]  # fmt: skip
# Sections of a record whose entries are columns, such as `device.precision`.
SECTIONS = ["ema", "plan", "device", "host", "versions", "git", "config"]
TEXTS = {"status", "error", "started_at", "study", "base", "data", "config_hash", "command"}
CURVE = ["epoch", "lr", "train_loss", "test_top1", "test_loss", "ema_top1"]


def read_results(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Read the study in `folder`. Return a table with one row per run, a table with one row per run and epoch, and a
    sentence for each damaged file.

    Both begin with the columns KEYS. The first has RESULTS, `transforms` (names, joined by commas), and a column
    `SECTION.FIELD` for each field of the SECTIONS; lists are JSON. The second has CURVE. A value that a run does not
    have is missing. Raises SpecError if there is no record.
    """
    study = read_study_records(folder)
    return run_table(study.records), epoch_table(study.records), study.problems


def run_table(records: Records) -> pd.DataFrame:
    """Return the table with one row per run; see `read_results`."""
    rows = []
    for record in records:
        row = _keys(record) | {name: record.get(name) for name in RESULTS}
        row["transforms"] = ",".join(info["name"] for info in record["transforms"])
        for section in SECTIONS:
            row |= _flat(record.get(section) or {}, section)
        rows.append(row)
    names = [*KEYS, *RESULTS, "transforms"]
    others = sorted({name for row in rows for name in row} - {*names}, key=lambda name: _position(name, rows))
    return _typed(pd.DataFrame(rows, columns=pd.Index([*names, *others])))


def epoch_table(records: Records) -> pd.DataFrame:
    """Return the table with one row per run and epoch; see `read_results`."""
    rows = [
        _keys(record) | {name: point.get(name) for name in CURVE} for record in records for point in record["curve"]
    ]
    return _typed(pd.DataFrame(rows, columns=pd.Index([*KEYS, *CURVE])))


def _keys(record: Mapping[str, Any]) -> dict[str, Any]:
    names = {"run": record["run"], "roadmap": record["config"]["roadmap"], "step": record["name"]}
    return names | {"label": record["label"], "setting": " ".join(record["setting"]), "seed": record["seed"]}


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries of nested dicts with joined names. `config.transforms` is left out: it is `transforms`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}.{name}"
        if isinstance(value, Mapping):
            flat |= {} if path == "config.transforms" else _flat(value, path)
        else:
            flat[path] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _position(name: str, rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Return the section of a column, and its place in the first record that has it."""
    first = next(row for row in rows if name in row)
    return SECTIONS.index(name.split(".", maxsplit=1)[0]), list(first).index(name)


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with one type per column, as Parquet needs it: a nullable type of pandas, or text."""
    return pd.DataFrame({name: column.astype(_type_of(str(name), column.dropna())) for name, column in table.items()})


def _type_of(name: str, values: pd.Series) -> Literal["Int64", "Float64", "boolean", "string"]:
    kinds = {bool if isinstance(x, bool) else type(x) for x in values}
    if not kinds:  # no run has a value
        return "Float64" if name in {*RESULTS, *CURVE} - TEXTS else "string"
    if kinds <= {int, float}:
        return "Int64" if kinds == {int} else "Float64"
    return "boolean" if kinds == {bool} else "string"
