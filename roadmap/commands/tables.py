"""Tables that fit the width of the terminal: on a narrow terminal, columns are left out in a fixed order."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from roadmap.report.terminal import GAP, terminal_width

MIN_WRAPPED_WIDTH = 6  # of a column whose texts wrap

Cell = str | Text | ProgressBar


@dataclass(frozen=True)
class Column:
    """A column and what happens to it on a narrow terminal."""

    title: str
    justify: Literal["left", "right"] = "left"
    leaves: int | None = None  # the column with the smallest number is left out first; None: never left out
    wraps_at: int | None = None  # its texts may wrap into lines of this width


def make_console(width: int | None = None) -> Console:
    """Return a console on standard output that prints texts as they are."""
    return Console(file=sys.stdout, width=width or terminal_width(), highlight=False, markup=False, emoji=False)


def choose_columns(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None) -> list[int]:
    """Return the indices of the columns that fit in `width` characters; None: any width. A column with `leaves` that is
    empty in every row is left out too."""
    chosen = [i for i, column in enumerate(columns) if column.leaves is None or any(_width(row[i]) for row in rows)]
    needed = {i: _column_width(columns[i], [row[i] for row in rows]) for i in chosen}
    while width is not None and _total({i: needed[i] for i in chosen}) > width:
        leaving = [i for i in chosen if columns[i].leaves is not None]
        if not leaving:
            break
        chosen.remove(min(leaving, key=lambda i: columns[i].leaves or 0))
    return chosen


def make_table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None
) -> tuple[Table, list[str], int]:
    """Return the table, the titles of the columns that do not fit in `width` characters (None: any width), and the
    width that the table needs at most."""
    chosen = choose_columns(columns, rows, width)
    natural = {i: _column_width(columns[i], [row[i] for row in rows], wraps=False) for i in chosen}
    widths = {i: _column_width(columns[i], [row[i] for row in rows]) for i in chosen}
    spare = math.inf if width is None else width - _total(widths)
    for i in [i for i in chosen if columns[i].wraps_at is not None and spare < 0]:  # a very narrow terminal
        widths[i] -= int(min(max(0, widths[i] - MIN_WRAPPED_WIDTH), max(0, -spare)))
        spare = math.inf if width is None else width - _total(widths)
    for i in chosen:  # columns whose texts wrap get the free width, the first column first
        widths[i] += int(min(natural[i] - widths[i], max(0, spare)))
        spare = math.inf if width is None else width - _total(widths)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, GAP - 1, 0, 0), pad_edge=False, header_style="bold")
    for i in chosen:
        wraps = columns[i].wraps_at is not None
        title, justify = columns[i].title, columns[i].justify
        table.add_column(title, justify=justify, no_wrap=not wraps, overflow="fold", width=widths[i])
    for row in rows:
        cells: list[RenderableType] = [
            Text(cell) if isinstance(cell, str) else cell for cell in (row[i] for i in chosen)
        ]
        table.add_row(*cells)
    left_out = [columns[i].title for i in choose_columns(columns, rows, None) if i not in chosen]
    return table, left_out, _total(natural)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], wide: bool) -> None:
    """Print the table and name the columns that do not fit the terminal; with `wide`, print all columns."""
    width = None if wide else terminal_width()
    table, left_out, full_width = make_table(columns, rows, width)
    make_console(full_width if wide else width).print(table)
    if left_out:
        print(f"not shown: {', '.join(left_out)} (--wide shows all columns)")


def format_size(num_bytes: float) -> str:
    """Format as `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" or num_bytes >= 100 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def format_age(seconds: float) -> str:
    """Format as `5 s`, `12 min`, `3 h` or `7 d`; a time in the future is `0 s`."""
    seconds = max(0.0, seconds)
    for unit, size, limit in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds // 86400:.0f} d"


def _total(widths: dict[int, int]) -> int:
    """Return the width of a table with these columns."""
    return sum(widths.values()) + GAP * max(0, len(widths) - 1)


def _column_width(column: Column, cells: Sequence[Cell], wraps: bool = True) -> int:
    """Return the width of the column's longest text; with `wraps`, at most `wraps_at`."""
    natural = max([cell_len(column.title), *map(_width, cells)])
    return natural if column.wraps_at is None or not wraps else min(natural, column.wraps_at)


def _width(cell: Cell) -> int:
    if isinstance(cell, ProgressBar):
        return cell.width or 0
    return cell_len(cell if isinstance(cell, str) else cell.plain)
