"""Command `roadmap cost`: parameters and multiply-adds of every step beside the numbers of the paper.

    roadmap cost [--csv FILE]        (the same as python -m roadmap.cost [--csv FILE])

The costs are counted on the networks themselves, built on the meta device. GMACs are multiply-adds / 1e9 of
convolutions and linear layers for one image. The paper calls them FLOPs.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from roadmap.analysis import published
from roadmap.config.schema import SpecError

if TYPE_CHECKING:
    import pandas as pd


def cost_table(image_size: int = 224) -> pd.DataFrame:
    """Return the costs of all steps and variants of the paper's Tables 10 and 11.

    Columns: base, step, params, gmacs (counted), paper_gmacs (printed in the paper).
    """
    import pandas as pd

    from roadmap.config.compose import compose_network
    from roadmap.config.steps import all_steps
    from roadmap.models.complexity import measure_cost

    rows = []
    for base, paper_rows in published.TABLES.items():
        for row in paper_rows:
            if row.step in all_steps():
                cost = measure_cost(compose_network(row.step, base), image_size)
                rows.append((base, row.step, cost.params, cost.gmacs, row.gmacs))
    return pd.DataFrame(rows, columns=["base", "step", "params", "gmacs", "paper_gmacs"])


def cost_command(arguments: list[str]) -> int:
    """Print the table, and write it to a CSV file if `--csv FILE` asks for it; return the exit code.

    Raises SpecError for a file that cannot be written, before anything is counted.
    """
    description = "Count parameters and multiply-adds of every step, for ResNet-50 and ResNet-200."
    parser = argparse.ArgumentParser(prog="roadmap cost", description=description)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table to this file")
    options = parser.parse_args(arguments)
    if options.csv is not None and not _is_writable(options.csv):
        raise SpecError(f"--csv={options.csv}: cannot be written; choose another file")
    table = cost_table()
    print(f"{'base':<10} {'step':<22} {'params':>11} {'GMACs':>8} {'paper':>7} {'diff':>7}")
    for base, step, params, gmacs, paper_gmacs in table.to_numpy().tolist():
        mark = " *" if (base, step) in published.MISPRINTS else ""
        numbers = f"{params:>11,} {gmacs:>8.3f} {paper_gmacs:>7.2f} {gmacs - paper_gmacs:>+7.3f}"
        print(f"{base:<10} {step:<22} {numbers}{mark}")
    print("GMACs: multiply-adds / 1e9 of convolutions and linear layers, one image of 224x224 pixels.")
    print(f"* {published.MISPRINT_NOTE}")
    if options.csv is not None:
        table.to_csv(options.csv, index=False)
    return 0


def _is_writable(path: Path) -> bool:
    if path.exists():
        return not path.is_dir() and os.access(path, os.W_OK)
    folder = path.absolute().parent
    return folder.is_dir() and os.access(folder, os.W_OK)


if __name__ == "__main__":
    from roadmap.cli import main

    main(["cost", *sys.argv[1:]])
