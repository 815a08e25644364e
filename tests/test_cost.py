"""The command `roadmap cost`: counted costs beside those of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from roadmap import cost
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import SpecError


def test_costs_of_all_rows_of_both_tables(golden: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cost.cost_command(["--csv", str(tmp_path / "cost.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = pd.read_csv(tmp_path / "cost.csv")
    values: list[list[Any]] = table.to_numpy().tolist()
    rows = [[base, step, params, round(gmacs, 3)] for base, step, params, gmacs, _ in values]
    assert len(rows) == 34
    assert rows == golden("costs", rows)
    notes = {row.step: row.note for row in load_roadmap().reference(10).rows}
    for line, (base, step, params, gmacs, paper_gmacs) in zip(lines[1:], values, strict=False):
        assert line.split()[:3] == [base, step, f"{params:,}"]
        agrees = abs(gmacs - paper_gmacs) < 0.0075  # the paper prints two decimals
        assert agrees is (base == "resnet200" or not notes[step])
        assert line.endswith(" *") is not agrees
    assert lines[-1] == f"* {notes['layer_norm']}"


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cost, "cost_table", None)
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing" / "cost.csv", tmp_path, tmp_path / "file" / "cost.csv"):
        with pytest.raises(SpecError) as caught:
            cost.cost_command(["--csv", str(path)])
        assert str(caught.value) == f"--csv={path}: cannot be written; choose another file"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
