"""Figures of a report, drawn by matplotlib.

The figure of a roadmap follows the paper's Figure 2: one bar of accuracy for each step from top to bottom, and the
multiply-adds beside the bars.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from roadmap.analysis.table import Study
from roadmap.config.roadmap_files import Section
from roadmap.config.roadmaps import Roadmap
from roadmap.records.record import COMPLETED
from roadmap.report.columns import Line, lines_of, mean_and_deviation

# Titles and colours of lines that are in no section of the roadmap.
REFERENCE = Section("reference", "#777777")
BEYOND = Section("beyond the paper", "#d55e00")
OTHER = Section("other steps", "#d55e00")
BASE, STEP = Section("baseline", "#8c8c8c"), Section("step", "#0072b2")  # of a roadmap without sections
INK, FAINT, ERROR = "#222222", "#d9d9d9", "#b00020"
STYLE = {"font.size": 10, "axes.edgecolor": INK, "text.color": INK, "svg.hashsalt": "roadmap"}
STYLE |= {"text.parse_math": False}  # a dollar sign in a label does not begin a formula
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 1.2}


MAX_LABEL_LENGTH, MAX_LABEL_WIDTH, MAX_LABEL_LINES = 120, 40, 4  # of a label: characters, characters per line, lines
USUAL_LABEL_WIDTH = 28  # characters; longer labels make the figure wider
CHARACTER_INCHES, LINE_INCHES = 0.085, 0.165  # of the labels


def draw_study(study: Study, title: str, paths: list[Path]) -> None:
    """Draw the table of a study, with a dot for every run, into every path.

    A sweep over steps also gets the paper's accuracies, and one line of multiply-adds for each setting. In the other
    designs each network is a variation of the same network, so that a line between them has no meaning.
    """
    table, is_roadmap = study.table, study.manifest.is_path
    groups = [row.setting if is_roadmap else row.label for row in study.rows]
    labels = wrap_labels(table["label"])
    with figure_style():
        size = _figure_size(labels, width=11, row_height=0.42, margins=2.1)
        figure, (bars, costs) = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=[4, 1], layout="constrained")
        _draw_accuracy(bars, table, study)
        if is_roadmap and table["paper_top1"].notna().any():
            _draw_published(bars, table, study.roadmap)
        _draw_costs(costs, table, groups)
        bars.set_yticks(range(len(table)), labels)
        bars.set_ylim(len(table) - 0.4, -0.6)
        set_title(figure, title)
        figure.legend(
            handles=_legend(table, study.roadmap), loc="outside lower center", ncols=6, frameon=False, fontsize=9
        )
        save_figure(figure, paths)


def draw_shapley(values: pd.DataFrame, roadmap: Roadmap, title: str, paths: list[Path]) -> None:
    """Draw Shapley values (the columns SHAPLEY_COLUMNS of `roadmap.analysis.shapley`) with their intervals."""
    labels = wrap_labels((values["label"] + " " + values["setting"]).str.strip())
    with figure_style():
        size = _figure_size(labels, width=9, row_height=0.36, margins=1.6)
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        for y, line in enumerate(lines_of(values)):
            axes.barh(y, line["value"], height=0.66, zorder=2, color=_section(line, roadmap).color)
            if not math.isnan(line["low"]):
                axes.plot([line["low"], line["high"]], [y, y], color=INK, linewidth=1.3, zorder=3)
        _set_up_rows(axes, labels)
        axes.set_xlabel("Shapley value in points of top-1, with 95 % interval")
        set_title(figure, title)
        save_figure(figure, paths)


def draw_comparison(table: pd.DataFrame, names: list[str], paths: list[Path]) -> None:
    """Draw the gains of two studies (COMPARISON_COLUMNS of `roadmap.analysis.comparison`), step by step."""
    labels = wrap_labels(table["step"])
    names = [textwrap.fill(name, 110) for name in names]
    with figure_style():
        size = _figure_size(labels, width=9, row_height=0.46, margins=1.5 + 0.2 * len("".join(names)) / 60)
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        for side, name, shift, colour in (("a", names[0], -0.14, "#0072b2"), ("b", names[1], 0.14, "#d55e00")):
            y = [index + shift for index in range(len(table))]
            axes.hlines(y, table[f"{side}_low"], table[f"{side}_high"], color=colour, linewidth=1.3, zorder=3)
            axes.plot(table[f"{side}_delta"], y, "o", color=colour, markersize=5.5, zorder=4, label=name)
        _set_up_rows(axes, labels)
        axes.set_xlabel("gain in points of top-1, with 95 % interval")
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
        save_figure(figure, paths)


def wrap_labels(labels: Sequence[str] | pd.Series) -> list[str]:
    """Return the labels, long ones with line breaks. Of a very long label only both ends are kept: they differ."""

    def wrap(label: str) -> str:
        if len(label) > MAX_LABEL_LENGTH:
            label = f"{label[: MAX_LABEL_LENGTH // 2].strip()} … {label[-MAX_LABEL_LENGTH // 2 :].strip()}"
        return "\n".join(textwrap.wrap(label, MAX_LABEL_WIDTH, max_lines=MAX_LABEL_LINES, placeholder=" …"))

    return list(map(wrap, labels))


def _figure_size(labels: Sequence[str], width: float, row_height: float, margins: float) -> tuple[float, float]:
    """Return width and height of a figure in inches; labels with long lines or many lines make it larger.

    `row_height` is the usual height of a row, `margins` is the height above and below the rows.
    """
    longest = max(len(line) for label in labels for line in label.splitlines())
    num_lines = max(label.count("\n") + 1 for label in labels)
    width += CHARACTER_INCHES * max(0, longest - USUAL_LABEL_WIDTH)
    return width, max(row_height, LINE_INCHES * (num_lines + 0.5)) * len(labels) + margins


@contextmanager
def figure_style() -> Iterator[None]:
    """Use STYLE; a character that the font does not have is drawn as a box, without a warning."""
    with plt.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield


def set_title(figure: Any, title: str) -> None:
    text = textwrap.fill(title, int(figure.get_figwidth() / 0.1))
    figure.suptitle(text, x=0.01, ha="left", fontweight="bold")


def _set_up_rows(axes: Any, names: Sequence[str]) -> None:
    """Label one row for each name, from top to bottom, and draw a line at zero."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=4)
    axes.grid(axis="x", color=FAINT, zorder=0)
    axes.tick_params(axis="y", length=0)


def save_figure(figure: Any, paths: list[Path]) -> None:
    for path in paths:
        variable = "Date" if path.suffix == ".svg" else "Software"  # without it, equal figures have equal bytes
        figure.savefig(path, dpi=160, metadata={variable: None})
    plt.close(figure)


def _draw_accuracy(axes: Any, table: pd.DataFrame, study: Study) -> None:
    seeds = [row.top1 for row in study.rows]
    values = [value for top1 in seeds for value in top1] + table["top1_mean"].dropna().tolist()
    low, high = (min(values), max(values)) if values else (0.0, 100.0)
    span = max(high - low, 1.0)
    right = min(100.0, high + 0.15 * span) if high < 100 else 100.0 + 0.01 * span
    left = max(0.0, low - 0.15 * span)
    left = 0.0 if left < 0.1 * right else left  # an axis that starts just above 0 would seem to start at 0
    right_of_axes = axes.get_yaxis_transform()
    for y, (line, top1) in enumerate(zip(lines_of(table), seeds, strict=True)):
        colour, mean, num_seeds = _section(line, study.roadmap).color, line["top1_mean"], line["n_seeds"]
        if num_seeds:
            is_variant = line["variant"]
            fill = {"hatch": "////", "facecolor": "white", "edgecolor": colour} if is_variant else {"color": colour}
            axes.barh(y, mean - left, left=left, height=0.66, zorder=2, **fill)
            if not math.isnan(line["top1_low"]):
                ends = [max(line["top1_low"], left), min(line["top1_high"], right)]  # clipped to the axes
                axes.plot(ends, [y, y], color=INK, linewidth=1.3, zorder=3)
            axes.plot(top1, [y] * len(top1), "o", color="white", markeredgecolor=INK, markersize=4.5, zorder=4)
            text = mean_and_deviation(line)
            axes.text(1.01, y, text, va="center", fontsize=9, transform=right_of_axes)
        if line["status"] != COMPLETED:
            not_completed = line["n_failed"] + line["n_diverged"]
            text = f"  {line['status']}: {not_completed} of {num_seeds + not_completed} seeds"
            above_bar = y - (0.42 if num_seeds else 0.0)
            axes.text(left, above_bar, text, va="center", color=ERROR, fontsize=9, zorder=6)
    axes.set_xlim(left, right)
    axes.set_xlabel("top-1 accuracy (%); the axis does not start at 0" if left > 0 else "top-1 accuracy (%)")
    axes.grid(axis="x", color=FAINT, zorder=0)
    axes.tick_params(axis="y", length=0)


def _draw_published(axes: Any, table: pd.DataFrame, roadmap: Roadmap) -> None:
    """Draw the published accuracies as marks on a separate axis."""
    top = axes.twiny()
    values = table["paper_top1"]
    top.plot(values, range(len(table)), "D", color="#000000", markerfacecolor="none", markersize=5, zorder=5)
    span = max(values.max() - values.min(), 1.0)
    top.set_xlim(values.min() - 0.15 * span, values.max() + 0.15 * span)
    source = "paper: ImageNet-1K top-1" if roadmap.has_papers_numbers else "published top-1"
    top.set_xlabel(f"◇ {source} (%), separate scale", fontsize=9)
    top.spines["top"].set_visible(True)
    top.tick_params(labelsize=9)


def _draw_costs(axes: Any, table: pd.DataFrame, groups: list[str]) -> None:
    """Draw multiply-adds; `groups` names for each row the line that it belongs to."""
    is_separate = table["variant"] | table["reference"]
    unit, scale = ("GMACs", 1.0) if table["gmacs"].max() >= 1 else ("MMACs", 1e3)
    costs = table["gmacs"] * scale
    for _, line in costs[~is_separate].groupby(pd.Series(groups)[~is_separate]):
        axes.plot(line, line.index, "-o", color=INK, markersize=4, linewidth=1.4, zorder=3)
    separate = costs[is_separate]
    axes.plot(separate, separate.index, "o", color="white", markeredgecolor=INK, markersize=4, zorder=3)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
    for y, cost in costs.items():
        text = f"{cost:#.3g}".rstrip(".")
        axes.annotate(text, (cost, y), (6, 0), textcoords="offset points", va="center", fontsize=8, bbox=box)
    if costs.notna().any():
        span = max(costs.max() - costs.min(), 0.1 * costs.max())
        axes.set_xlim(costs.min() - 0.15 * span, costs.max() + 0.55 * span)
    axes.set_xlabel(f"{unit} per image")
    axes.grid(axis="x", color=FAINT, zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _section(line: Line, roadmap: Roadmap) -> Section:
    """Return the section of a line, with its title and colour."""
    sections = roadmap.file.sections
    if line.get("reference"):
        return REFERENCE
    if not sections:
        return BASE if line.get("step") == roadmap.step_names[0] else STEP
    return sections.get(line["section"], BEYOND if roadmap.has_papers_numbers else OTHER)


def _legend(table: pd.DataFrame, roadmap: Roadmap) -> list[Any]:
    used = dict.fromkeys(_section(line, roadmap).color for line in lines_of(table))
    known = [*roadmap.file.sections.values(), *(_section(line, roadmap) for line in lines_of(table))]
    titles = {color: dict.fromkeys(section.title for section in known if section.color == color) for color in used}
    handles: list[Any] = [Patch(color=color, label=", ".join(titles[color])) for color in used]
    if table["variant"].any():
        handles.append(Patch(facecolor="white", edgecolor=INK, hatch="////", label="variant, not kept"))
    dot: dict[str, Any] = {"color": "none", "markerfacecolor": "white", "markeredgecolor": INK}
    handles.append(Line2D([], [], marker="o", markersize=4.5, label="one seed", **dot))
    if table["top1_low"].notna().any():
        handles.append(Line2D([], [], color=INK, linewidth=1.3, label="95 % interval of the mean"))
    return handles
