"""The subcommand `roadmap runs`: list, compare and remove runs."""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from roadmap.commands.run_comparison import print_comparison
from roadmap.commands.run_removal import remove_runs
from roadmap.commands.tables import Cell, Column, format_age, format_size, print_table
from roadmap.config.names import one_line, printable
from roadmap.config.schema import SpecError
from roadmap.records.listing import (
    DAMAGED,
    INTERRUPTED,
    RUN_NAME,
    RUNNING,
    STATUSES,
    WAITING,
    Listing,
    RunState,
    find_study,
    size_on_disk,
)
from roadmap.runtime.exit_codes import EXIT_COMPLETED

# On a narrow terminal, columns are left out in the order of `leaves`.
COLUMNS = [
    Column("status"),
    Column("step", wraps_at=21),
    Column("setting", leaves=8, wraps_at=13),
    Column("seed", "right"),
    Column("top-1", "right"),
    Column("size", "right", leaves=9),
    Column("age", "right", leaves=7),
    Column("hash", leaves=6),
    Column("data", leaves=5),
    Column("base", leaves=4),
    Column("epochs", "right", leaves=3),
    Column("studies", leaves=2, wraps_at=30),
    Column("note", leaves=1, wraps_at=60),
]
AGE_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
LOG_LINES = 20  # printed from the end of a log
HASH_DIGITS = 8  # shown in the table, of 12
DESCRIPTION = "List the runs of a study or of a folder of experiments; compare or remove runs."
EPILOG = """RUN is the name of a run's folder, a part of it that no other run has (HASH, HASH-seedN), or the folder.

examples:
  roadmap runs                                  all runs, the last changed first
  roadmap runs roadmap --status failed          the failed runs of the study `roadmap`
  roadmap runs --compare 56f43e5b-seed0 8a1c    fields in which two runs differ, and results
  roadmap runs --log 56f43e5b-seed0             the path and the end of a run's log
  roadmap runs --status failed --remove         remove the failed runs, after a question
"""


def runs_command(arguments: list[str]) -> int:
    """List, compare or remove runs as the arguments say; return the exit code.

    Raises SpecError for invalid input, with nothing removed.
    """
    options = _parse(arguments)
    source = find_study(options.out, options.study)
    listing = source.read()
    if options.compare:
        first, second = (_find_run(listing.runs, text) for text in options.compare)
        print_comparison(first, second, options.wide)
        return EXIT_COMPLETED
    if options.log is not None:
        _print_log(_find_run(listing.runs, options.log))
        return EXIT_COMPLETED
    filters = _filters(options)
    if options.remove is not None and not options.remove and not filters:
        message = "which runs? Name them, or select them with --status, --step, --seed, --older or --orphaned"
        raise SpecError(f"--remove: {message}")
    if options.orphaned and listing.notes:
        raise SpecError(f"--orphaned: unknown while a study file cannot be read: {listing.notes[0]}")
    chosen = [run for run in listing.runs if all(_fits(run, name, value) for name, value in filters.items())]
    if options.remove:
        named = [_find_run(listing.runs, text) for text in dict.fromkeys(options.remove)]
        chosen = _distinct(named, chosen, bool(filters))
    if options.remove is not None:
        return remove_runs(source.runs_folder, chosen, options.yes)
    if options.json:
        print(json.dumps([_to_json(run, listing) for run in chosen], indent=1))
        return EXIT_COMPLETED
    _print_list(chosen, listing, source.runs_folder, options.wide)
    return EXIT_COMPLETED


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="roadmap runs",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", nargs="?", help="name or folder of a study; without it all runs are listed")
    parser.add_argument(
        "--out", type=Path, default=Path("experiments"), help="folder of experiments (default: %(default)s)"
    )
    parser.add_argument("--status", help=f"only these, separated by commas: {', '.join(STATUSES)}")
    parser.add_argument("--step", help="only this step; * stands for any text, as in 'gelu*'")
    parser.add_argument("--seed", help="only these seeds, separated by commas")
    parser.add_argument(
        "--older", metavar="AGE", help="only runs that did not change for this time, as 30min, 12h, 7d, 2w"
    )
    parser.add_argument("--orphaned", action="store_true", help="only runs with a record that no study.json names")
    parser.add_argument("--wide", action="store_true", help="print all columns, also on a narrow terminal")
    parser.add_argument("--json", action="store_true", help="print all fields of the runs as JSON")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--compare", nargs=2, metavar="RUN", help="show how two runs differ")
    actions.add_argument("--log", metavar="RUN", help=f"print the path of the run's log and its last {LOG_LINES} lines")
    actions.add_argument(
        "--remove", nargs="*", metavar="RUN", help="remove these runs, or those that the filters select"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before removing")
    return parser.parse_args(arguments)


def _filters(options: argparse.Namespace) -> dict[str, Any]:
    """Return the filters that were given, checked and converted."""
    filters: dict[str, Any] = {}
    if options.status is not None:
        filters["status"] = options.status.split(",")
        for status in filters["status"]:
            if status not in STATUSES:
                raise SpecError(f"--status={options.status}: {status!r} is unknown; use {', '.join(STATUSES)}")
    if options.step is not None:
        filters["step"] = options.step
    if options.seed is not None:
        if re.fullmatch(r"[0-9]{1,18}(,[0-9]{1,18})*", options.seed) is None:
            raise SpecError(f"--seed={options.seed}: must be numbers, separated by commas")
        filters["seed"] = [int(seed) for seed in options.seed.split(",")]
    if options.older is not None:
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(s|min|m|h|d|w)", options.older)
        if match is None:
            raise SpecError(f"--older={options.older}: must be a number with s, min, h, d or w, as 7d")
        filters["older"] = time.time() - float(match[1]) * AGE_UNITS[match[2]]
    if options.orphaned:
        filters["orphaned"] = True
    return filters


def _fits(run: RunState, name: str, value: Any) -> bool:
    if name == "status":
        return run.status in value
    if name == "step":
        return fnmatchcase(run.step, value)
    if name == "seed":
        return run.seed in value
    if name == "older":
        return run.changed is not None and run.changed < value
    return _is_orphaned(run)


def _is_orphaned(run: RunState) -> bool:
    """Return whether no study.json names the run. A single run is added to one only when it has its record."""
    return not run.studies and run.status not in (RUNNING, WAITING, INTERRUPTED)


def _find_run(runs: Sequence[RunState], text: str) -> RunState:
    """Return the run that `text` names. Raises SpecError unless exactly one run matches."""
    if "/" in text:
        folder = os.path.realpath(text)
        runs = [run for run in runs if os.path.realpath(run.folder) == folder]
        text = Path(folder).name
    found = [run for run in runs if run.name == text]
    short = re.fullmatch(r"([0-9a-f]{1,12})-seed([0-9]{1,18})", text)
    if not found and short is not None:
        found = [run for run in runs if _hash(run).startswith(short[1]) and run.seed == int(short[2])]
    found = found or [run for run in runs if text and text in run.name]
    if not found:
        raise SpecError(f"{one_line(text)}: no such run; `roadmap runs` lists all runs")
    if len(found) > 1:
        names = ", ".join(run.name for run in found[:3])
        more = ", ..." if len(found) > 3 else ""
        raise SpecError(f"{one_line(text)}: matches {len(found)} runs ({names}{more}); give more of the name")
    return found[0]


def _distinct(named: Sequence[RunState], filtered: Sequence[RunState], has_filters: bool) -> list[RunState]:
    """Return each named run once and, with filters, only those that the filters select."""
    names = {run.name for run in filtered}
    return list({run.name: run for run in named if not has_filters or run.name in names}.values())


def _hash(run: RunState) -> str:
    match = RUN_NAME.fullmatch(run.name)
    assert match is not None
    return match["hash"]


def _print_list(runs: Sequence[RunState], listing: Listing, runs_folder: Path, wide: bool) -> None:
    if runs:
        sizes = {run.name: size_on_disk(run.folder) for run in runs}
        settings = distinguishing_settings(runs)
        print_table(COLUMNS, [_cells(run, settings[run.name], sizes[run.name]) for run in runs], wide)
        print(f"\n{summarize_statuses(runs)}; {format_size(sum(sizes.values()))} in {runs_folder}")
    else:
        print("no run matches" if listing.runs else f"no runs in {runs_folder}")
    for run in runs:
        if run.status == DAMAGED:
            print(f"damaged: {run.folder}: {one_line(run.problem)}")
    for note in listing.notes:
        print(f"note: {note}")


def distinguishing_settings(runs: Sequence[RunState]) -> dict[str, str]:
    """Return the setting of each run, by name, without the overrides that all runs have."""
    common = set(runs[0].setting).intersection(*(run.setting for run in runs)) if len(runs) > 1 else set()
    return {run.name: one_line(" ".join(word for word in run.setting if word not in common)) for run in runs}


def summarize_statuses(runs: Sequence[RunState]) -> str:
    """Return the number of runs of each status, as `3 runs: 2 completed, 1 failed`."""
    counts = Counter(run.status for run in runs)
    parts = ", ".join(f"{counts[status]} {status}" for status in reversed(STATUSES) if counts[status])
    return f"{len(runs)} run{'s' if len(runs) != 1 else ''}: {parts}"


def _cells(run: RunState, setting: str, size: int) -> list[Cell]:
    record = run.record or {}
    return [
        run.status,
        one_line(run.step),
        setting,
        str(run.seed),
        "" if run.top1 is None else f"{run.top1:.2f}",
        format_size(size) if run.changed is not None else "",
        "" if run.changed is None else format_age(time.time() - run.changed),
        _hash(run)[:HASH_DIGITS],
        one_line(record.get("data", "")),
        one_line(record.get("base", "")),
        _epochs(run),
        one_line(", ".join(run.studies)),
        one_line(run.problem or ""),
    ]


def _epochs(run: RunState) -> str:
    if run.progress is not None and run.status in (RUNNING, INTERRUPTED):
        return f"{run.progress.epoch}/{run.progress.epochs}"
    epochs = ((run.record or {}).get("plan") or {}).get("epochs")
    return "" if epochs is None else str(epochs)


def _to_json(run: RunState, listing: Listing) -> dict[str, Any]:
    record, log = run.record or {}, run.folder / "log.txt"
    return {
        "run": run.name,
        "folder": str(run.folder),
        "status": run.status,
        "step": run.step,
        "setting": list(run.setting),
        "seed": run.seed,
        "hash": _hash(run),
        "top1": run.top1,
        "size_bytes": size_on_disk(run.folder),
        "changed": run.changed,
        "age_seconds": None if run.changed is None else max(0.0, time.time() - run.changed),
        "data": record.get("data"),
        "base": record.get("base"),
        "epochs": (record.get("plan") or {}).get("epochs"),
        "studies": list(run.studies),
        "orphaned": None if listing.notes else _is_orphaned(run),
        "problem": run.problem,
        "log": str(log) if log.is_file() else None,
        "progress": None if run.progress is None else asdict(run.progress),
    }


def _print_log(run: RunState) -> None:
    path = run.folder / "log.txt"
    if not path.is_file():
        raise SpecError(f"{path}: the run has no log")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 100_000))
        lines = file.read().decode(errors="replace").splitlines()
    print(path)
    for line in lines[-LOG_LINES:]:
        print("  " + printable(line))
