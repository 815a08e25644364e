"""Comparison of two runs: fields of their configs, results, versions, commits, machines and devices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from roadmap.commands.tables import Column, print_table
from roadmap.config.names import one_line
from roadmap.config.schema import SpecError
from roadmap.records.listing import RunState

RESULTS = {
    "status": "status",
    "top1": "top-1 (%)",
    "top5": "top-5 (%)",
    "loss": "test loss",
    "params": "parameters",
    "gmacs": "GMACs",
    "images_per_second": "images/s",
    "wall_seconds": "seconds",
    "peak_memory_mib": "peak memory (MiB)",
    "num_train": "training images",
    "num_test": "test images",
}
# Parts of the record besides the config that may explain a difference.
CIRCUMSTANCES = ("versions", "git", "host", "device")


def print_comparison(first: RunState, second: RunState, wide: bool) -> None:
    """Print the fields in which the records of two runs differ, and their results with the differences.

    Raises SpecError if one of them has no record.
    """
    for run in (first, second):
        if run.record is None:
            reason = run.problem or "the run has no record yet"
            raise SpecError(f"{run.folder}: {one_line(reason)}; only runs with a record can be compared")
    a, b = first.record or {}, second.record or {}
    print(f"A: {first.name}\nB: {second.name}\n")
    fields = differing_fields(a["config"], b["config"])
    columns = [Column("field", wraps_at=30), Column("A", wraps_at=22), Column("B", wraps_at=22)]
    if fields:
        print_table(columns, [[name, *values] for name, values in fields.items()], wide)
    else:
        print("same config")
    print()
    columns = [Column("result", wraps_at=20), *(Column(name, "right", wraps_at=18) for name in ("A", "B", "B - A"))]
    rows = [[title, *_result(a.get(name), b.get(name))] for name, title in RESULTS.items()]
    print_table(columns, [row for row in rows if row[1] or row[2]], wide)
    others = differing_fields(
        {name: a.get(name) for name in CIRCUMSTANCES}, {name: b.get(name) for name in CIRCUMSTANCES}
    )
    if others:
        print()
        columns = [Column("made with", wraps_at=30), Column("A", wraps_at=22), Column("B", wraps_at=22)]
        print_table(columns, [[name, *values] for name, values in others.items()], wide)


def differing_fields(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the paths of the fields that differ and both values as text; `-` where a field is missing."""
    values_a, values_b = dict(_flatten(a)), dict(_flatten(b))
    names = dict.fromkeys([*values_a, *values_b])
    pairs = {name: (values_a.get(name, "-"), values_b.get(name, "-")) for name in names}
    return {one_line(name): pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, one_line(value if isinstance(value, str) else json.dumps(value))


def _result(a: Any, b: Any) -> tuple[str, str, str]:
    numbers = [value for value in (a, b) if isinstance(value, int | float)]
    difference = f"{b - a:+,.4g}" if len(numbers) == 2 else ""
    return _format(a), _format(b), difference


def _format(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}".rstrip("0").rstrip(".")
    return one_line(value)
