"""File locks: one process at a time in a run's folder, so that two sweeps that share a folder train no run twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no locks, so only one sweep at a time may use a folder
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"


class LockedError(Exception):
    """Another process has locked the folder."""


@contextmanager
def hold(folder: Path, wait: bool = False) -> Iterator[None]:
    """Lock `folder` inside the context and create it if it does not exist.

    The operating system releases the lock when the process ends, also when it is killed. Raises LockedError if another
    process holds the lock, unless `wait`. The lock is flock(2): on network file systems it works on NFS since
    Linux 2.6.12, and on Lustre mounted with `-o flock`.
    """
    handle = _lock(folder, wait)
    _open_handles.add(handle)
    try:
        yield
    finally:
        _open_handles.discard(handle)
        os.close(handle)


def _lock(folder: Path, wait: bool) -> int:
    path = folder / LOCK_NAME
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        except BlockingIOError as error:
            os.close(handle)
            raise LockedError(f"{folder}: locked by another process; wait until it has ended") from error
        os.close(handle)  # the process that held the lock has removed the folder (`remove_empty`): try again


def remove_empty(folder: Path) -> None:
    """Remove a locked folder that contains only the lock file, and its two parent folders if they are empty then."""
    if [path.name for path in folder.iterdir()] == [LOCK_NAME]:
        (folder / LOCK_NAME).unlink()
        with suppress(OSError):  # another process has written something there
            folder.rmdir()
            folder.parent.rmdir()
            folder.parent.parent.rmdir()


def is_held(folder: Path) -> bool:
    """Return whether another process holds the lock of `folder` now. Writes nothing, so the folder may be read-only."""
    try:
        handle = os.open(folder / LOCK_NAME, os.O_RDONLY)
    except OSError:  # no lock file, or one that this user may not read
        return False
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


_open_handles: set[int] = set()


def _release_in_child() -> None:
    """Close inherited handles: a loader worker can outlive a killed run by some seconds and would keep the lock."""
    for handle in _open_handles:
        os.close(handle)
    _open_handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
