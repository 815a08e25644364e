"""Plots of the page: drawn by matplotlib, embedded as SVG with the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from roadmap.analysis.table import Records, Study
from roadmap.config.roadmaps import Roadmap
from roadmap.report import figures
from roadmap.report.figures import ERROR, FAINT, INK

# Text stays text; a fixed salt (in figures.STYLE) gives equal plots equal ids.
STYLE = figures.STYLE | {"svg.fonttype": "none", "font.size": 9, "axes.labelcolor": INK, "axes.titlesize": 9}
# Colours of the figures and the names of the page's colours that replace them.
THEME = {INK: "ink", "#000000": "ink", FAINT: "faint", "#ffffff": "paper", ERROR: "bad", "#777777": "muted"}
THEME |= {"#0072b2": "blue", "#e69f00": "orange", "#009e73": "green", "#cc79a7": "rose", "#56b4e9": "sky"}
THEME |= {"#d55e00": "red", "#8c8c8c": "grey"}
SEED_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
MUTED, FRONT = "#777777", "#0072b2"


def study_figure(study: Study, description: str) -> Markup:
    """Return the figure of a study as SVG; screen readers read `description`."""
    return _embed_figure(lambda path: figures.draw_study(study, "", [path]), description)


def shapley_figure(values: pd.DataFrame, roadmap: Roadmap, description: str) -> Markup:
    """Return the figure of an attribution study as SVG."""
    return _embed_figure(lambda path: figures.draw_shapley(values, roadmap, "", [path]), description)


def _embed_figure(draw: Callable[[Path], None], description: str) -> Markup:
    with TemporaryDirectory() as folder, plt.rc_context({"svg.fonttype": "none"}):
        path = Path(folder) / "figure.svg"
        draw(path)
        return embed_svg(path.read_text(encoding="utf-8"), "figure", description)


def accuracy_curves(records: Records, key: str, description: str) -> Markup:
    """Return top-1 of each run over the epochs, as SVG. The ids in it begin with `key`."""
    with plt.rc_context(STYLE):
        figure, axes = _plot_over_epochs(f"{evaluation_images(records)} top-1 (%)")
        for record, style in zip(records, _line_styles(len(records)), strict=True):
            epochs, values = _series(record, "test_top1")
            axes.plot(epochs, values, label=f"seed {record['seed']}", **style | _markers(len(epochs)))
        axes.legend(frameon=False, fontsize=8, loc="lower right", ncols=1 + (len(records) > 5))
        return _embed(figure, key, description)


def loss_curves(records: Records, key: str, description: str) -> Markup:
    """Return the training loss and the loss of the evaluations of each run over the epochs, as SVG."""
    with plt.rc_context(STYLE):
        figure, axes = _plot_over_epochs(f"loss: {evaluation_images(records)}; training in pale colours")
        for record, style in zip(records, _line_styles(len(records)), strict=True):
            epochs, values = _series(record, "test_loss")
            axes.plot(epochs, values, **style | _markers(len(epochs)))
            axes.plot(*_series(record, "train_loss"), **style | {"linewidth": 1.0, "alpha": 0.45})
        return _embed(figure, key, description)


def evaluation_images(records: Records) -> str:
    """Return which images top-1 and loss were measured on: `test` or `held-out`."""
    return "held-out" if records[0]["config"]["data"]["holdout"] else "test"


def _plot_over_epochs(title: str) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(4.2, 2.7))
    figure.subplots_adjust(0.105, 0.16, 0.985, 0.9)
    axes.set_title(title, loc="left")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(color=FAINT, linewidth=0.6)
    return figure, axes


def _line_styles(count: int) -> list[dict[str, Any]]:
    """Return a style for each of `count` lines: dashed once the colours repeat."""
    number = len(SEED_COLOURS)
    return [
        {"color": SEED_COLOURS[i % number], "linewidth": 1.3, "linestyle": "--" if i >= number else "-"}
        for i in range(count)
    ]


def _markers(num_points: int) -> dict[str, Any]:
    """Return a style with a dot for each point, if there are few."""
    return {"marker": "o", "markersize": 2.5} if num_points <= 12 else {}


def _series(record: dict[str, Any], key: str) -> tuple[list[float], list[float]]:
    points = [(point["epoch"], point[key]) for point in record["curve"] if point.get(key) is not None]
    return [epoch for epoch, _ in points], [value for _, value in points]


def cost_plot(points: pd.DataFrame, front: list[int], label: str, key: str, description: str) -> Markup:
    """Return accuracy against one cost, as SVG.

    `points` has the columns cost and top1, and its index numbers the rows; `front` lists the rows on the Pareto front.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.4, 3.5))
        figure.subplots_adjust(0.115, 0.13, 0.985, 0.93)
        best, others = points.loc[front], points.drop(front)
        axes.plot(best["cost"], best["top1"], color=FRONT, linewidth=1.2, drawstyle="steps-post", zorder=2)
        axes.plot(others["cost"], others["top1"], "o", color="#ffffff", markeredgecolor=MUTED, markersize=5, zorder=3)
        axes.plot(best["cost"], best["top1"], "o", color=FRONT, markersize=6, zorder=4)
        for number, point in points.iterrows():
            is_best = number in front
            style: dict[str, Any] = {"color": INK, "fontweight": "bold"} if is_best else {"color": MUTED, "fontsize": 8}
            axes.annotate(f"{number}", (point["cost"], point["top1"]), (5, 3), textcoords="offset points", **style)
        axes.margins(0.09)
        axes.set_xlabel(label)
        axes.set_title("top-1 (%)", loc="left")
        axes.grid(color=FAINT, linewidth=0.6, zorder=0)
        return _embed(figure, key, description)


def pareto_front(cost: pd.Series, top1: pd.Series) -> list[int]:
    """Return the rows for which no other row is better in one of cost and accuracy and not worse in the other."""
    front: list[int] = []
    points = pd.DataFrame({"cost": cost, "top1": top1}).dropna()
    for number, point in zip(points.index.tolist(), points.to_dict("records"), strict=True):
        not_worse = (points["cost"] <= point["cost"]) & (points["top1"] >= point["top1"])
        better = (points["cost"] < point["cost"]) | (points["top1"] > point["top1"])
        if not (not_worse & better).any():
            front.append(int(number))
    return sorted(front, key=lambda number: (points["cost"][number], number))


def _embed(figure: Any, key: str, description: str) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return embed_svg(buffer.getvalue(), key, description)


def embed_svg(svg: str, key: str, description: str) -> Markup:
    """Return a file of matplotlib as an element of the page.

    Its ids begin with `key`, its colours are the page's, and screen readers read `description`.
    """
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"(?s)<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body)
    used = set(re.findall(r'(?:href="|url\()#([\w.-]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{key}-{match[1]}"' if match[1] in used else "", body)
    body = re.sub(r'(?:xlink:)?(href="|url\()#', rf"\1#{key}-", body)
    for colour, name in THEME.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r'(?s)="[^"]*"', lambda match: _shorten(match[0]), body)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    body = re.sub(r">\s+<", "><", body)
    return Markup(f'<svg class="plot" role="img" aria-label="{escape(description)}" viewBox="{box[1]}">{body.strip()}')


def _shorten(attribute: str) -> str:
    """Return an attribute with numbers rounded to a hundredth of a pixel and single spaces."""
    rounded = re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", attribute)
    return re.sub(r"\s+", " ", rounded)
