"""Tables of reports for the terminal, with as many columns as fit its width."""

from __future__ import annotations

import io
import shutil
from collections.abc import Container, Sequence

import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from roadmap.records.record import COMPLETED
from roadmap.report.columns import TEXT_HEADERS

# Columns that do not fit are left out in this order. The first column is never left out. Columns that are not named
# here are left out before these, the last one first.
DROP_ORDER = (
    "paper GMACs", "images/s", "paper top-1 (%)", "params (M)", "seeds", "orders", "p (Holm)", "GMACs", "status",
    "verdict", "95 % interval", "its 95 % interval", "top-1 of the EMA (%)", "gain", "with start", "Shapley value",
    "top-1 (%)",
)  # fmt: skip
GAP = 2  # spaces between two columns
MIN_FIRST_WIDTH = 24  # of the first column, whose text is wrapped
MIN_WIDTH = 20
UNLIMITED = 100_000


def terminal_width() -> int:
    """Return the width of the terminal in columns; 80 if it is unknown."""
    return max(shutil.get_terminal_size((80, 24)).columns, MIN_WIDTH)


def render_table(
    table: pd.DataFrame,
    width: int,
    hint: str = "",
    text_headers: Container[str] = TEXT_HEADERS,
    drop_order: Sequence[str] = DROP_ORDER,
) -> str:
    """Return a table of text cells with no line longer than `width`, and a line that names the columns left out.

    `hint` says how to see these columns. The first column and the headers are wrapped if they do not fit.
    """
    first, *others = table.columns
    widths = {header: _longest_cell(table, header) for header in table.columns}
    if sum(widths.values()) + GAP * len(others) > width:
        widths = {header: _wrapped_width(table, header) for header in table.columns}
    shown = list(others)
    order = _drop_order(table, drop_order)
    needed = min(widths[first], MIN_FIRST_WIDTH)
    while shown and needed + sum(widths[header] + GAP for header in shown) > width:
        shown.remove(order.pop(0))
    left_out = [header for header in others if header not in shown]
    available = width - sum(widths[header] + GAP for header in shown)
    rendered = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="")
    first_width = min(available, _longest_cell(table, first))
    rendered.add_column(Text(first), overflow="fold", width=first_width)
    for header in shown:
        justify = "left" if header in text_headers else "right"
        rendered.add_column(Text(header), justify=justify, width=widths[header], overflow="fold", vertical="top")
    for cells in table[[first, *shown]].itertuples(index=False):
        rendered.add_row(*(Text(str(cell)) for cell in cells))
    text = _print(rendered, width)
    if left_out:
        note = f"Columns left out, to fit a width of {width}: {', '.join(left_out)}.{f' {hint}' if hint else ''}"
        text += "\n\n" + _print(Text(note), width)
    return text


def _print(content: Table | Text, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False, markup=False)
    with console.capture() as capture:
        console.print(content)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def _longest_cell(table: pd.DataFrame, header: str) -> int:
    return max(cell_len(str(text)) for text in (header, *table[header]))


def _wrapped_width(table: pd.DataFrame, header: str) -> int:
    """Return the width of a column whose header is wrapped: its longest cell or the longest word of the header."""
    return max(cell_len(str(text)) for text in (*header.split(" "), *table[header]))


def _drop_order(table: pd.DataFrame, drop_order: Sequence[str]) -> list[str]:
    """Return the columns besides the first one in the order in which they are left out."""
    headers = list(table.columns[1:])
    order = [header for header in reversed(headers) if header not in drop_order]
    if "status" in headers and set(table["status"]) == {COMPLETED}:
        order.append("status")  # it is the same in each row
    return order + [header for header in drop_order if header in headers and header not in order]
