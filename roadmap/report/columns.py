"""The columns of a report's tables: title, unit, format, alignment and where they appear.

Markdown, LaTeX, the terminal and the page show the columns that are defined here. A new column is a line in COLUMNS,
and, if its value is new, a line in `roadmap.analysis.table`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

Line = Mapping[str, Any]  # a line of a table: value by column
NO_VALUE = "–"
MARKS = {"variant": " (variant)", "reference": " (reference)", "beyond": " (beyond the paper)"}


def lines_of(table: pd.DataFrame) -> list[Line]:
    """Return the lines of a table."""
    lines: list[Any] = table.to_dict("records")
    return lines


def is_missing(value: Any) -> bool:
    """Return whether a cell has no value."""
    return value is None or bool(pd.isna(value)) or value == ""


def format_value(form: str, value: Any) -> str:
    """Return the value in the format `form` of `str.format`; a dash if there is no value."""
    return NO_VALUE if is_missing(value) else form.format(value)


def format_interval(low: float, high: float) -> str:
    """Return an interval of gains as `-0.33 to +0.46`; a dash if there is none."""
    return NO_VALUE if is_missing(low) else f"{low:+.2f} to {high:+.2f}"


def marked_label(line: Line) -> str:
    """Return the label of a line, with its marks: variant, reference, beyond the paper."""
    return str(line["label"]) + "".join(mark for name, mark in MARKS.items() if line[name])


def format_status(line: Line) -> str:
    """Return the status of a line, with the number of seeds that did not complete."""
    not_completed = line["n_failed"] + line["n_diverged"]
    return str(line["status"]) + (f" ({not_completed} of {line['n_seeds'] + not_completed})" if not_completed else "")


def mean_and_deviation(line: Line, metric: str = "top1") -> str:
    """Return the mean and the standard deviation of top-1 (or of `metric`) over the seeds."""
    deviation = "" if is_missing(line[f"{metric}_std"]) else f" ± {line[f'{metric}_std']:.2f}"
    return f"{line[f'{metric}_mean']:.2f}{deviation}"


def _label_and_setting(line: Line) -> str:
    return f"{line['label']} {line['setting']}".strip()


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    key: str  # column of the data; the page sorts by its values
    title: str
    unit: str = ""
    form: str = "{}"  # format of the value
    scale: float = 1.0  # factor from the data to the unit
    combine: Callable[[Line], str] | None = None  # text made from several values of the line, instead of `form`
    is_text: bool = False  # aligned to the left; the page sorts it as text
    page_only: bool = False  # not in Markdown, LaTeX and the terminal
    is_cost: bool = False  # the page compares it before and after a step

    @property
    def header(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def value(self, line: Line) -> Any:
        """Return the value in the column's unit; None if there is none."""
        value: Any = line.get(self.key)
        if is_missing(value):
            return None
        return value if isinstance(value, str) else value * self.scale

    def text(self, line: Line) -> str:
        """Return the text of the cell; a dash if there is no value."""
        value = self.value(line)
        return NO_VALUE if value is None else self.combine(line) if self.combine else self.form.format(value)


# A column without a value in any line is left out.
COLUMNS = (
    Column("label", "step", combine=marked_label, is_text=True),
    Column("top1_mean", "top-1", "%", combine=mean_and_deviation),
    Column("ema_top1_mean", "top-1 of the EMA", "%", combine=partial(mean_and_deviation, metric="ema_top1")),
    Column("delta", "gain", form="{:+.2f}"),
    Column("delta_low", "95 % interval", combine=lambda line: format_interval(line["delta_low"], line["delta_high"])),
    Column("p_holm", "p (Holm)", form="{:.2g}"),
    Column("verdict", "verdict", is_text=True),
    Column("n_seeds", "seeds", form="{:.0f}"),
    Column("seeds_needed", "seeds needed", form="{:,.0f}", page_only=True),
    Column("params", "params", "M", "{:.3f}", scale=1e-6, is_cost=True),
    Column("gmacs", "GMACs", form="{:.3g}", is_cost=True),
    Column("images_per_second", "images/s", form="{:,.0f}", is_cost=True),
    Column("paper_top1", "paper top-1", "%", "{:.2f}"),
    Column("paper_gmacs", "paper GMACs", form="{:.2f}"),
    Column("status", "status", combine=format_status, is_text=True),
    Column("peak_memory_mib", "peak memory", "MiB", "{:,.0f}", page_only=True, is_cost=True),
    Column("wall_seconds", "time per run", "s", "{:,.1f}", page_only=True, is_cost=True),
    Column("top5_mean", "top-5", "%", "{:.2f}", page_only=True),
    Column("loss_mean", "loss", form="{:.3f}", page_only=True),
    Column("robustness_mean", "robustness", "%", "{:.2f}", page_only=True),
    Column("calibration_error_mean", "calibration error", "%", "{:.2f}", page_only=True),
    Column("latency_ms", "latency", "ms", "{:.2f}", page_only=True, is_cost=True),
    Column("against", "compared with", is_text=True, page_only=True),
)

# Columns of the Shapley values, see `roadmap.analysis.shapley`.
SHAPLEY = (
    Column("label", "step", combine=_label_and_setting, is_text=True),
    Column("value", "Shapley value", form="{:+.2f}"),
    Column("low", "95 % interval", combine=lambda line: format_interval(line["low"], line["high"])),
    Column("start_value", "with start", form="{:+.2f}"),
    Column(
        "start_low", "its 95 % interval", combine=lambda line: format_interval(line["start_low"], line["start_high"])
    ),
    Column("n_orders", "orders", form="{:.0f}"),
    Column("n_seeds", "seeds", form="{:.0f}"),
)

# Columns of the runs of one row on the page; the data is the record of a run.
RUNS = (
    Column("seed", "seed", form="{:.0f}"),
    Column("top1", "top-1", "%", "{:.2f}"),
    Column("top5", "top-5", "%", "{:.2f}"),
    Column("loss", "loss", form="{:.3f}"),
    Column("status", "status", is_text=True),
)

TEXT_HEADERS = frozenset(column.header for column in (*COLUMNS, *SHAPLEY, *RUNS) if column.is_text)


def used_columns(columns: Sequence[Column], lines: Sequence[Line]) -> list[Column]:
    """Return the columns that have a value in at least one line."""
    return [column for column in columns if any(column.value(line) is not None for line in lines)]


def readable_table(table: pd.DataFrame, columns: Sequence[Column] | None = None) -> pd.DataFrame:
    """Return the table for Markdown, LaTeX and the terminal: text cells under the headers of the columns.

    `columns` are COLUMNS by default.
    """
    lines = lines_of(table)
    shown = [column for column in used_columns(columns or COLUMNS, lines) if not column.page_only]
    return pd.DataFrame({column.header: [column.text(line) for line in lines] for column in shown})
