"""The subcommand `roadmap log_records`: write finished runs to experiment trackers.

`python -m roadmap.log_records` does the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from roadmap.analysis.study_records import read_study_records
from roadmap.commands.report import study_folder
from roadmap.config.schema import SpecError
from roadmap.config.trackers import check_trackers
from roadmap.config.validation import check_writable
from roadmap.sweep.tracking import FOLDER_NAME
from roadmap.trackers.follow import Follower
from roadmap.trackers.points import Run

DESCRIPTION = "Write the finished runs of a study to experiment trackers."
EPILOG = """examples:
  roadmap log_records experiments/roadmap logger=tensorboard
  roadmap log_records experiments/roadmap logger=mlflow,wandb
"""


def log_records_command(arguments: list[str]) -> int:
    """Write the runs of a study to the trackers and return the exit code: 1 if a tracker failed.

    Raises SpecError for invalid input, with nothing written.
    """
    from roadmap.config.selection import choose_folders

    parser = argparse.ArgumentParser(
        prog="roadmap log_records",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", type=study_folder, help="folder of a study, or its name in experiments")
    parser.add_argument("logger", metavar="logger=NAME", help="tensorboard, trackio, mlflow, wandb, or several: a,b")
    parser.add_argument("--to", type=Path, help="folder of the trackers; by default `trackers` beside the study")
    parser.add_argument("--config-dir", metavar="DIR", help="folder with the configs of a roadmap of your own")
    options = parser.parse_args(choose_folders(arguments))
    option, _, value = options.logger.partition("=")
    if option != "logger" or not value:
        raise SpecError(f"{options.logger}: must be logger=NAME, as logger=tensorboard")
    trackers = check_trackers([name.strip() for name in value.strip("[]").split(",")]) or []
    study = read_study_records(options.study)
    folder = options.to or options.study.parent / FOLDER_NAME
    check_writable("--to", folder)
    runs = [(_run_of(record, options.study), {}) for record in study.records]
    for problem in study.problems:
        print(problem)
    failed = False
    for name in trackers:
        follower = Follower(name, folder, runs)
        follower.ended.set()  # one pass
        follower.start().join()
        failed |= follower.error is not None
        outcome = f"{len(runs)} runs written" if follower.error is None else f"failed ({follower.error})"
        print(f"logger={name}: {outcome}")
    return int(failed)


def _run_of(record: dict[str, Any], study: Path) -> Run:
    folder = study.resolve().parent / "runs" / record["run"]
    if not folder.is_dir():
        folder = study.resolve() / record["run"]
    return Run(
        str(folder),
        record["run"],
        study.resolve().name,
        record["name"],
        record["label"],
        record["seed"],
        " ".join(record["setting"]),
        record["config"],
        record["command"],
    )


if __name__ == "__main__":
    from roadmap.cli import main

    main(["log_records", *sys.argv[1:]])
