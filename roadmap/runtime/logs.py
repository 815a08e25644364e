"""Messages of the package: one line each, on standard output, from rank zero only.

Modules write with `logger.info(...)`. The command line and the processes that it starts call `configure_logging`; a
program that only imports the package keeps its own logging configuration.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TextIO

from roadmap.runtime.world import is_rank_zero

logger = logging.getLogger("roadmap")


class _LineHandler(logging.Handler):
    """Write each message as a line to standard output and, if given, to `console`; flush, so that pipes see it."""

    def __init__(self, console: TextIO | None) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        if not is_rank_zero():
            return
        for file in (sys.stdout, self.console):
            with suppress(OSError):  # a full disk or a closed pipe must not end a run
                if file is not None:
                    print(self.format(record), file=file, flush=True)


def configure_logging(console: TextIO | None = None) -> None:
    """Send the package's messages to standard output and, in a run whose standard output is its log, to `console`."""
    for handler in [handler for handler in logger.handlers if isinstance(handler, _LineHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(_LineHandler(console))
    logger.setLevel(logging.INFO)
    logger.propagate = False  # or a handler of the root logger would write each message again
