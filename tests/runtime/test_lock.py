"""Locks of folders: released when the process ends, and no trace where nothing was written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from roadmap.runtime import lock
from tests.conftest import ROOT

HOLD = "import sys, time; from pathlib import Path; from roadmap.runtime.lock import hold\n"
HOLD += "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert lock.is_held(folder)
        with pytest.raises(lock.LockedError, match=f"{folder}: locked by another process"), lock.hold(folder):
            pass
        process.kill()
        with lock.hold(folder, wait=True):
            assert (folder / lock.LOCK_NAME).exists()
    assert not lock.is_held(folder)


def test_an_empty_folder_is_removed_with_its_empty_parents(tmp_path: Path) -> None:
    folder = tmp_path / "experiments" / "runs" / "gelu"
    with lock.hold(folder):
        (folder / "log.txt").touch()
        lock.remove_empty(folder)
        assert folder.exists()
        (folder / "log.txt").unlink()
        lock.remove_empty(folder)
    assert not (tmp_path / "experiments").exists() and not lock.is_held(folder)


def test_a_lock_in_a_read_only_folder_can_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.open

    def read_only(path: Path, flags: int, *mode: int) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return original(path, flags, *mode)

    with lock.hold(tmp_path):
        monkeypatch.setattr(os, "open", read_only)
        assert lock.is_held(tmp_path)
    assert not lock.is_held(tmp_path) and not lock.is_held(tmp_path / "absent")
    with pytest.raises(OSError, match="Read-only"), lock.hold(tmp_path):
        pass
