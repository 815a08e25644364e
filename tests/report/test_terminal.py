"""The table on the terminal fits its width."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rich.cells import cell_len

from roadmap.analysis.table import read_study
from roadmap.report.columns import readable_table
from roadmap.report.terminal import DROP_ORDER, UNLIMITED, render_table, terminal_width
from tests.conftest import ROOT

LABELS = ["gelu", "a long label " * 8, "x" * 100, "卷积神经网络" * 16, "[bold]not markup[/bold]"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    folder = ROOT / "reports" / "fashion_mnist" / "roadmap"
    return readable_table(read_study(folder).table.head(len(LABELS)).assign(label=LABELS))


@pytest.mark.parametrize("width", [20, 40, 80, 100, 120, 200])
def test_no_line_is_longer_than_the_terminal(width: int, table: pd.DataFrame) -> None:
    text = render_table(table, width, "All columns: roadmap report experiments/study --wide, or roadmap.csv.")
    assert max(map(cell_len, text.splitlines())) <= width
    left_out = [header for header in table.columns if f"{header}" in " ".join(text.split("Columns left out")[1:])]
    assert bool(left_out) is (width < 200) and "step" not in left_out
    assert "[bold]not" in text and text.count("卷") == 16
    for header in left_out:
        assert header in DROP_ORDER


def test_80_columns_show_the_result_and_its_verdict(table: pd.DataFrame) -> None:
    header = render_table(table, 80).splitlines()[0]
    assert header.split() == ["step", "top-1", "(%)", "gain", "95", "%", "interval", "verdict"]
    assert "p (Holm)" not in header


def test_wide_shows_all_columns_in_one_line_each(table: pd.DataFrame) -> None:
    text = render_table(table, UNLIMITED)
    assert "Columns left out" not in text and len(text.splitlines()) == 1 + len(LABELS)
    assert all(header in text.splitlines()[0] for header in table.columns)


def test_a_status_column_with_equal_cells_is_left_out_first(table: pd.DataFrame) -> None:
    widths = range(200, 80, -1)
    first = next(text for width in widths if "Columns left out" in (text := render_table(table, width)))
    assert "width of" in first and first.split(": ")[-1].startswith("status.")
    failed = table.assign(status=["failed (1 of 3)"] * len(table))
    assert "status" in render_table(failed, 100).splitlines()[0]


def test_a_column_that_is_not_in_the_order_is_left_out_first(table: pd.DataFrame) -> None:
    text = render_table(table.assign(novel="1", status="failed"), 120)
    assert "Columns left out, to fit a width of 120" in text and "novel" not in text.splitlines()[0]


@pytest.mark.parametrize(("columns", "expected"), [("100", 100), ("", 80), ("3", 20)])
def test_the_width_is_that_of_the_terminal_or_80(
    columns: str, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr("sys.__stdout__", file)
        assert terminal_width() == expected
