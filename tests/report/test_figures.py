"""Figures: texts stay inside of the figure and do not overlap, for any number of rows and length of labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.text import Text

from roadmap.analysis.comparison import COMPARISON_COLUMNS
from roadmap.analysis.shapley import SHAPLEY_COLUMNS
from roadmap.analysis.table import Row, Study, read_study
from roadmap.config.roadmaps import load_roadmap
from roadmap.report import figures
from tests.helpers import write_run

WORDS = "kernel size → 7 with stochastic depth, budget.epochs=300 data=fashion_mnist and a long list of further words"


def label_of(index: int, length: int) -> str:
    return f"{index} {WORDS * 3}"[:length].strip()


@pytest.fixture(scope="module")
def two_rows(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    for seed, top1 in enumerate((60.0, 64.0, 61.0)):
        write_run(folder, top1, "+step=baseline", f"seed={seed}")
        write_run(folder, top1 + 5, "+step=kernel_5", f"seed={seed}")
    write_run(folder, None, "+step=kernel_5", "seed=3", status="diverged", error="the loss is nan")
    return read_study(folder / "runs")


def study_of(study: Study, count: int, length: int) -> Study:
    """Return a study with `count` rows whose labels have `length` characters."""
    indices = [i % 2 for i in range(count)]
    labels = [label_of(i, length) for i in range(count)]
    table = study.table.iloc[indices].reset_index(drop=True).assign(label=labels)
    rows = [Row(study.rows[i].records, "", label) for i, label in zip(indices, labels, strict=True)]
    return replace(study, rows=rows, table=table)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Return the list of figures that are drawn, with their layout; nothing is saved."""
    found: list[Any] = []

    def keep(figure: Any, _: list[Path]) -> None:
        figure.canvas.draw()
        found.append(figure)

    monkeypatch.setattr(figures, "save_figure", keep)
    yield found
    plt.close("all")


def tick_labels(axis: Any) -> list[Text]:
    """Return the labels of the ticks that are drawn: those between the ends of the axis."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [label for tick in ticks for label in (tick.label1, tick.label2) if label.get_visible() and label.get_text()]


def check_texts(figure: Any) -> None:
    """Check that all texts are inside of the figure, tick labels do not overlap, and the axes keep their width."""
    box = figure.bbox
    ticks = [tick_labels(axis) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    of_axes = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
    }
    shown = [*itertools.chain(*ticks), *(text for text in figure.findobj(Text) if text not in of_axes)]
    for text in shown:
        if text.get_visible() and text.get_text().strip():
            extent = text.get_window_extent()
            inside = extent.x0 >= -1 and extent.y0 >= -1 and extent.x1 <= box.x1 + 1 and extent.y1 <= box.y1 + 1
            assert inside, f"{text.get_text()!r}: {extent} is outside of {box}"
    for labels in ticks:
        for one, other in itertools.pairwise(label.get_window_extent() for label in labels):
            assert not one.overlaps(other), f"tick labels overlap: {one}, {other}"
    assert len(tick_labels(figure.axes[0].xaxis)) >= 2
    assert figure.axes[0].get_window_extent().width > 0.35 * box.width


@pytest.mark.parametrize("length", [5, 40, 120, 400])
@pytest.mark.parametrize("count", [1, 2, 13, pytest.param(60, marks=pytest.mark.slow), 120])
def test_long_labels_and_many_rows_fit(count: int, length: int, two_rows: Study, drawn: list[Any]) -> None:
    if count == 120 and length in (40, 400):
        pytest.skip("two lengths are enough for the largest figure")
    figures.draw_study(study_of(two_rows, count, length), "fashion_mnist · base nano · runs", [])
    check_texts(drawn[0])


def test_a_long_title_is_wrapped(two_rows: Study, drawn: list[Any]) -> None:
    title = ", ".join(f"dataset_{i}" for i in range(30))
    figures.draw_study(study_of(two_rows, 2, 5), title, [])
    check_texts(drawn[0])


def test_a_word_without_spaces_is_broken(two_rows: Study, drawn: list[Any]) -> None:
    study = study_of(two_rows, 2, 5)
    figures.draw_study(replace(study, table=study.table.assign(label="x" * 120)), "", [])
    check_texts(drawn[0])


@pytest.mark.parametrize("count", [1, 13, 60])
@pytest.mark.parametrize("length", [5, 120])
def test_shapley_values_and_comparisons_fit(count: int, length: int, drawn: list[Any]) -> None:
    labels = [label_of(i, length) for i in range(count)]
    numbers = dict.fromkeys(["value", "n_orders", "n_seeds"], 1.0) | {"low": 0.5, "high": 1.5}
    values = pd.DataFrame({"transform": "x", "label": labels, "setting": "", "section": "2.2"} | numbers)
    figures.draw_shapley(values.reindex(columns=SHAPLEY_COLUMNS), load_roadmap(), "a title", [])
    sides = {f"{side}_{name}": 1.0 for side in "ab" for name in ("delta", "low", "high")}
    table = pd.DataFrame({"step": labels, "against": "", "a_verdict": "", "b_verdict": "", "say": ""} | sides)
    figures.draw_comparison(table[COMPARISON_COLUMNS], [f"first ({WORDS})", f"second ({WORDS * 4})"], [])
    for figure in drawn:
        check_texts(figure)


def test_special_characters_of_a_label_are_drawn_as_they_are(two_rows: Study, drawn: list[Any]) -> None:
    """A dollar sign does not begin a formula, and a character that the font does not have gives no warning."""
    study = study_of(two_rows, 2, 5)
    figures.draw_study(replace(study, table=study.table.assign(label=["$x_{$", "卷积"])), "$\\frac$ 卷", [])
    labels = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert labels == ["$x_{$", "卷积"]


@pytest.mark.parametrize(("top1", "starts_at_zero"), [((12.0, 80.0), True), ((80.0, 85.0), False), ((3.0, 4.0), False)])
def test_the_axis_says_that_it_does_not_start_at_0_only_where_this_is_true(
    top1: tuple[float, ...], starts_at_zero: bool, tmp_path: Path, drawn: list[Any]
) -> None:
    for step, value in zip(("baseline", "gelu"), top1, strict=True):
        write_run(tmp_path, value, f"+step={step}")
    figures.draw_study(read_study(tmp_path / "runs"), "", [])
    axes = drawn[0].axes[0]
    assert bool(axes.get_xlim()[0] == 0) is starts_at_zero
    assert ("does not start at 0" in axes.get_xlabel()) is not starts_at_zero
