"""Progress of a run: a live line on a terminal, a plain line every 10 seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from roadmap.runtime.logs import logger

LINE_INTERVAL_SECONDS = 10.0


def format_duration(seconds: float) -> str:
    """Format as `M:SS`, or `H:MM:SS` from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class RunProgress:
    """Epoch, loss, training images/s, top-1 and remaining time of one run."""

    def __init__(self, epochs: int, iterations_per_epoch: int, title: str = "", first: int = 0) -> None:
        """`title` is the start of each line (runs with a title never show a live line, as several may run at once);
        `first` is the number of iterations that were done before a resume."""
        self.title = title
        self.epochs, self.iterations_per_epoch = epochs, iterations_per_epoch
        self.started = self.last_line = time.perf_counter()
        self.first = first
        self.top1: float | None = None  # of the last evaluation, percent
        self.live: Progress | None = None
        if sys.stdout.isatty() and not title:
            columns = (TextColumn("  {task.description}"), BarColumn(), TimeRemainingColumn())
            self.live = Progress(*columns, console=Console(file=sys.stdout), transient=True)
            self.task = self.live.add_task("", total=epochs * iterations_per_epoch)

    def __enter__(self) -> RunProgress:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, epoch: int, iteration: int, loss: float, images_per_second: float | None) -> None:
        """Show that `iteration` iterations of epoch `epoch` (from 0) are done; `loss` is the mean of this epoch so far,
        `images_per_second` that of the whole training so far."""
        done, total = epoch * self.iterations_per_epoch + iteration, self.epochs * self.iterations_per_epoch
        text = f"epoch {epoch + 1}/{self.epochs} · loss {loss:.3f} · {images_per_second or 0:,.0f} images/s"
        if self.top1 is not None:
            text += f" · top-1 {self.top1:.1f} %"
        now = time.perf_counter()
        if self.live is not None:
            self.live.update(self.task, completed=done, description=text)
        elif now - self.last_line > LINE_INTERVAL_SECONDS:
            self.last_line = now
            left = (now - self.started) / (done - self.first) * (total - done)
            logger.info(f"{self.title or ' '} {text} · {format_duration(left)} left")
