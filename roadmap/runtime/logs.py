"""Messages of the package: one line each, on standard output, from rank zero only.

Modules write with `logger.info(...)`. The command line and the processes that it starts call `configure_logging`; a
program that only imports the package keeps its own logging configuration.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from roadmap.runtime.world import is_rank_zero

logger = logging.getLogger("roadmap")


class _LineHandler(logging.Handler):
    """Write each message as a line to standard output and, if given, to `console`; flush, so that pipes see it.

    A message of level DEBUG is not written to the console.
    """

    def __init__(self, console: TextIO | None) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        for file in (sys.stdout, self.console if record.levelno >= logging.INFO else None):
            write_line(file, self.format(record))


class _FileHandler(logging.Handler):
    """Write each message as a line to a file."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        write_line(self.file, self.format(record))


def write_line(file: TextIO | None, text: str) -> None:
    """Write `text` to `file`, if there is one, from rank zero only. A full disk or a closed pipe must not end a run."""
    if file is not None and is_rank_zero():
        with suppress(OSError):
            print(text, file=file, flush=True)


@contextmanager
def also_log_to(path: Path) -> Iterator[TextIO | None]:
    """Append the messages of rank zero also to the file `path`, and yield the file; None if it cannot be opened."""
    file: TextIO | None = None
    with suppress(OSError):
        file = path.open("a", encoding="utf-8") if is_rank_zero() else None
    if file is None:
        yield None
        return
    handler = _FileHandler(file)
    logger.addHandler(handler)
    try:
        yield file
    finally:
        logger.removeHandler(handler)
        with suppress(OSError):
            file.close()


def configure_logging(console: TextIO | None = None) -> None:
    """Send the package's messages to standard output and, in a run whose standard output is its log, to `console`.

    Messages of level DEBUG are written only to the log of such a run.
    """
    for handler in [handler for handler in logger.handlers if isinstance(handler, _LineHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(_LineHandler(console))
    logger.setLevel(logging.INFO if console is None else logging.DEBUG)
    logger.propagate = False  # otherwise a handler of the root logger would write each message again
