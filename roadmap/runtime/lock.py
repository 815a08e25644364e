"""File locks: one process at a time in a run's folder, so that two sweeps that share a folder train no run twice."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_NAME = ".lock"


class LockedError(Exception):
    """Another process has locked the folder."""


@contextmanager
def hold(folder: Path, wait: bool = False) -> Iterator[None]:
    """Lock `folder` inside the context and create it if it does not exist.

    The operating system releases the lock when the process ends, also when it is killed. Raises LockedError if another
    process holds the lock, unless `wait`. On POSIX the lock is flock(2): on network file systems it works on NFS since
    Linux 2.6.12, and on Lustre mounted with `-o flock`. On Windows it is that of `msvcrt.locking`.
    """
    handle = _lock(folder, wait)
    _open_handles.add(handle)
    try:
        yield
    finally:
        _open_handles.discard(handle)
        os.close(handle)


def _lock(folder: Path, wait: bool) -> int:
    import portalocker  # here: the import takes 50 ms, which `--cfg job` does not need

    path = folder / LOCK_NAME
    flags = portalocker.LockFlags.EXCLUSIVE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            portalocker.lock(handle, flags if wait else flags | portalocker.LockFlags.NON_BLOCKING)
            if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        except portalocker.AlreadyLocked as error:
            if not wait:
                os.close(handle)
                raise LockedError(f"{folder}: locked by another process; wait until it has ended") from error
            time.sleep(1)  # Windows waits only for some seconds
        except portalocker.LockException as error:
            os.close(handle)
            raise OSError(f"{folder}: cannot be locked ({error})") from error
        os.close(handle)  # the process that held the lock has removed the folder (`remove_empty`): try again


def remove_empty(folder: Path) -> None:
    """Remove a locked folder that contains only the lock file, and its two parent folders if they are empty then."""
    if [path.name for path in folder.iterdir()] == [LOCK_NAME]:
        with suppress(OSError):  # another process has written something there; Windows removes no open file
            (folder / LOCK_NAME).unlink()
            folder.rmdir()
            folder.parent.rmdir()
            folder.parent.parent.rmdir()


def is_held(folder: Path) -> bool:
    """Return whether another process holds the lock of `folder` now. Writes nothing, so the folder may be read-only."""
    try:
        handle = os.open(folder / LOCK_NAME, os.O_RDONLY)
    except OSError:  # no lock file, or one that this user may not read
        return False
    import portalocker

    # A shared lock, which NFS allows for a file that is open for reading; msvcrt has only exclusive ones.
    kind = portalocker.LockFlags.EXCLUSIVE if os.name == "nt" else portalocker.LockFlags.SHARED
    try:
        portalocker.lock(handle, kind | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.LockException:
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
