"""Command `roadmap cost`: parameters and multiply-adds of every step of a roadmap beside the published numbers.

    roadmap cost [roadmap=NAME] [--config-dir DIR] [--csv FILE]        (the same as python -m roadmap.cost ...)

The costs are counted on the networks themselves, built on the meta device, for the bases and the image size of the
roadmap's published numbers. GMACs are multiply-adds / 1e9 of convolutions and linear layers for one image. Papers call
them FLOPs.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from roadmap.config import paths
from roadmap.config.files import read_yaml
from roadmap.config.roadmaps import Roadmap, load_roadmap
from roadmap.config.schema import SpecError

if TYPE_CHECKING:
    import pandas as pd


def cost_table(roadmap: Roadmap | None = None) -> pd.DataFrame:
    """Return the costs of all steps and variants of a roadmap, by default ResNet to ConvNeXt.

    Steps without a published number are left out if the roadmap has a reference table for the base. Columns: base,
    step, params, gmacs (counted), paper_gmacs (published; NaN where it is not).
    """
    import pandas as pd

    from roadmap.config.compose import compose_network
    from roadmap.models.complexity import measure_cost

    roadmap = roadmap or load_roadmap()
    rows = []
    for base in roadmap.file.bases:
        reference = roadmap.reference(_table_of(base))
        published = {row.step: row.gmacs for row in reference.rows}
        names = [*roadmap.file.steps, *roadmap.file.variants]
        for step in [name for name in published if name in names] or names:
            cost = measure_cost(compose_network(step, base, roadmap=roadmap.name), roadmap.file.image_size)
            gmacs = published.get(step)
            rows.append((base, step, cost.params, cost.gmacs, math.nan if gmacs is None else gmacs))
    return pd.DataFrame(rows, columns=["base", "step", "params", "gmacs", "paper_gmacs"])


def _table_of(base: str) -> int | None:
    """Return base.paper_table of a base."""
    path = paths.find_config("base", base)
    return read_yaml(path).get("paper_table") if path is not None else None


def cost_command(arguments: list[str]) -> int:
    """Print the table, and write it to a CSV file if `--csv FILE` asks for it; return the exit code.

    Raises SpecError for an unknown roadmap, and for a file that cannot be written, before anything is counted.
    """
    from roadmap.config.selection import choose_folders, choose_roadmap

    description = "Count parameters and multiply-adds of every step of a roadmap."
    parser = argparse.ArgumentParser(prog="roadmap cost", description=description)
    parser.add_argument(
        "roadmap", nargs="?", default="roadmap=convnext", metavar="roadmap=NAME", help="default: convnext"
    )
    parser.add_argument("--config-dir", metavar="DIR", help="folder with your own configs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table to this file")
    options = parser.parse_args(choose_folders(arguments))
    roadmap, others = choose_roadmap([options.roadmap])
    if others:
        raise SpecError(f"{others[0]}: is not a roadmap; write roadmap=NAME")
    if options.csv is not None and not _is_writable(options.csv):
        raise SpecError(f"--csv={options.csv}: cannot be written; choose another file")
    table = cost_table(roadmap)
    notes: dict[str, None] = {}
    print(f"{'base':<10} {'step':<22} {'params':>11} {'GMACs':>8} {'paper':>7} {'diff':>7}")
    for base, step, params, gmacs, paper_gmacs in table.to_numpy().tolist():
        row = roadmap.reference(_table_of(base)).row(step)
        note = row.note if row is not None else ""
        printed = "" if math.isnan(paper_gmacs) else f"{paper_gmacs:>7.2f} {gmacs - paper_gmacs:>+7.3f}"
        print(f"{base:<10} {step:<22} {params:>11,} {gmacs:>8.3f} {printed}".rstrip() + (" *" if note else ""))
        notes |= {note: None} if note else {}
    size = roadmap.file.image_size
    print(f"GMACs: multiply-adds / 1e9 of convolutions and linear layers, one image of {size}x{size} pixels.")
    for note in notes:
        print(f"* {note}")
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
