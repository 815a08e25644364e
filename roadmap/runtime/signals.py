"""Signals that ask a run to stop: the run writes a checkpoint and exits with `EXIT_STOPPED`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from roadmap.runtime.exit_codes import EXIT_STOPPED

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class Stopped(BaseException):
    """A signal stopped the run; it has written a checkpoint if training had begun. Not an Exception, so that no
    `except Exception` treats it as a failure."""


class StopRequest:
    """Whether a signal has asked to stop (its truth value), and which one (`reason`, the signal's name)."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __bool__(self) -> bool:
        return self.reason is not None


def exit_on_signal() -> None:
    """Let stop signals end the process at once. Used during the imports, where an exception could be lost."""

    def handler(number: int, _frame: FrameType | None) -> None:
        os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
        os._exit(EXIT_STOPPED)

    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def raise_on_signal() -> None:
    """Let the stop signals raise `Stopped` at once, for the time outside of `deferred_signals`: then there is nothing
    to save."""

    def handler(number: int, _frame: FrameType | None) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    for number in STOP_SIGNALS:
        signal.signal(number, handler)


@contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Let SIGTERM, SIGINT and SIGUSR1 (SLURM's usual warning) only set the yielded request inside the context.

    The caller checks the request where it can stop. Outside of the main thread Python receives no signals, and the
    request is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handler(number: int, _frame: FrameType | None) -> None:
        request.reason = signal.Signals(number).name

    previous = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, previous_handler in previous.items():
            signal.signal(number, previous_handler)
