"""Reference tables: published numbers of a roadmap's steps, from the CSV file that the roadmap names.

Columns, of which only `step` is required: `step`, `table` (the row is for bases with this `base.paper_table`; without a
value, for all bases), `top1` and `top1_std` (percent), `num_seeds` (behind `top1_std`), `params`, `gmacs`
(multiply-adds / 1e9), `source` (as sentences name it, such as "the paper's Table 10"), `note` (shown below tables with
this row).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from roadmap.config.names import printable
from roadmap.config.schema import SpecError

COLUMNS = ("step", "table", "top1", "top1_std", "num_seeds", "params", "gmacs", "source", "note")


@dataclass(frozen=True)
class ReferenceRow:
    """Published numbers of one step, variant or reference network; None where nothing is published."""

    step: str
    table: int | None = None  # base.paper_table of the bases that it belongs to; None: all bases
    top1: float | None = None  # percent
    top1_std: float | None = None  # standard deviation over seeds, percentage points
    num_seeds: int | None = None
    params: int | None = None
    gmacs: float | None = None  # multiply-adds / 1e9
    source: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False)
class ReferenceTable:
    """The published numbers for one base."""

    rows: tuple[ReferenceRow, ...]  # in the order of the file
    steps: tuple[str, ...]  # the roadmap's steps that have a row, in order, without variants

    @property
    def source(self) -> str:
        """Name of the table in sentences."""
        return next((row.source for row in self.rows if row.source), "the reference table")

    def row(self, step: str) -> ReferenceRow | None:
        """Return the row of a step, or None if it has none."""
        return next((row for row in self.rows if row.step == step), None)

    def position(self, step: str) -> int:
        """Return the index of a step's row; the number of rows if it has none."""
        return next((i for i, row in enumerate(self.rows) if row.step == step), len(self.rows))

    @cached_property
    def adjacent(self) -> list[tuple[ReferenceRow, ReferenceRow]]:
        """The rows of each two steps that follow each other, if both have a top-1."""
        rows = [row for step in self.steps if (row := self.row(step)) is not None]
        return [(before, after) for before, after in pairwise(rows) if None not in (before.top1, after.top1)]

    @cached_property
    def previous_steps(self) -> dict[str, str]:
        """The step before each step that has a published gain."""
        return {after.step: before.step for before, after in self.adjacent}

    @cached_property
    def gains(self) -> dict[str, float]:
        """The published gain of each step over the step before it, in percentage points."""
        return {after.step: round((after.top1 or 0) - (before.top1 or 0), 2) for before, after in self.adjacent}


def parse_reference(text: str, shown: str, known_steps: Collection[str]) -> tuple[ReferenceRow, ...]:
    """Return the rows of a CSV file with the content `text`.

    `shown` is the path in messages. Raises SpecError that names file, line and column for unknown columns and steps,
    for values that are not numbers, and for a step that occurs twice.
    """
    try:
        lines = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True))
    except csv.Error as error:
        raise SpecError(f"{shown}: is not valid CSV ({error}); correct the file") from error
    header = [name.strip() for name in lines[0]] if lines else []
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or "step" not in header or len(set(header)) < len(header):
        problem = f"column {printable(unknown[0], 40)!r} is unknown" if unknown else "needs each column once, and step"
        raise SpecError(f"{shown}: {problem}; use columns of {', '.join(COLUMNS)}")
    rows: list[ReferenceRow] = []
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        where = f"{shown}: line {number}"
        if len(line) != len(header):
            raise SpecError(f"{where}: has {len(line)} cells, the header has {len(header)}; correct the line")
        cells = {name: cell.strip() for name, cell in zip(header, line, strict=True)}
        row = ReferenceRow(
            step=cells["step"],
            table=_integer(where, cells, "table"),
            top1=_number(where, cells, "top1", 100),
            top1_std=_number(where, cells, "top1_std", 100),
            num_seeds=_integer(where, cells, "num_seeds"),
            params=_integer(where, cells, "params"),
            gmacs=_number(where, cells, "gmacs", math.inf),
            source=_text(where, cells, "source", 80),
            note=_text(where, cells, "note", 1000),
        )
        if row.step not in known_steps:
            raise SpecError(f"{where}: step={printable(row.step, 100)} is not in the roadmap; correct the name")
        if any((other.step, other.table) == (row.step, row.table) for other in rows):
            raise SpecError(f"{where}: step={row.step} has a line already; remove one")
        rows.append(row)
    return tuple(rows)


def _number(where: str, cells: dict[str, str], column: str, largest: float) -> float | None:
    text = cells.get(column, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= largest or math.isinf(value):
        limit = f" to {largest:g}" if largest < math.inf else ""
        raise SpecError(f"{where}: {column}={printable(text, 40)}: must be a number from 0{limit}, or empty")
    return value


def _integer(where: str, cells: dict[str, str], column: str) -> int | None:
    text = cells.get(column, "")
    if text and not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise SpecError(f"{where}: {column}={printable(text, 40)}: must be a whole number, or empty")
    return int(text) if text else None


def _text(where: str, cells: dict[str, str], column: str, longest: int) -> str:
    text = cells.get(column, "")
    if text and not (text.isprintable() and len(text) <= longest):
        raise SpecError(f"{where}: {column}: must be at most {longest} printable characters in one line")
    return text
