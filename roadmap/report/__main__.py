"""Command line of the report: `python -m roadmap.report`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from roadmap.report.comparison import write_comparison
from roadmap.report.writer import write_report


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m roadmap.report", description="The report of a study, or two studies side by side."
    )
    parser.add_argument("study", type=Path, nargs="+", help="its folder, as experiments/roadmap; two to compare them")
    parser.add_argument("--to", type=Path, help="folder of the report; by default reports/STUDY, or reports/A-and-B")
    options = parser.parse_args(arguments)
    if len(options.study) > 2:
        parser.error("give one study, or two to compare them")
    names = [folder.resolve().name for folder in options.study]
    if len(set(names)) < len(names):
        names = ["-".join(folder.resolve().parts[-2:]) for folder in options.study]
    to = options.to or Path("reports") / "-and-".join(names)
    try:
        if len(names) == 2:
            print(write_comparison(options.study[0], options.study[1], to))
        else:
            print(write_report(options.study[0], to))
    except OSError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
