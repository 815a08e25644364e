"""Signals that ask a run to stop: it writes a checkpoint and ends with an exit code of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_STOPPED = 75  # exit code, EX_TEMPFAIL of sysexits.h: try again, the same command goes on
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class Stopped(BaseException):
    """The run was asked to stop and has left a checkpoint. No Exception: nothing on the way takes it for a failure."""


class StopRequest:
    """Whether somebody asked to stop, and how."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __bool__(self) -> bool:
        return self.reason is not None


def raise_on_signal() -> None:
    """Outside of `listening`, where there is nothing to save, let the signals raise Stopped where they arrive."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    for number in STOP_SIGNALS:
        signal.signal(number, end)


@contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """While inside, SIGTERM, SIGINT and SIGUSR1 (SLURM's usual warning) only set the request: look at it when it suits.

    Outside the main thread, where Python hears no signals, nothing is ever asked.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        request.reason = signal.Signals(number).name

    before = {number: signal.signal(number, ask) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
