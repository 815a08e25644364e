"""The subcommand `roadmap watch`: show a live table of the runs of a study."""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from roadmap.commands.runs import distinguishing_settings, summarize_statuses
from roadmap.commands.tables import Cell, Column, make_console, make_table, terminal_width
from roadmap.config.names import one_line
from roadmap.config.schema import SpecError
from roadmap.records.listing import (
    COMPLETED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    STATUSES,
    WAITING,
    Listing,
    RunState,
    find_study,
)
from roadmap.runtime.exit_codes import EXIT_COMPLETED
from roadmap.runtime.progress import format_duration
from roadmap.runtime.signals import Stopped

# On a narrow terminal, columns are left out in the order of `leaves`.
COLUMNS = [
    Column("status"),
    Column("step", wraps_at=21),
    Column("setting", leaves=5, wraps_at=14),
    Column("seed", "right"),
    Column("progress", leaves=4),
    Column("epoch", "right"),
    Column("loss", "right", leaves=2),
    Column("top-1", "right", leaves=6),
    Column("images/s", "right", leaves=1),
    Column("left", "right", leaves=3),
]
BAR_WIDTH = 12
NUM_REASONS = 3  # lines about failed, diverged and damaged runs
STYLES = {RUNNING: "cyan", COMPLETED: "green", INTERRUPTED: "yellow", WAITING: "dim"}
NOT_DONE = (RUNNING, WAITING, INTERRUPTED)
SHOWN_FIRST = (RUNNING, INTERRUPTED, *(status for status in STATUSES if status not in NOT_DONE), WAITING)


def watch_command(arguments: list[str]) -> int:
    """Show the runs of a study until all have a result; return the exit code.

    Ctrl-C ends it with exit code 0, because it changes no run. Raises SpecError for invalid input.
    """
    parser = argparse.ArgumentParser(
        prog="roadmap watch",
        description="Show a live table of the runs of a study, until all of them have a result. Ctrl-C ends it.",
        allow_abbrev=False,
    )
    parser.add_argument("study", nargs="?", help="name or folder of a study; without it the runs of all studies")
    parser.add_argument("--out", type=Path, default=Path("experiments"), help="folder of experiments (%(default)s)")
    parser.add_argument("--once", action="store_true", help="print the table once and exit")
    parser.add_argument("--every", metavar="SECONDS", default="1", help="time between two updates (%(default)s)")
    parser.add_argument("--wide", action="store_true", help="print all columns, also on a narrow terminal")
    options = parser.parse_args(arguments)
    interval = _interval(options.every)
    source = find_study(options.out, options.study)
    try:
        if options.once:
            make_console().print(_view(source.read(), options.wide, height=None), soft_wrap=options.wide)
        elif sys.stdout.isatty():
            with Live(console=make_console(), auto_refresh=False, vertical_overflow="crop") as live:
                while True:
                    listing = source.read()
                    live.console.width = terminal_width()  # which the user may have changed
                    live.update(_view(listing, options.wide, shutil.get_terminal_size((80, 24)).lines), refresh=True)
                    if _is_over(listing):
                        break
                    time.sleep(interval)
        else:
            listing = source.read()
            make_console().print(_view(listing, options.wide, height=None), soft_wrap=options.wide)
            while not _is_over(listing):
                sys.stdout.flush()
                time.sleep(interval)
                before, listing = listing, source.read()
                _print_changes(before, listing)
            print(_totals(listing.runs))
    except (Stopped, KeyboardInterrupt) as stopped:
        if isinstance(stopped, Stopped) and signal.Signals.SIGINT.name not in str(stopped):
            raise
    return EXIT_COMPLETED


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds <= 3600:
        raise SpecError(f"--every={text}: must be a number of seconds from 0.1 to 3600")
    return seconds


def _is_over(listing: Listing) -> bool:
    return not any(run.status in NOT_DONE for run in listing.runs)


def _view(listing: Listing, wide: bool, height: int | None) -> Group:
    """Return the table, its totals and the notes. If `height` lines are too few, running runs have precedence."""
    runs = listing.runs
    notes = [*_reasons(runs), *(f"note: {note}" for note in listing.notes)]
    num_rows = len(runs) if height is None else max(1, height - 6 - len(notes))
    shown: Sequence[RunState] = runs
    if len(runs) > num_rows:
        by_precedence = sorted(runs, key=lambda run: SHOWN_FIRST.index(run.status))
        names = {run.name for run in by_precedence[:num_rows]}
        shown = [run for run in runs if run.name in names]
    width = None if wide else terminal_width()
    lines: list[Table | Text] = []
    if shown:
        settings = distinguishing_settings(shown)
        table, left_out, full_width = make_table(COLUMNS, [_cells(run, settings[run.name]) for run in shown], width)
        if wide:
            table.width = full_width
        lines.append(table)
        if len(shown) < len(runs):
            lines.append(Text(f"... and {summarize_statuses([run for run in runs if run not in shown])}"))
        if left_out:
            lines.append(Text(f"not shown: {', '.join(left_out)} (--wide shows all columns)"))
    lines.append(Text("\n" + _totals(runs)))
    return Group(*lines, *(Text(note, overflow="ellipsis", no_wrap=True) for note in notes))


def _reasons(runs: Sequence[RunState]) -> list[str]:
    """Return the reasons of the first failed, diverged and damaged runs, one line each."""
    bad = [run for run in runs if run.status not in (*NOT_DONE, COMPLETED)]
    lines = [
        f"{run.status}: {one_line(run.step)} seed={run.seed}: {one_line(run.problem)}" for run in bad[:NUM_REASONS]
    ]
    return [*lines, f"... and {len(bad) - NUM_REASONS} more"] if len(bad) > NUM_REASONS else lines


def _cells(run: RunState, setting: str) -> list[Cell]:
    progress, loss = run.progress, _loss(run)
    speed = progress.images_per_second if progress is not None else (run.record or {}).get("images_per_second")
    left = progress.seconds_left if progress is not None and run.status == RUNNING else None
    is_visible = run.fraction > 0 or run.status == RUNNING
    bar: Cell = ProgressBar(1.0, run.fraction, width=BAR_WIDTH, complete_style="cyan") if is_visible else ""
    return [
        Text(run.status, style=STYLES.get(run.status, "red")),
        one_line(run.step),
        setting,
        str(run.seed),
        bar,
        _epoch(run),
        "" if loss is None else f"{loss:.3f}",
        "" if run.top1 is None else f"{run.top1:.2f}",
        "" if not speed else f"{speed:,.0f}",
        "" if left is None else format_duration(max(0.0, left)),
    ]


def _epoch(run: RunState) -> str:
    if run.progress is not None and run.status not in FINISHED:
        return f"{run.progress.epoch}/{run.progress.epochs}"
    if run.history:  # no progress.json: the disk was full, or the run failed
        return run.history[-1]["epoch"]
    epochs = ((run.record or {}).get("plan") or {}).get("epochs")
    return f"{epochs}/{epochs}" if epochs is not None and run.status == COMPLETED else ""


def _loss(run: RunState) -> float | None:
    """Return the mean training loss of the current epoch so far, or that of the last epoch."""
    if run.progress is not None and run.status not in FINISHED:
        return run.progress.train_loss
    curve = (run.record or {}).get("curve") or [{}]
    loss = curve[-1].get("train_loss")
    return loss if isinstance(loss, int | float) else None


def _totals(runs: Sequence[RunState]) -> str:
    """Return the counts, the completed part of the training and, if it can be estimated, the time left."""
    if not runs:
        return "no runs"
    done = sum(1.0 if run.status not in NOT_DONE else run.fraction for run in runs) / len(runs)
    text = f"{summarize_statuses(runs)}; {math.floor(100 * done)} % done"
    left = estimate_seconds_left(runs)
    return text if left is None else f"{text}; about {format_duration(left)} left"


def estimate_seconds_left(runs: Sequence[RunState]) -> float | None:
    """Return the estimated seconds until all runs have a result; None if they are unknown.

    The estimate assumes that the number of runs that train at once does not change, and that a run that has not started
    takes the mean time of the completed and running runs.
    """
    running = [run.progress for run in runs if run.status == RUNNING and run.progress is not None]
    left = [progress.seconds_left for progress in running if progress.seconds_left is not None]
    if not left:
        return None
    whole = [run.record["wall_seconds"] for run in runs if run.record is not None and run.status == COMPLETED]
    for run in runs:
        if run.status == RUNNING and run.progress is not None and run.progress.seconds_left is not None:
            whole.append(run.progress.seconds_left / max(1e-3, 1 - run.fraction))
    mean = sum(whole) / len(whole)
    ahead = sum(mean * (1 - run.fraction) for run in runs if run.status in (WAITING, INTERRUPTED))
    return max(*left, (sum(left) + ahead) / len(running))


def _print_changes(before: Listing, after: Listing) -> None:
    """Print a line for each run whose status or epoch has changed."""
    known = {run.name: (run.status, _epoch(run)) for run in before.runs}
    settings = distinguishing_settings(after.runs) if after.runs else {}
    for run in after.runs:
        if known.get(run.name) != (run.status, _epoch(run)):
            title = " ".join(filter(None, [one_line(run.step), settings[run.name], f"seed={run.seed}"]))
            loss = _loss(run)
            parts = [
                run.status,
                f"epoch {_epoch(run)}" if _epoch(run) else "",
                "" if loss is None else f"loss {loss:.3f}",
                "" if run.top1 is None else f"top-1 {run.top1:.2f} %",
            ]
            print(f"{time.strftime('%H:%M:%S')} {title}: {' · '.join(part for part in parts if part)}")
