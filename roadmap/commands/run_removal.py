"""Removal of runs. The runs are printed first, and nothing outside of the folder of runs is changed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from roadmap.commands.tables import format_size
from roadmap.config.names import one_line
from roadmap.config.schema import SpecError
from roadmap.records.listing import RUN_NAME, RUNNING, WAITING, RunState, size_on_disk
from roadmap.runtime import lock
from roadmap.runtime.exit_codes import EXIT_COMPLETED, EXIT_RUN_FAILED

REMOVED_PREFIX = ".removed-"  # of a folder's name while its files are deleted


def remove_runs(runs_folder: Path, runs: Sequence[RunState], yes: bool) -> int:
    """Print the runs, ask unless `yes`, remove them, and return the exit code.

    Runs that are being trained are not removed. study.json keeps the name of a removed run, so that the study's command
    trains it again. Raises SpecError, with nothing removed, if the question cannot be asked or the folder is not
    writable.
    """
    for run in runs:
        if run.status == RUNNING:
            print(f"not removed: {run.folder}: is being trained")
    runs = [run for run in runs if run.status not in (RUNNING, WAITING)]  # a waiting run has no files
    if not runs:
        print("no run to remove")
        return EXIT_COMPLETED
    sizes = [size_on_disk(run.folder) for run in runs]
    for run, size in zip(runs, sizes, strict=True):
        studies = f", of {', '.join(run.studies)}" if run.studies else ""
        print(f"{run.folder}  ({run.status}{one_line(studies)}, {format_size(size)})")
    total = f"{len(runs)} run{'s' if len(runs) != 1 else ''}, {format_size(sum(sizes))}"
    if not os.access(runs_folder, os.W_OK | os.X_OK):
        raise SpecError(f"--remove: {runs_folder} is not a writable folder; nothing was removed")
    if not yes:
        if not sys.stdin.isatty():
            raise SpecError(f"--remove: {total}; add --yes to remove them")
        if not _ask(f"remove {total}? [y/N] "):
            print("nothing was removed")
            return EXIT_COMPLETED
    _delete_leftovers(runs_folder)
    removed = [remove_run(runs_folder, run.folder) for run in runs]
    freed = sum(size for size, done in zip(sizes, removed, strict=True) if done)
    print(f"removed {sum(removed)} of {len(runs)} runs, {format_size(freed)}")
    return EXIT_COMPLETED if all(removed) else EXIT_RUN_FAILED


def remove_run(runs_folder: Path, folder: Path) -> bool:
    """Delete the folder of a run, and return whether it could be deleted; print the reason if not.

    The folder gets another name first, so that no process sees a part of a run. Links in it are deleted, not followed.
    """
    if folder.is_symlink() or folder.parent != runs_folder or RUN_NAME.fullmatch(folder.name) is None:
        print(f"not removed: {folder}: is not a run's own folder")
        return False
    aside = runs_folder / f"{REMOVED_PREFIX}{folder.name}"
    try:
        if not folder.is_dir():  # removed in the meantime
            return True
        with lock.hold(folder):
            folder.rename(aside)
        shutil.rmtree(aside)
    except lock.LockedError:
        print(f"not removed: {folder}: is being trained")
        return False
    except OSError as error:
        print(f"not removed: {error.filename or folder}: {error.strerror}")
        return False
    return True


def _delete_leftovers(runs_folder: Path) -> None:
    """Delete the leftovers of earlier removals that were stopped."""
    for path in runs_folder.glob(f"{REMOVED_PREFIX}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _ask(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False
