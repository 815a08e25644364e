"""The tutorial notebook: it runs, and the executed one in docs/ is that of the source."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

from tests.conftest import ROOT

SOURCE, NOTEBOOK = ROOT / "docs" / "tutorial.py", ROOT / "docs" / "tutorial.ipynb"


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_executed_notebook_is_that_of_the_source() -> None:
    source: Any = jupytext.read(SOURCE)
    executed: Any = nbformat.read(NOTEBOOK, as_version=4)
    assert [(cell.cell_type, cell.source) for cell in executed.cells] == [
        (cell.cell_type, cell.source) for cell in source.cells
    ], "run python docs/execute_notebook.py"
    cells = code_cells(executed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    text = NOTEBOOK.read_text("utf-8")
    assert str(ROOT) not in text and "/site-packages/" not in text


@pytest.mark.slow
def test_the_notebook_can_be_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    execute: Any = runpy.run_path(str(ROOT / "docs" / "execute_notebook.py"))["execute"]
    if not (Path(sys.executable).parent / "roadmap").exists():
        pytest.skip("the console script `roadmap` is not installed")
    executed = execute(tmp_path)
    assert (tmp_path / "reports" / "mine" / "index.html").exists()
    last = code_cells(executed)[-1].outputs[0]["data"]["text/plain"]
    rows = [line.split() for line in last.splitlines()[1:]]
    assert len(rows) == 8 and sum(row[1] == row[2] for row in rows) >= 6  # most of the digits are classified correctly
    assert len(list((tmp_path / "experiments" / "runs").iterdir())) == 10
