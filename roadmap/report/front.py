"""The figure of a search's candidates: estimated accuracy against multiply-adds, and the front of both."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from roadmap.report.figures import FAINT, INK, figure_style, save_figure, set_title

FRONT_COLOR, OTHER_COLOR = "#0072b2", "#999999"
LABEL_WIDTH = 60  # characters of a line of the legend
LEAST_SPAN = 0.5  # of the front, points of top-1


def draw_front(table: pd.DataFrame, max_mmacs: float | None, title: str, paths: Sequence[Path]) -> None:
    """Draw the candidates (a table as `roadmap.report.search.candidates_table` returns it) into every path.

    The networks of the front have numbers, which the text beside the figure explains. `max_mmacs` is the bound of the
    search, 10^6 multiply-adds per image.
    """
    front = table[table["on_front"]].sort_values("mmacs")
    others = table[~table["on_front"]]
    names = [
        textwrap.fill(f"{i}  {line.label}", LABEL_WIDTH, subsequent_indent="    ")
        for i, line in enumerate(front.itertuples(), start=1)
    ]
    num_lines = sum(name.count("\n") + 1 for name in names)
    with figure_style():
        size = (11, max(4.5, 1.2 + 0.2 * num_lines))
        figure, (axes, text) = plt.subplots(1, 2, figsize=size, width_ratios=[3, 2.2], layout="constrained")
        axes.plot(others["mmacs"], others["estimate"], "o", color=OTHER_COLOR, markersize=4, label="candidate")
        axes.plot(front["mmacs"], front["estimate"], "-o", color=FRONT_COLOR, markersize=6, label="front")
        for i, line in enumerate(front.itertuples(), start=1):
            place = {"textcoords": "offset points", "fontsize": 9, "ha": "center"}
            axes.annotate(str(i), (line.mmacs, line.estimate), (0, 7), **place)
        if max_mmacs is not None:
            axes.axvline(max_mmacs, color=INK, linestyle=":", linewidth=1.2, label="bound on multiply-adds")
        axes.set_xlabel("MMACs per image")
        top, span = table["estimate"].max(), max(table["estimate"].max() - front["estimate"].min(), LEAST_SPAN)
        bottom = max(table["estimate"].min(), top - 2 * span)  # a much worse candidate would hide the differences
        axes.set_ylim(bottom - 0.1 * span, top + 0.15 * span)
        num_below = int((table["estimate"] < bottom).sum())
        axes.set_ylabel("estimated top-1 on held-out images (%)")
        if num_below:
            axes.set_title(f"{num_below} candidates are below the axis", fontsize=9, loc="right")
        axes.grid(color=FAINT, zorder=0)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        text.axis("off")
        text.text(0, 1, "\n".join(names), va="top", fontsize=9, transform=text.transAxes)
        set_title(figure, title)
        save_figure(figure, list(paths))
