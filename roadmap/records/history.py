"""Files that show a run while it trains: history.csv and iterations.csv, its learning curve by epoch and by iteration,
and progress.json, its position.

Lines are appended to the two curves, and those of what a resumed run trains again are removed first. progress.json is
replaced while the run trains and removed when its record is written. None of them is needed to resume. If they cannot
be written, the run continues.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HISTORY_NAME, ITERATIONS_NAME, PROGRESS_NAME = "history.csv", "iterations.csv", "progress.json"
HISTORY_FIELDS = ("epoch", "lr", "train_loss", "test_top1", "test_loss", "seconds")
ITERATION_FIELDS = ("iteration", "epoch", "lr", "loss", "epoch_loss", "images_per_second")
PROGRESS_INTERVAL_SECONDS = 2.0  # minimum time between two versions of progress.json

Row = dict[str, Any]  # epoch, lr, train_loss and, for an evaluated epoch, test_top1 and test_loss


class _Curve:
    """A CSV file of a run that trains, to which lines are appended."""

    def __init__(self, path: Path, fields: Sequence[str], rows: list[Row]) -> None:
        self.path, self.fields, self.rows = path, fields, rows
        self.is_complete = False  # whether the file has all of `rows`
        self._write_all()

    def _append(self, row: Row) -> None:
        self.rows.append(row)
        if not self.is_complete:
            self._write_all()
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._line(row))
        except OSError:  # a full disk: part of the line may be there
            self.is_complete = False

    def _write_all(self) -> None:
        text = ",".join(self.fields) + "\n" + "".join(map(self._line, self.rows))
        self.is_complete = _replace(self.path, text)

    def _line(self, row: Row) -> str:
        values = (row.get(name) for name in self.fields)
        return ",".join("" if value is None else str(value) for value in values) + "\n"


class History(_Curve):
    """Writer of history.csv: one line per epoch."""

    def __init__(self, folder: Path, curve: Sequence[Row]) -> None:
        """Begin the file with the epochs of `curve`, which are those before a resume. Lines of later epochs are
        removed, because these epochs are trained again."""
        seconds = {row["epoch"]: row["seconds"] for row in read_history(folder)}
        rows = [row | {"seconds": seconds.get(str(row["epoch"]))} for row in curve]
        super().__init__(folder / HISTORY_NAME, HISTORY_FIELDS, rows)

    def append(self, row: Row, seconds: float) -> None:
        """Add the line of an epoch; `seconds` is the wall time of the run so far."""
        self._append(row | {"seconds": round(seconds, 3)})


class IterationLog(_Curve):
    """Writer of iterations.csv: a line after every `every` iterations of an epoch, and at its end."""

    def __init__(self, folder: Path, first: int, iterations_per_epoch: int, every: int) -> None:
        """Begin the file with the lines of the first `first` iterations. Later ones are removed, because these
        iterations are trained again."""
        self.iterations_per_epoch, self.every = iterations_per_epoch, every
        rows: list[Row] = [row for row in read_iterations(folder) if int(row["iteration"]) <= first]
        super().__init__(folder / ITERATIONS_NAME, ITERATION_FIELDS, rows)

    def append(self, epoch: int, iteration: int, lr: float, epoch_loss: float, images_per_second: float | None) -> None:
        """Add a line if it is due: `iteration` iterations of epoch `epoch` (from 0) are done, with the mean loss
        `epoch_loss`. Its `loss` is the mean since the line before."""
        if iteration % self.every and iteration < self.iterations_per_epoch:
            return
        start = epoch * self.iterations_per_epoch
        last = self.rows[-1] if self.rows and int(self.rows[-1]["epoch"]) == epoch + 1 else None
        if last is not None and int(last["iteration"]) >= start + iteration:
            return  # the run was resumed here
        before = int(last["iteration"]) - start if last is not None else 0
        loss_before = float(last["epoch_loss"]) * before if last is not None else 0.0
        loss = (epoch_loss * iteration - loss_before) / (iteration - before)
        speed = None if images_per_second is None else round(images_per_second, 1)
        row = {"iteration": start + iteration, "epoch": epoch + 1, "lr": lr, "loss": loss, "epoch_loss": epoch_loss}
        self._append(row | {"images_per_second": speed})


def read_history(folder: Path) -> list[dict[str, str]]:
    """Return the intact lines of history.csv, each as text by field; [] without a file."""
    return _read(folder / HISTORY_NAME, HISTORY_FIELDS)


def read_iterations(folder: Path) -> list[dict[str, str]]:
    """Return the intact lines of iterations.csv, each as text by field; [] without a file."""
    return _read(folder / ITERATIONS_NAME, ITERATION_FIELDS)


def _read(path: Path, fields: Sequence[str]) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n") and "\0" not in line]
    rows = [line.rstrip("\n").split(",") for line in lines]
    rows = [row for row in rows if len(row) == len(fields) and row[0].isdecimal() and _are_numbers(row)]
    return [dict(zip(fields, row, strict=True)) for row in rows]


def _are_numbers(row: Sequence[str]) -> bool:
    try:
        return all(math.isfinite(float(text)) for text in row if text)
    except ValueError:
        return False


@dataclass
class Progress:
    """The content of progress.json."""

    epoch: int  # from 1: the epoch that trains now
    epochs: int
    iteration: int  # done in this epoch
    iterations_per_epoch: int
    train_loss: float | None = None  # mean of this epoch so far
    images_per_second: float | None = None  # of the whole training so far
    top1: float | None = None  # of the last evaluation, percent
    seconds_left: float | None = None
    updated: float = field(default_factory=time.time)  # seconds since 1970
    pid: int = field(default_factory=os.getpid)  # of the process that trains
    host: str = field(default_factory=platform.node)  # machine of this process


def write_progress(folder: Path, progress: Progress) -> None:
    """Replace progress.json. A reader sees the old or the new one; after a crash of the machine it may be damaged."""
    _replace(folder / PROGRESS_NAME, json.dumps(asdict(progress)) + "\n")


def remove_progress(folder: Path) -> None:
    """Delete progress.json, if there is one."""
    with suppress(OSError):
        (folder / PROGRESS_NAME).unlink(missing_ok=True)


def _replace(path: Path, text: str) -> bool:
    """Write `text` to `path` atomically, but without fsync; return whether it could be written."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        return False
    return True
