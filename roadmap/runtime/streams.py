"""Preparation of standard input, output and error."""

from __future__ import annotations

import io
import os
import sys


def prepare_streams() -> None:
    """Make standard output and error usable in every environment.

    A closed stream (`>&-`) becomes the null device, also for processes that are started later. Otherwise the next file
    that is opened would get its number. A character that the encoding lacks (PYTHONIOENCODING=ascii) is replaced.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 it stays open
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def discard_output() -> None:
    """Send the rest of standard output to the null device. Otherwise the interpreter reports an error when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
