"""The processes that runs train in: how they start, and which signals they receive."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

# Signals that a cluster sends to all processes of a job at once to ask them to stop; SIGUSR2 is submitit's.
GROUP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]

# Modules that the fork server imports once for all runs: about 5 s of torch and timm, and 1 s for the digits.
PRELOADED = ["roadmap.training.run", "sklearn.datasets", "sklearn.model_selection"]


def process_context() -> Any:
    """Return the multiprocessing context in which runs and checks start.

    On Linux a server process imports torch once and forks a fresh process for each run. Where forking is not safe
    (macOS) or not possible (Windows), each run gets a new interpreter.
    """
    method = "forkserver" if sys.platform == "linux" else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(PRELOADED)
        _start_server()
    return context


def _start_server() -> None:
    """Start the fork server with GROUP_SIGNALS blocked: the runs need it until they have written their checkpoints.

    Processes that it forks inherit the blocked signals until they call `unblock_signals`.
    """
    from multiprocessing import forkserver, resource_tracker  # not on Windows

    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        resource_tracker.ensure_running()  # it unblocks SIGTERM again
        signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_signals() -> None:
    """Receive GROUP_SIGNALS from now on; each process of `process_context` calls this first."""
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # submitit handles it in the parent process and stops that
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)


def ignore_interrupts() -> None:
    """Like `unblock_signals`, for a process that waits while others work: the terminal's Ctrl-C does not end it."""
    unblock_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def stop_with_parent() -> None:
    """Stop this run, with a checkpoint, when the process that started this one has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def visible_devices(gpus: Sequence[int] | None) -> str | None:
    """Return CUDA_VISIBLE_DEVICES for a run on GPUs with these numbers among those that this process sees; for None,
    this process's own value."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus is None:
        return visible
    names = visible.split(",") if visible else None
    return ",".join(names[gpu].strip() if names else str(gpu) for gpu in gpus)
