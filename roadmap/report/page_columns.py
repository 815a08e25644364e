"""The columns of the page's table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from roadmap.report.columns import status_text

Line = dict[str, Any]  # of the table: column -> value


def format_number(form: str, value: Any) -> str:
    """The value as people read it, a true minus included; empty where there is none."""
    return "" if value is None or pd.isna(value) else form.format(value).replace("-", "−").replace("inf", "∞")


class Column(NamedTuple):
    key: str  # of the table; the page sorts by it
    title: str
    kind: str  # number or text
    show: Callable[[Any, Line], str]  # value, line -> text

    def text(self, line: Line) -> str:
        value = line.get(self.key)
        return "" if value is None or pd.isna(value) else self.show(value, line)

    def sorts(self, line: Line) -> str:
        value = line.get(self.key)
        return "" if value is None or pd.isna(value) else str(value).replace("inf", "Infinity")  # JavaScript's name


def _form(form: str, scale: float = 1.0) -> Callable[[Any, Line], str]:
    return lambda value, _line: value if isinstance(value, str) else format_number(form, value * scale)


def _spread(form: str, std: str) -> Callable[[Any, Line], str]:
    return lambda value, line: format_number(form, value) + format_number(" ± " + form, line.get(std))


def _interval_text(value: Any, line: Line) -> str:
    return f"{format_number('{:+.2f}', value)} to {format_number('{:+.2f}', line.get('delta_high'))}"


# Those that the table lacks, or that are empty in every line, are left out.
PAGE_COLUMNS = (
    Column("top1_mean", "top-1 (%)", "number", _spread("{:.2f}", "top1_std")),
    Column("delta", "gain", "number", _form("{:+.2f}")),
    Column("delta_low", "95 % interval", "number", _interval_text),
    Column("p_holm", "p (Holm)", "number", _form("{:.3g}")),
    Column("verdict", "verdict", "text", _form("{}")),
    Column("gmacs", "GMACs", "number", _form("{:.3g}")),
    Column("params", "params (M)", "number", _form("{:.2f}", 1e-6)),
    Column("images_per_second", "images/s", "number", _form("{:,.0f}")),
    Column("n_seeds", "seeds", "number", _form("{:.0f}")),
    Column("seeds_needed", "seeds needed", "number", _form("{:,.0f}")),
    Column("status", "status", "text", lambda _value, line: status_text(line)),
    Column("peak_memory_mib", "memory (MiB)", "number", _form("{:,.0f}")),
    Column("wall_seconds", "seconds", "number", _form("{:,.1f}")),
    Column("top5_mean", "top-5 (%)", "number", _form("{:.2f}")),
    Column("loss_mean", "loss", "number", _form("{:.3f}")),
    Column("paper_top1", "paper top-1", "number", _form("{:.2f}")),
    Column("paper_gmacs", "paper GMACs", "number", _form("{:.2f}")),
    Column("against", "compared with", "text", _form("{}")),
)
COSTS = (
    ("params", "parameters (M)", "{:.3f}", 1e-6),
    ("gmacs", "GMACs per image", "{:.4g}", 1.0),
    ("images_per_second", "images/s in training", "{:,.0f}", 1.0),
    ("peak_memory_mib", "peak memory (MiB)", "{:,.0f}", 1.0),
    ("wall_seconds", "seconds per run", "{:,.1f}", 1.0),
)
