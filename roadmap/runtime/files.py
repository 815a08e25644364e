"""Atomic writing of files, and errors of the operating system in one line."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(
    path: Path, content: bytes | Callable[[BinaryIO], None], before_replacing: Callable[[], None] = lambda: None
) -> None:
    """Write `content` to `path` so that a reader sees either the old file or the complete new one.

    `content` may be a function that writes it to an open file. The content is on the disk (fsync) before the file gets
    its name; `before_replacing` is called between the two. Raises OSError, which names `path`; then the old file is
    kept.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            before_replacing()
            Path(temporary).replace(path)
            _sync_folder(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # not that of the temporary file
        raise


def describe_os_error(error: OSError) -> str:
    """Return the path and the reason of an error of the operating system in one line."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def _sync_folder(folder: Path) -> None:
    """Write the folder's entries to the disk too. Windows cannot do this."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
