"""The subcommand `roadmap results`: the results of a study as data files."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import pandas as pd

from roadmap.analysis.results import read_results
from roadmap.commands.report import study_folder
from roadmap.config.names import printable
from roadmap.config.schema import SpecError
from roadmap.config.validation import check_writable
from roadmap.runtime.files import write_atomically

SUFFIXES = (".parquet", ".csv")
EPILOG = """FILE gets one row per run. A second file, with `_epochs` in its name, gets one row per run and epoch.

example:
  roadmap results experiments/roadmap --to results.parquet     # also writes results_epochs.parquet
"""


def results_command(arguments: list[str]) -> int:
    """Write the results of a study as two data files and return the exit code.

    Raises SpecError for invalid input, with nothing written.
    """
    from roadmap.config.selection import choose_folders

    parser = argparse.ArgumentParser(
        prog="roadmap results",
        description="Write the results of a study as data.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", type=study_folder, help="folder of a study, or its name in experiments")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="a .parquet or a .csv file")
    parser.add_argument("--config-dir", metavar="DIR", help="folder with the configs of a roadmap of your own")
    options = parser.parse_args(choose_folders(arguments))
    _check_target(options.to)
    runs, epochs, problems = read_results(options.study)
    for problem in problems:
        print(problem)
    for table, path in ((runs, options.to), (epochs, options.to.with_stem(f"{options.to.stem}_epochs"))):
        write_atomically(path, _to_bytes(table, path.suffix))
        print(f"{path}: {len(table):,} rows, {len(table.columns)} columns")
    return 0


def _check_target(path: Path) -> None:
    shown = f"--to={printable(str(path), 200)}"
    if path.suffix not in SUFFIXES:
        raise SpecError(f"{shown}: must end with {' or '.join(SUFFIXES)}")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise SpecError(f"{shown}: needs pyarrow; pip install 'roadmap[parquet]', or give a .csv file")
    if path.is_dir():
        raise SpecError(f"{shown}: is a folder; give the name of a file")
    check_writable("--to", path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)


def _to_bytes(table: pd.DataFrame, suffix: str) -> bytes:
    file = BytesIO()
    if suffix == ".parquet":
        table.to_parquet(file, index=False)
    else:
        table.to_csv(file, index=False, lineterminator="\n")
    return file.getvalue()
