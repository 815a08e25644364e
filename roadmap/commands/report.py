"""The subcommand `roadmap report`; `python -m roadmap.report` does the same."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roadmap.config.schema import SpecError
from roadmap.config.validation import check_writable
from roadmap.models.structure import Structure
from roadmap.records.manifest import MANIFEST_NAME
from roadmap.report.comparison import write_comparison
from roadmap.report.examples import ThumbnailsOf, optional_pictures
from roadmap.report.terminal import UNLIMITED
from roadmap.report.writer import write_report


def report_command(arguments: list[str]) -> int:
    """Write the report of a study, or of the comparison of two studies, and print it; return the exit code.

    Raises SpecError for invalid input, with nothing written.
    """
    from roadmap.config.selection import choose_folders

    parser = argparse.ArgumentParser(
        prog="roadmap report", description="Write the report of a study, or compare two studies."
    )
    parser.add_argument(
        "study",
        type=study_folder,
        nargs="+",
        help="folder of a study, such as experiments/roadmap, or its name in experiments; give two to compare them",
    )
    parser.add_argument(
        "--wide", action="store_true", help="print all columns, also those that do not fit the terminal"
    )
    parser.add_argument("--to", type=Path, help="folder of the report; by default reports/STUDY, or reports/A-and-B")
    parser.add_argument("--config-dir", metavar="DIR", help="folder with the configs of a roadmap of your own")
    parser.add_argument(
        "--pictures",
        action=argparse.BooleanOptionalAction,
        help="pictures of images on the page; by default only of datasets that anyone can download",
    )
    parser.add_argument("--data-root", metavar="DIR", help="folder of the dataset, for the pictures")
    options = parser.parse_intermixed_args(choose_folders(arguments))
    if len(options.study) > 2:
        parser.error("give one study, or two studies to compare")
    paths = [Path(os.path.realpath(folder)) for folder in options.study]  # Path.resolve raises for a loop of links
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = ["-".join(path.parts[-2:]) for path in paths]
    to = options.to or Path("reports") / "-and-".join(names)
    check_writable("--to", to)
    _check_pictures(options)
    width = UNLIMITED if options.wide else None
    if len(names) == 2:
        print(write_comparison(options.study[0], options.study[1], to, width))
    else:
        print(
            write_report(options.study[0], to, structure_of_config, width=width, thumbnails_of=_thumbnails_of(options))
        )
    return 0


def study_folder(text: str) -> Path:
    """Return the folder of a study; `text` is its path or its name in `experiments`."""
    named = Path("experiments") / text
    is_study = (Path(text) / MANIFEST_NAME).exists() or any(Path(text).glob("*/record.json"))
    return named if not is_study and Path(text).name == text and (named / MANIFEST_NAME).exists() else Path(text)


def structure_of_config(config: dict[str, Any]) -> Structure | None:
    """Call `roadmap.models.inspection.structure_of_config`, which imports torch, when the first network is drawn."""
    from roadmap.models import inspection

    return inspection.structure_of_config(config)


def _check_pictures(options: argparse.Namespace) -> None:
    """Raise SpecError for options of pictures that have no effect."""
    root, chosen = options.data_root, options.pictures
    if len(options.study) > 1 and (root is not None or chosen is not None):
        raise SpecError("--pictures, --data-root: a comparison of two studies has no pictures; leave them out")
    if root is not None and chosen is False:
        raise SpecError(f"--data-root={root}: has no effect with --no-pictures; leave one of them out")
    if root is not None and not Path(root).is_dir():
        raise SpecError(f"--data-root={root}: no such folder; give the folder of the dataset")


def _thumbnails_of(options: argparse.Namespace) -> ThumbnailsOf | None:
    """Return the function that reads the pictures; it raises errors only if the command asks for pictures."""
    if options.pictures is False:
        return None
    is_wanted = options.pictures is True or options.data_root is not None

    def read(record: Mapping[str, Any], indices: Sequence[int], num_images: int) -> list[tuple[str, str]]:
        from roadmap.evaluation.thumbnails import read_thumbnails  # imports torch

        return read_thumbnails(record, indices, num_images, options.data_root, own_images=is_wanted)

    return read if is_wanted else optional_pictures(read)
