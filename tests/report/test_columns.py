"""One definition of a column for Markdown, LaTeX, the terminal and the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadmap.analysis.table import COLUMNS as TABLE_COLUMNS
from roadmap.analysis.table import EMA_COLUMNS, EVALUATION_COLUMNS, read_study
from roadmap.config.roadmaps import load_roadmap
from roadmap.report import columns, figures, page, writer
from roadmap.report.columns import COLUMNS, NO_VALUE, Column
from roadmap.report.formats import latex, markdown
from roadmap.report.sections import page_text
from roadmap.report.wording import comparison_sentences, notes
from tests.helpers import make_study, write_run


def test_keys_are_columns_of_the_table_and_headers_are_unique() -> None:
    assert {column.key for column in COLUMNS} <= {*TABLE_COLUMNS, *EMA_COLUMNS, *EVALUATION_COLUMNS}
    assert len({column.header for column in COLUMNS}) == len(COLUMNS)


def test_a_new_column_appears_in_all_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Column("top1_low", "lower end", "%", "{:.1f}")
    for module in (columns, page):
        monkeypatch.setattr(module, "COLUMNS", (*COLUMNS, new))
    text = writer.write_report(make_study(tmp_path), tmp_path)
    assert "lower end (%)" in text
    for name, header in (("roadmap.md", "| lower end (%) |"), ("roadmap.tex", r"& lower end (\%) \\")):
        assert header in (tmp_path / name).read_text(encoding="utf-8")
    assert '<button type="button">lower end (%)</button>' in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_text_of_cells(tmp_path: Path) -> None:
    lines = columns.lines_of(read_study(make_study(tmp_path)).table)
    cells = [{column.key: column.text(line) for column in COLUMNS} for line in lines]
    assert cells[1]["top1_mean"] == "93.00 ± 2.00" and cells[2]["top1_mean"] == "94.00"
    assert (cells[1]["delta"], cells[1]["against"], cells[1]["params"]) == ("+2.00", "baseline", "0.001")
    assert {cells[0][key] for key in ("delta", "delta_low", "p_holm", "verdict", "against")} == {NO_VALUE}
    assert (cells[2]["status"], cells[3]["status"]) == ("diverged (1 of 2)", "failed (1 of 1)")
    delta = next(column for column in COLUMNS if column.key == "delta")
    assert delta.text({"delta": -1.5}) == "-1.50" and page_text(delta, {"delta": -1.5}) == "−1.50"


def test_text_is_aligned_to_the_left(tmp_path: Path) -> None:
    table = columns.readable_table(read_study(make_study(tmp_path)).table)
    alignment = dict(zip(table.columns, markdown(table, []).splitlines()[1].strip("| ").split(" | "), strict=True))
    assert {header for header, align in alignment.items() if align == ":---"} == {"step", "verdict", "status"}
    assert "{" + "".join("l" if align == ":---" else "r" for align in alignment.values()) + "}" in latex(table, [])


def test_results_of_the_moving_average_have_columns_of_their_own(tmp_path: Path) -> None:
    for seed, top1 in enumerate((93.0, 95.0)):
        write_run(tmp_path, 90.0, "+step=baseline", f"seed={seed}")
        average = {"top1": top1, "top5": 99.0, "loss": 0.4}
        write_run(tmp_path, 90.0, "+step=baseline", "+ingredient=[ema]", f"seed={seed}", ema=average)
    study = read_study(tmp_path / "runs")
    plain, with_ema = columns.lines_of(study.table)
    column = next(column for column in COLUMNS if column.key == "ema_top1_mean")
    assert (with_ema["label"], column.text(with_ema), column.text(plain)) == (
        "baseline with EMA of the weights", "94.00 ± 1.41", NO_VALUE,
    )  # fmt: skip
    assert "top-1 of the EMA (%)" in columns.readable_table(study.table)
    lines = notes(study)
    assert any(line.startswith("top-1 of the EMA: accuracy of the exponential moving average") for line in lines)
    assert not any("Changes without effect" in line for line in lines)  # the losses of the weights are equal
    assert comparison_sentences(study) == [
        "baseline with EMA of the weights, compared with baseline: the weights are the same. The effect of the moving"
        " average is in the column top-1 of the EMA."
    ]


def test_each_section_of_the_paper_has_a_colour() -> None:
    sections = load_roadmap().file.sections
    colors = {name: section.color for name, section in sections.items()}
    assert {colors[name] for name in ("2", "2.1", "A.1")} == {"#8c8c8c"}
    others = [color for color in colors.values() if color != "#8c8c8c"]
    assert len(set(others)) == len(others) == 5 and figures.BEYOND.color not in others
