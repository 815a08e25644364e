"""One process at a time in a run's folder: two studies that share it train nothing twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: there one study at a time has to do
    fcntl = None  # type: ignore[assignment]


class LockedError(Exception):
    """Another process holds the folder."""


@contextmanager
def hold(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold `folder` (made if absent) while inside; the system lets go when the process dies, however it dies.

    Raises Busy where another process holds it, unless `wait`. It is flock(2): over a network file system it holds on
    NFS from Linux 2.6.12 on, and on Lustre mounted with `-o flock`.
    """
    handle = _locked(folder, wait)
    _open.add(handle)
    try:
        yield
    finally:
        _open.discard(handle)
        os.close(handle)


def _locked(folder: Path, wait: bool) -> int:
    path = folder / ".lock"
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
            raise LockedError(f"{folder}: another process is at work there") from error
        os.close(handle)  # who held it took the folder away (`remove_empty`)


def remove_empty(folder: Path) -> None:
    """Take a held folder away, and the folders above, where nothing but the lock is in them."""
    if [path.name for path in folder.iterdir()] == [".lock"]:
        (folder / ".lock").unlink()
        with suppress(OSError):  # another process has put something there
            folder.rmdir()
            folder.parent.rmdir()
            folder.parent.parent.rmdir()


def _release_in_child() -> None:
    """A loader's worker that outlives a killed run for some seconds must not keep the run's folder locked."""
    for handle in _open:
        os.close(handle)
    _open.clear()


_open: set[int] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


def is_held(folder: Path) -> bool:
    """Whether another process holds `folder` now."""
    if not (folder / ".lock").exists():
        return False
    try:
        with hold(folder):
            return False
    except LockedError:
        return True
