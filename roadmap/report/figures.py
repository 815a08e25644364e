"""The road as a picture, in the manner of the paper's Figure 2: stations from top to bottom, bars of accuracy, and a
line of what they cost beside them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from roadmap.analysis.table import Row, Study
from roadmap.records.record import COMPLETED

# The paper's sections, 2 for row 0, with headings and colours (Okabe and Ito's palette: safe for colour-blind readers).
SECTIONS = {
    "2": ("ResNet", "#8c8c8c"),
    "2.1": ("training", "#8c8c8c"),
    "2.2": ("macro design", "#e69f00"),
    "2.3": ("ResNeXt-ify", "#56b4e9"),
    "2.4": ("inverted bottleneck", "#009e73"),
    "2.5": ("large kernel", "#cc79a7"),
    "2.6": ("micro design", "#0072b2"),
}
REFERENCE = ("reference", "#777777")
BEYOND = ("beyond the paper", "#d55e00")
INK, FAINT = "#222222", "#d9d9d9"
STYLE = {"font.size": 10, "axes.edgecolor": INK, "text.color": INK, "svg.hashsalt": "roadmap"}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 1.2}


def draw_study(study: Study, title: str, paths: list[Path]) -> None:
    """Draw the table of a study (see `results.COLUMNS`) with a dot for every run into every path.

    Each setting has a line of costs of its own. Networks that are no road, as each lacks another step, have none, and
    no road of the paper beside them.
    """
    table, is_road = study.table, study.manifest.design == "grid"
    roads = [row.setting if is_road else row.label for row in study.rows]
    with plt.rc_context(STYLE):
        height = 0.42 * len(table) + 2.1
        figure, (bars, costs) = plt.subplots(
            1, 2, figsize=(11, height), sharey=True, width_ratios=[4, 1], layout="constrained"
        )
        _draw_accuracy(bars, table, study.rows)
        if is_road and table["paper_top1"].notna().any():
            _draw_paper(bars, table)
        _draw_costs(costs, table, roads)
        bars.set_yticks(range(len(table)), table["label"])
        bars.set_ylim(len(table) - 0.4, -0.6)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        figure.legend(handles=_legend(table), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
        _save(figure, paths)


def draw_shapley(worth: pd.DataFrame, title: str, paths: list[Path]) -> None:
    """Draw Shapley values (see `attribution.COLUMNS`), with their intervals."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9, 0.36 * len(worth) + 1.6), layout="constrained")
        for y, line in enumerate(worth.itertuples()):
            axes.barh(y, line.value, height=0.66, zorder=2, color=_section(str(line.section))[1])
            if not math.isnan(line.low):
                axes.plot([line.low, line.high], [y, y], color=INK, linewidth=1.3, zorder=3)
        _around_zero(axes, (worth["label"] + " " + worth["setting"]).str.strip())
        axes.set_xlabel("worth, whatever the order: Shapley value in points of top-1, with its 95 % interval")
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        _save(figure, paths)


def draw_comparison(table: pd.DataFrame, names: list[str], paths: list[Path]) -> None:
    """Draw the gains of two studies (see `compare.COLUMNS`) one below the other, step by step."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9, 0.46 * len(table) + 1.9), layout="constrained")
        for side, name, shift, colour in (("a", names[0], -0.14, "#0072b2"), ("b", names[1], 0.14, "#d55e00")):
            y = [place + shift for place in range(len(table))]
            axes.hlines(y, table[f"{side}_low"], table[f"{side}_high"], color=colour, linewidth=1.3, zorder=3)
            axes.plot(table[f"{side}_delta"], y, "o", color=colour, markersize=5.5, zorder=4, label=name)
        _around_zero(axes, table["step"])
        axes.set_xlabel("gain in points of top-1, with its 95 % interval")
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
        _save(figure, paths)


def _around_zero(axes: Any, names: pd.Series) -> None:
    """A row for each name, from top to bottom, and a line at zero."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=4)
    axes.grid(axis="x", color=FAINT, zorder=0)
    axes.tick_params(axis="y", length=0)


def _save(figure: Any, paths: list[Path]) -> None:
    for path in paths:
        date = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=160, metadata=date)
    plt.close(figure)


def _draw_accuracy(axes: Any, table: pd.DataFrame, rows: list[Row]) -> None:
    dots = [row.top1 for row in rows]
    seen = [value for values in dots for value in values] + table["top1_mean"].dropna().tolist()
    low, high = (min(seen), max(seen)) if seen else (0.0, 100.0)
    span = max(high - low, 1.0)
    left, right = max(0.0, low - 0.15 * span), min(100.0, high + 0.15 * span) if high < 100 else 100.0 + 0.01 * span
    beside = axes.get_yaxis_transform()
    for y, (line, values) in enumerate(zip(table.itertuples(), dots, strict=True)):
        colour = _section(str(line.section), line.reference)[1]
        if line.n_seeds:
            hatch = {"hatch": "////", "facecolor": "white", "edgecolor": colour} if line.variant else {"color": colour}
            axes.barh(y, line.top1_mean - left, left=left, height=0.66, zorder=2, **hatch)
            if not math.isnan(line.top1_low):
                ends = [max(line.top1_low, left), min(line.top1_high, right)]  # a wide interval ends at the frame
                axes.plot(ends, [y, y], color=INK, linewidth=1.3, zorder=3)
            axes.plot(values, [y] * len(values), "o", color="white", markeredgecolor=INK, markersize=4.5, zorder=4)
            spread = "" if math.isnan(line.top1_std) else f" ± {line.top1_std:.2f}"
            axes.text(1.01, y, f"{line.top1_mean:.2f}{spread}", va="center", fontsize=9, transform=beside)
        if line.status != COMPLETED:
            bad = line.n_failed + line.n_diverged
            said = f"  {line.status}: {bad} of {line.n_seeds + bad} seeds"
            place = {"x": left, "y": y - (0.42 if line.n_seeds else 0.0)}
            axes.text(s=said, va="center", color="#b00020", fontsize=9, zorder=6, **place)
    axes.set_xlim(left, right)
    axes.set_xlabel("top-1 accuracy (%), axis not from zero")
    axes.grid(axis="x", color=FAINT, zorder=0)
    axes.tick_params(axis="y", length=0)


def _draw_paper(axes: Any, table: pd.DataFrame) -> None:
    """The paper's ImageNet figures as marks on a scale of their own: never blended with ours."""
    top = axes.twiny()
    values = table["paper_top1"]
    top.plot(values, range(len(table)), "D", color="#000000", markerfacecolor="none", markersize=5, zorder=5)
    span = max(values.max() - values.min(), 1.0)
    top.set_xlim(values.min() - 0.15 * span, values.max() + 0.15 * span)
    top.set_xlabel("◇ paper: ImageNet-1K top-1 (%), its own scale", fontsize=9)
    top.spines["top"].set_visible(True)
    top.tick_params(labelsize=9)


def _draw_costs(axes: Any, table: pd.DataFrame, roads: list[str]) -> None:
    """`roads` names for each row the line that it is on."""
    aside = table["variant"] | table["reference"]
    unit, scale = ("GMACs", 1.0) if table["gmacs"].max() >= 1 else ("MMACs", 1e3)
    for _, path in table[~aside].groupby(pd.Series(roads)[~aside]):
        axes.plot(path["gmacs"] * scale, path.index, "-o", color=INK, markersize=4, linewidth=1.4, zorder=3)
    variants = table[aside]
    axes.plot(
        variants["gmacs"] * scale, variants.index, "o", color="white", markeredgecolor=INK, markersize=4, zorder=3
    )
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
    for y, value in zip(table.index, table["gmacs"] * scale, strict=True):
        said = f"{value:#.3g}".rstrip(".")
        axes.annotate(said, (value, y), (6, 0), textcoords="offset points", va="center", fontsize=8, bbox=box)
    costs = table["gmacs"].dropna() * scale
    if len(costs):
        span = max(costs.max() - costs.min(), 0.1 * costs.max())
        axes.set_xlim(costs.min() - 0.15 * span, costs.max() + 0.55 * span)
    axes.set_xlabel(f"{unit} per image")
    axes.grid(axis="x", color=FAINT, zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _section(section: str, reference: bool = False) -> tuple[str, str]:
    return REFERENCE if reference else SECTIONS.get(section, BEYOND)


def _legend(table: pd.DataFrame) -> list[Any]:
    seen = dict.fromkeys(_section(str(line.section), line.reference) for line in table.itertuples())
    colours = dict.fromkeys(
        ("baseline, training", SECTIONS["2"][1]) if c == SECTIONS["2"][1] else (n, c) for n, c in seen
    )
    handles: list[Any] = [Patch(color=colour, label=f"{name}") for name, colour in colours]
    if table["variant"].any():
        handles.append(Patch(facecolor="white", edgecolor=INK, hatch="////", label="variant, not on the path"))
    dot: dict[str, Any] = {"color": "none", "markerfacecolor": "white", "markeredgecolor": INK}
    handles.append(Line2D([], [], marker="o", markersize=4.5, label="one seed", **dot))
    if table["top1_low"].notna().any():
        handles.append(Line2D([], [], color=INK, linewidth=1.3, label="95 % interval of the mean"))
    return handles
