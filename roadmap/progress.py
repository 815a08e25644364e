"""How far a run is: a live line on a terminal, plain lines now and then in a file."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0  # between two plain lines of a run


def say(text: str) -> None:
    """One line on standard output, at once also in a pipe."""
    print(text, flush=True)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class RunProgress:
    """Epochs and steps of one run: what is left, the loss, training images/s."""

    def __init__(self, epochs: int, steps_per_epoch: int, batch_size: int, title: str = "") -> None:
        self.title = title
        self.epochs, self.steps, self.batch_size = epochs, steps_per_epoch, batch_size
        self.started = self.last_line = time.perf_counter()
        self.test: float | None = None  # top-1 of the last evaluation, percent
        self.live: Progress | None = None
        if sys.stdout.isatty() and not title:  # several runs at once write lines
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

    def step(self, epoch: int, step: int, loss: float, train_seconds: float) -> None:
        """Step `step` (from 1) of epoch `epoch` (from 0) is done, after `train_seconds` of training in all."""
        done, total = epoch * self.steps + step, self.epochs * self.steps
        rate = done * self.batch_size / max(train_seconds, 1e-9)
        text = f"epoch {epoch + 1}/{self.epochs} · loss {loss:.3f} · {rate:,.0f} images/s"
        if self.test is not None:
            text += f" · test {self.test:.1f} %"
        now = time.perf_counter()
        if self.live is not None:
            self.live.update(self.task, completed=done, description=text)
        elif now - self.last_line > LINE_SECONDS:
            self.last_line = now
            say(f"{self.title or ' '} {text} · {duration((now - self.started) * (total / done - 1))} left")
