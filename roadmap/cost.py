"""What a network costs, counted on the network itself on the meta device: nothing is computed, no second formula.

    python -m roadmap.cost [--csv FILE]

GMACs are multiply-adds / 1e9 of convolutions and linear layers for one image, what the paper calls FLOPs.
"""

from __future__ import annotations

import argparse
import sys

import pandas as pd

from roadmap.analysis import published
from roadmap.config.compose import compose_network
from roadmap.config.steps import all_steps
from roadmap.models.complexity import measure


def table(image_size: int = 224) -> pd.DataFrame:
    """Every row of the paper's Tables 10 and 11: base, step, params, gmacs, paper_gmacs."""
    rows = []
    for base, facts in published.TABLES.items():
        for row in facts:
            if row.step in all_steps():
                cost = measure(compose_network(row.step, base), image_size)
                rows.append((base, row.step, cost.params, cost.gmacs, row.gmacs))
    return pd.DataFrame(rows, columns=["base", "step", "params", "gmacs", "paper_gmacs"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m roadmap.cost", description="Count every row of both regimes.")
    parser.add_argument("--csv", metavar="FILE", help="write the rows there too")
    options = parser.parse_args(arguments)
    rows = table()
    print(f"{'base':<10} {'step':<22} {'params':>11} {'GMACs':>8} {'paper':>7} {'diff':>7}")
    for base, step, params, gmacs, printed in rows.to_numpy().tolist():
        mark = " *" if (base, step) in published.SLIPS else ""
        numbers = f"{params:>11,} {gmacs:>8.3f} {printed:>7.2f} {gmacs - printed:>+7.3f}"
        print(f"{base:<10} {step:<22} {numbers}{mark}")
    print("GMACs: multiply-adds / 1e9 of convolutions and linear layers, one image of 224x224 pixels.")
    print(f"* {published.SLIP_NOTE}")
    if options.csv:
        try:
            rows.to_csv(options.csv, index=False)
        except OSError as error:
            sys.exit(f"--csv {options.csv}: {error.strerror}")


if __name__ == "__main__":
    main()
