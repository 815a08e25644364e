"""Atomic writing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from roadmap.runtime.files import describe_os_error, write_atomically


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "record.json"
    path.write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_atomically(path, b"after")
    assert describe_os_error(raised.value) == f"{path}: No space left on device"
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FileNotFoundError) as raised_too:
        write_atomically(tmp_path / "absent" / "file", b"")
    assert describe_os_error(raised_too.value) == f"{tmp_path / 'absent' / 'file'}: No such file or directory"
