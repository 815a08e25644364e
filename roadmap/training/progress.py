"""Progress of a run: messages, a live line on the terminal, history.csv, iterations.csv and progress.json."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from roadmap.records.history import (
    PROGRESS_INTERVAL_SECONDS,
    History,
    IterationLog,
    Progress,
    Row,
    write_progress,
)
from roadmap.runtime.logs import logger
from roadmap.runtime.progress import format_duration

LINE_INTERVAL_SECONDS = 10.0  # between two messages within an epoch


class RunProgress:
    """Epoch, loss, training images/s, top-1 and remaining time of one run.

    Every epoch ends with a message. Within an epoch there is a live line on a terminal, else a message every 10
    seconds. A run of a sweep has a title. It sends all messages to its log, and at most one every 10 seconds to the
    console. With a folder, history.csv, iterations.csv and progress.json in it are kept up to date.
    """

    def __init__(
        self,
        epochs: int,
        iterations_per_epoch: int,
        title: str = "",
        folder: Path | None = None,
        first: int = 0,
        curve: Sequence[Row] = (),
        log_every: int = 50,
    ) -> None:
        """Start the progress of a run. `title` is the start of each message. Runs with a title show no live line,
        because several may run at once. `first` iterations, and the epochs of `curve`, were done before a resume.
        `log_every` is the number of iterations between two lines of iterations.csv."""
        self.title, self.folder, self.first = title, folder, first
        self.started = self.last_message = time.monotonic()
        self.last_write = 0.0  # of progress.json
        position = divmod(first, iterations_per_epoch)
        self.state = Progress(position[0] + 1, epochs, position[1], iterations_per_epoch)
        for row in curve:
            self.state.top1 = row.get("test_top1", self.state.top1)
        self.history: History | None = None
        self.iterations: IterationLog | None = None
        if folder is not None:
            self.history = History(folder, curve)
            self.iterations = IterationLog(folder, first, iterations_per_epoch, log_every)
            self._write()
        self.live: ProgressBar | None = None
        if sys.stdout.isatty() and not title:
            columns = (TextColumn("  {task.description}"), BarColumn(), TimeRemainingColumn())
            self.live = ProgressBar(*columns, console=Console(file=sys.stdout), transient=True)
            self.task = self.live.add_task("", total=epochs * iterations_per_epoch)

    def __enter__(self) -> RunProgress:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, epoch: int, iteration: int, loss: float, images_per_second: float | None, lr: float) -> None:
        """Show that `iteration` iterations of epoch `epoch` (from 0) are done; `loss` is the mean of this epoch so far,
        `images_per_second` that of the whole training so far, `lr` the learning rate."""
        if self.iterations is not None:
            self.iterations.append(epoch, iteration, lr, loss, images_per_second)
        state = self.state
        state.epoch, state.iteration = epoch + 1, iteration
        state.train_loss, state.images_per_second = loss, images_per_second
        done, now = self._estimate_seconds_left(), time.monotonic()
        if self.live is not None:
            self.live.update(self.task, completed=done, description=self._describe(state.top1))
        elif now - self.last_message > LINE_INTERVAL_SECONDS and iteration < state.iterations_per_epoch:
            self._log(state.top1)
        if now - self.last_write >= PROGRESS_INTERVAL_SECONDS:
            self._write()

    def end_epoch(self, row: Row, seconds: float) -> None:
        """Log an epoch and add it to history.csv; `row` is its row of the curve, `seconds` the wall time so far."""
        self.state.train_loss = row["train_loss"]
        self.state.top1 = row.get("test_top1", self.state.top1)
        self._estimate_seconds_left()
        if self.history is not None:
            self.history.append(row, seconds)
        self._log(row.get("test_top1"))

    def _estimate_seconds_left(self) -> int:
        """Set the remaining time and return the number of iterations that are done."""
        state = self.state
        done = (state.epoch - 1) * state.iterations_per_epoch + state.iteration
        if done > self.first:
            per_iteration = (time.monotonic() - self.started) / (done - self.first)
            state.seconds_left = per_iteration * (state.epochs * state.iterations_per_epoch - done)
        return done

    def _log(self, top1: float | None) -> None:
        now = time.monotonic()
        quiet = bool(self.title) and now - self.last_message <= LINE_INTERVAL_SECONDS
        self.last_message = self.last_message if quiet else now
        left = f" · {format_duration(self.state.seconds_left)} left" if self.state.seconds_left else ""
        level = logging.DEBUG if quiet else logging.INFO
        logger.log(level, f"{self.title or ' '} {self._describe(top1)}{left}")

    def _describe(self, top1: float | None) -> str:
        state = self.state
        text = f"epoch {state.epoch}/{state.epochs} · loss {state.train_loss:.3f}"
        if top1 is not None:
            text += f" · top-1 {top1:.1f} %"
        return f"{text} · {state.images_per_second or 0:,.0f} images/s"

    def _write(self) -> None:
        if self.folder is not None:
            self.last_write, self.state.updated = time.monotonic(), time.time()
            write_progress(self.folder, self.state)
