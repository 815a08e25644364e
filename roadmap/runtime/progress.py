"""How far a run is: a live line on a terminal, plain lines now and then in a file."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LEADS, TEAM = os.environ.get("RANK", "0") == "0", "WORLD_SIZE" in os.environ  # as torchrun says
LINE_SECONDS = 10.0  # between two plain lines of a run
console: TextIO | None = None  # of a run in a process of its own, whose standard output is its log


def say(text: str) -> None:
    """One line on standard output, at once also in a pipe; of several processes of one run the first speaks."""
    if LEADS:
        for file in (sys.stdout, console):
            with suppress(OSError):  # a full disk, or a reader that has gone, is no reason to end a run
                if file is not None:
                    print(text, file=file, flush=True)


def format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class RunProgress:
    """Epochs and steps of one run: what is left, the loss, training images/s."""

    def __init__(self, epochs: int, steps_per_epoch: int, batch_size: int, title: str = "", first: int = 0) -> None:
        self.title = title
        self.epochs, self.steps, self.batch_size = epochs, steps_per_epoch, batch_size
        self.started = self.last_line = time.perf_counter()
        self.first = first  # the steps that were done before: a resumed run's
        self.test: float | None = None  # top-1 of the last evaluation, percent
        self.live: Progress | None = None
        if sys.stdout.isatty() and not title and console is None:  # several runs at once write lines
            columns = (TextColumn("  {task.description}"), BarColumn(), TimeRemainingColumn())
            self.live = Progress(*columns, console=Console(file=sys.stdout), transient=True)
            self.task = self.live.add_task("", total=epochs * steps_per_epoch)

    def __enter__(self) -> RunProgress:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.live is not None:
            self.live.stop()

    def step(self, epoch: int, step: int, loss: float, images_per_second: float | None) -> None:
        """Step `step` (from 1) of epoch `epoch` (from 0) is done; the rate is that of the whole training so far."""
        done, total = epoch * self.steps + step, self.epochs * self.steps
        text = f"epoch {epoch + 1}/{self.epochs} · loss {loss:.3f} · {images_per_second or 0:,.0f} images/s"
        if self.test is not None:
            text += f" · top-1 {self.test:.1f} %"
        now = time.perf_counter()
        if self.live is not None:
            self.live.update(self.task, completed=done, description=text)
        elif now - self.last_line > LINE_SECONDS:
            self.last_line = now
            left = (now - self.started) / (done - self.first) * (total - done)
            say(f"{self.title or ' '} {text} · {format_duration(left)} left")
