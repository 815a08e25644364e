"""The subcommand `roadmap report`; `python -m roadmap.report` does the same."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from roadmap.config.schema import SpecError
from roadmap.models.structure import Structure
from roadmap.report.comparison import write_comparison
from roadmap.report.writer import write_report
from roadmap.runtime.exit_codes import EXIT_BAD_INPUT


def report_command(arguments: list[str]) -> int:
    """Write the report of a study, or of the comparison of two studies, and print it; return the exit code.

    Invalid input ends in one line on stderr and exit code 2, with nothing written.
    """
    parser = argparse.ArgumentParser(
        prog="roadmap report", description="Write the report of a study, or compare two studies."
    )
    parser.add_argument(
        "study", type=Path, nargs="+", help="folder of the study, as experiments/roadmap; two folders to compare them"
    )
    parser.add_argument("--to", type=Path, help="folder of the report; by default reports/STUDY, or reports/A-and-B")
    options = parser.parse_args(arguments)
    if len(options.study) > 2:
        parser.error("give one study, or two studies to compare")
    names = [folder.resolve().name for folder in options.study]
    if len(set(names)) < len(names):
        names = ["-".join(folder.resolve().parts[-2:]) for folder in options.study]
    to = options.to or Path("reports") / "-and-".join(names)
    try:
        if len(names) == 2:
            print(write_comparison(options.study[0], options.study[1], to))
        else:
            print(write_report(options.study[0], to, structure_of_config))
    except (OSError, SpecError) as error:
        print(f"error: {_describe_error(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


def structure_of_config(config: dict[str, Any]) -> Structure | None:
    """Call `roadmap.models.inspection.structure_of_config`, which imports torch, when the first network is drawn."""
    from roadmap.models import inspection

    return inspection.structure_of_config(config)


def _describe_error(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
