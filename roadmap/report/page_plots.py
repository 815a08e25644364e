"""The page's plots, drawn by matplotlib as SVG that takes the page's colours."""

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

from roadmap.analysis.table import Study
from roadmap.report import figures
from roadmap.report.figures import FAINT, INK

# Text stays text, and equal plots get equal ids.
STYLE = figures.STYLE | {"svg.fonttype": "none", "font.size": 9, "axes.labelcolor": INK, "axes.titlesize": 9}
# Colours and the page's names of them; Okabe and Ito's palette among them.
THEME = {INK: "ink", "#000000": "ink", FAINT: "faint", "#ffffff": "paper", "#b00020": "bad", "#777777": "muted"}
THEME |= {"#0072b2": "blue", "#e69f00": "orange", "#009e73": "green", "#cc79a7": "rose", "#56b4e9": "sky"}
THEME |= {"#d55e00": "red", "#8c8c8c": "grey"}
SEEDS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
MUTED, FRONT = "#777777", "#0072b2"


def study_figure(study: Study, said: str) -> Markup:
    """The picture of `roadmap.picture`; `said` is what it says, in words."""
    return _pictured(lambda path: figures.draw_study(study, "", [path]), said)


def shapley_figure(values: pd.DataFrame, said: str) -> Markup:
    """That of an attribution."""
    return _pictured(lambda path: figures.draw_shapley(values, "", [path]), said)


def _pictured(draw: Callable[[Path], None], said: str) -> Markup:
    with TemporaryDirectory() as folder, plt.rc_context({"svg.fonttype": "none"}):
        path = Path(folder) / "road.svg"
        draw(path)
        return inline(path.read_text(encoding="utf-8"), "road", said)


def accuracy_curves(group: list[dict[str, Any]], key: str, said: str) -> Markup:
    """Top-1 of each seed in `group` over the epochs."""
    with plt.rc_context(STYLE):
        figure, axes = _over_epochs(f"{evaluated(group)} top-1 (%)")
        for content, style in zip(group, _lines(len(group)), strict=True):
            epochs, values = _series(content, "test_top1")
            axes.plot(epochs, values, label=f"seed {content['seed']}", **style | _dots(len(epochs)))
        axes.legend(frameon=False, fontsize=8, loc="lower right", ncols=1 + (len(group) > 5))
        return _inline(figure, key, said)


def loss_curves(group: list[dict[str, Any]], key: str, said: str) -> Markup:
    """Training loss and that of the evaluations, of each seed in `group` over the epochs."""
    with plt.rc_context(STYLE):
        figure, axes = _over_epochs(f"loss: {evaluated(group)}, and paler training")
        for content, style in zip(group, _lines(len(group)), strict=True):
            epochs, values = _series(content, "test_loss")
            axes.plot(epochs, values, **style | _dots(len(epochs)))
            axes.plot(*_series(content, "train_loss"), **style | {"linewidth": 1.0, "alpha": 0.45})
        return _inline(figure, key, said)


def evaluated(group: list[dict[str, Any]]) -> str:
    """The images on which top-1 and loss were taken, in a word."""
    return "held-out" if group[0]["config"]["data"]["holdout"] else "test"


def _over_epochs(title: str) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(4.2, 2.7))
    figure.subplots_adjust(0.105, 0.16, 0.985, 0.9)
    axes.set_title(title, loc="left")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(color=FAINT, linewidth=0.6)
    return figure, axes


def _lines(count: int) -> list[dict[str, Any]]:
    colours = [SEEDS[i % len(SEEDS)] for i in range(count)]
    return [
        {"color": c, "linewidth": 1.3, "linestyle": "--" if i >= len(SEEDS) else "-"} for i, c in enumerate(colours)
    ]


def _dots(count: int) -> dict[str, Any]:
    """A dot for each of a few points."""
    return {"marker": "o", "markersize": 2.5} if count <= 12 else {}


def _series(content: dict[str, Any], what: str) -> tuple[list[float], list[float]]:
    points = [(point["epoch"], point[what]) for point in content["curve"] if point.get(what) is not None]
    return [epoch for epoch, _ in points], [value for _, value in points]


def against_cost(points: pd.DataFrame, front: list[int], label: str, key: str, said: str) -> Markup:
    """`points` (cost, top1; the index numbers the rows) with the `front` of those that no other beats in both."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.4, 3.5))
        figure.subplots_adjust(0.115, 0.13, 0.985, 0.93)
        best = points.loc[front]
        axes.plot(best["cost"], best["top1"], color=FRONT, linewidth=1.2, drawstyle="steps-post", zorder=2)
        others = points.drop(front)
        axes.plot(others["cost"], others["top1"], "o", color="#ffffff", markeredgecolor=MUTED, markersize=5, zorder=3)
        axes.plot(best["cost"], best["top1"], "o", color=FRONT, markersize=6, zorder=4)
        for number, point in points.iterrows():
            on = number in front
            style: dict[str, Any] = {"color": INK, "fontweight": "bold"} if on else {"color": MUTED, "fontsize": 8}
            axes.annotate(f"{number}", (point["cost"], point["top1"]), (5, 3), textcoords="offset points", **style)
        axes.margins(0.09)
        axes.set_xlabel(label)
        axes.set_title("top-1 (%)", loc="left")
        axes.grid(color=FAINT, linewidth=0.6, zorder=0)
        return _inline(figure, key, said)


def pareto(cost: pd.Series, top1: pd.Series) -> list[int]:
    """The rows that no other row beats: at most as costly and at least as accurate, and better in one."""
    best: list[int] = []
    points = pd.DataFrame({"cost": cost, "top1": top1}).dropna()
    for number, point in points.iterrows():
        no_worse = (points["cost"] <= point["cost"]) & (points["top1"] >= point["top1"])
        better = (points["cost"] < point["cost"]) | (points["top1"] > point["top1"])
        if not (no_worse & better).any():
            best.append(int(number))
    return sorted(best, key=lambda number: (points["cost"][number], number))


def _inline(figure: Any, key: str, said: str) -> Markup:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    plt.close(figure)
    return inline(drawn.getvalue(), key, said)


def inline(svg: str, key: str, said: str) -> Markup:
    """A file of matplotlib's as an element of the page: its ids begin with `key`, its colours are the page's, `said`
    is read out in its place."""
    body = re.sub(
        r"(?s)<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg[svg.index(">", svg.index("<svg")) + 1 :]
    )
    used = set(re.findall(r'(?:href="|url\()#([\w.-]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{key}-{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'(?:xlink:)?(href="|url\()#', rf"\1#{key}-", body)
    for colour, name in THEME.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r'(?s)="[^"]*"', lambda found: _short(found[0]), body)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    body = re.sub(r">\s+<", "><", body)
    return Markup(f'<svg class="plot" role="img" aria-label="{escape(said)}" viewBox="{box[1]}">{body.strip()}')


def _short(attribute: str) -> str:
    """Coordinates to a hundredth of a pixel are enough."""
    rounded = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", attribute)
    return re.sub(r"\s+", " ", rounded)
