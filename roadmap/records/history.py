"""Files that show a run while it trains: its learning curve in history.csv and its position in progress.json.

history.csv has one line per epoch, appended when the epoch is done. progress.json is replaced while the run trains and
removed when its record is written. Neither is needed to resume. If they cannot be written, the run continues.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HISTORY_NAME, PROGRESS_NAME = "history.csv", "progress.json"
HISTORY_FIELDS = ("epoch", "lr", "train_loss", "test_top1", "test_loss", "seconds")
PROGRESS_INTERVAL_SECONDS = 2.0  # minimum time between two versions of progress.json

Row = dict[str, Any]  # epoch, lr, train_loss and, for an evaluated epoch, test_top1 and test_loss


class History:
    """Writer of the history.csv of a run that trains."""

    def __init__(self, folder: Path, curve: Sequence[Row]) -> None:
        """Begin the file with the epochs of `curve`, which are those before a resume. Lines of later epochs are
        removed, because these epochs are trained again."""
        self.path = folder / HISTORY_NAME
        seconds = {row["epoch"]: row["seconds"] for row in read_history(folder)}
        self.rows = [row | {"seconds": seconds.get(str(row["epoch"]))} for row in curve]
        self.is_complete = False  # whether the file has all of `rows`
        self._write_all()

    def append(self, row: Row, seconds: float) -> None:
        """Add the line of an epoch; `seconds` is the wall time of the run so far."""
        self.rows.append(row | {"seconds": round(seconds, 3)})
        if not self.is_complete:
            self._write_all()
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(self.rows[-1]))
        except OSError:  # a full disk: part of the line may be there
            self.is_complete = False

    def _write_all(self) -> None:
        text = ",".join(HISTORY_FIELDS) + "\n" + "".join(map(_line, self.rows))
        self.is_complete = _replace(self.path, text)


def _line(row: Row) -> str:
    values = (row.get(name) for name in HISTORY_FIELDS)
    return ",".join("" if value is None else str(value) for value in values) + "\n"


def read_history(folder: Path) -> list[dict[str, str]]:
    """Return the intact lines of history.csv, each as text by field; [] without a file."""
    try:
        text = (folder / HISTORY_NAME).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n") and "\0" not in line]
    rows = [line.rstrip("\n").split(",") for line in lines]
    rows = [row for row in rows if len(row) == len(HISTORY_FIELDS) and row[0].isdecimal()]
    return [dict(zip(HISTORY_FIELDS, row, strict=True)) for row in rows]


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
