"""Reference tables: what is read from a CSV file, what is refused, and what follows from the numbers."""

from __future__ import annotations

import pytest

from roadmap.config.reference import ReferenceRow, ReferenceTable, parse_reference
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import SpecError

STEPS = ("a", "b", "c")


def parse(text: str) -> tuple[ReferenceRow, ...]:
    return parse_reference(text, "conf/roadmap/mine.csv", STEPS)


def test_any_column_but_the_step_may_be_missing_or_empty() -> None:
    assert parse("step\na\n") == (ReferenceRow("a"),)
    text = "\ufeffstep,top1,top1_std,num_seeds,params,gmacs,source\r\n"
    text += "a,76.1,0.1,3,25557032,4.09,Table 1\r\n\r\nb,,,,,,\r\n"
    assert parse(text) == (ReferenceRow("a", None, 76.1, 0.1, 3, 25557032, 4.09, "Table 1"), ReferenceRow("b"))
    assert parse('note,step\n"a, b",c\n') == (ReferenceRow("c", note="a, b"),)


MISTAKES = {
    "no step": ("top1\n3\n", "needs each column once, and step"),
    "empty file": ("", "needs each column once, and step"),
    "unknown column": ("step,accuracy\na,3\n", "column 'accuracy' is unknown; use columns of step, table, top1"),
    "column twice": ("step,top1,top1\na,3,3\n", "needs each column once"),
    "cells": ("step,top1\na,3,4\n", "line 2: has 3 cells, the header has 2"),
    "no number": ("step,top1\na,high\n", "line 2: top1=high: must be a number from 0 to 100"),
    "nan": ("step,top1\na,nan\n", "line 2: top1=nan: must be a number"),
    "above 100": ("step,top1\na,101\n", "line 2: top1=101: must be a number from 0 to 100"),
    "infinite": ("step,gmacs\na,inf\n", "line 2: gmacs=inf: must be a number from 0, or empty"),
    "no whole number": ("step,num_seeds\na,3.0\n", "line 2: num_seeds=3.0: must be a whole number"),
    "unknown step": ("step\na\nd\n", "line 3: step=d is not in the roadmap"),
    "step twice": ("step\na\na\n", "line 3: step=a has a line already"),
    "control character": ("step,note\na,\x1b[31m\n", "line 2: note: must be at most 1000 printable characters"),
    "open quotation": ('step,note\na,"x\n', "is not valid CSV"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_names_file_line_and_column(mistake: str) -> None:
    text, message = MISTAKES[mistake]
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert str(caught.value).startswith("conf/roadmap/mine.csv: ") and message in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_step_may_have_a_row_in_each_table() -> None:
    assert [row.top1 for row in parse("step,table,top1\na,10,1\na,11,2\n")] == [1, 2]


def test_gains_are_those_of_adjacent_steps_with_numbers() -> None:
    rows = parse("step,top1\na,76.1\nb,\nc,78.0\n")
    assert ReferenceTable(rows, STEPS).gains == {}  # both gains need b
    rows = parse("step,top1,source\nc,78.0,\nb,77.5,Table 3\na,76.1,\n")
    table = ReferenceTable(rows, STEPS)
    assert (table.gains, table.previous_steps) == ({"b": 1.4, "c": 0.5}, {"b": "a", "c": "b"})
    assert (table.position("b"), table.position("x"), table.source) == (1, 3, "Table 3")


def test_the_published_numbers_of_resnet_rs() -> None:
    """The abstract has the first number, that after the changes of training, and the last one."""
    table = load_roadmap("resnet_rs").reference(11)
    top1 = {row.step: row.top1 for row in table.rows}
    assert (top1["baseline"], top1["smaller_weight_decay"], top1["resnet_d"]) == (79.0, 82.2, 83.4)
    assert list(table.steps) == load_roadmap("resnet_rs").step_names
    assert sum(table.gains.values()) == pytest.approx(83.4 - 79.0)
