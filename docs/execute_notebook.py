"""Write docs/tutorial.ipynb, the executed notebook, from docs/tutorial.py.

python docs/execute_notebook.py    # execute all cells and write the notebook with their outputs
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient

SOURCE, NOTEBOOK = (Path(__file__).parent / f"tutorial.{kind}" for kind in ("py", "ipynb"))
CELL_SECONDS = 600


def execute(folder: Path) -> Any:
    """Return the notebook, executed in `folder`. Raises CellExecutionError for a cell that fails."""
    notebook: Any = jupytext.read(SOURCE)
    executables = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": executables, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "150"}
    environment |= {"PYTHONWARNINGS": "ignore"}
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=CELL_SECONDS, coalesce_streams=True, resources=where)
    return client.execute(env=environment)


def main() -> None:
    """Execute the notebook and write it."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(Path(folder))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times at which the cells ran
    jupytext.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
