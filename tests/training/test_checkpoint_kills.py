"""A process that is killed while it replaces the files of a checkpoint leaves an intact one."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

from roadmap.runtime import files
from roadmap.training import checkpoint

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("folder")]

RUN = "gelu-0123456789ab-seed0"


@pytest.mark.parametrize("moment", ["previous linked", "previous checksum written", "checksum written"])
def test_a_kill_between_two_files_leaves_an_intact_checkpoint(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two files of a checkpoint cannot be replaced at once."""

    class Killed(BaseException):
        pass

    checkpoint.save(tmp_path, RUN, {"number": 1})
    written: list[str] = []

    def write(path: Path, content: Any, **options: Any) -> None:
        if moment == "previous linked" and path.name.endswith(".sha256"):
            raise Killed
        files.write_atomically(path, content, **options)
        written.append(path.name)
        if path.name == last:
            raise Killed

    checksums = [f"{name}.sha256" for name in (checkpoint.PREVIOUS, checkpoint.NAME)]
    last = {"previous checksum written": checksums[0], "checksum written": checksums[1]}.get(moment)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", write)
        with pytest.raises(Killed):
            checkpoint.save(tmp_path, RUN, {"number": 2})
    assert written == checksums[: checksums.index(last) + 1 if last else 0]
    messages: list[str] = []
    assert checkpoint.load(tmp_path, RUN, messages.append) == {"number": 1} and messages == []
    for number in (3, 4):
        checkpoint.save(tmp_path, RUN, {"number": number})
        assert checkpoint.load(tmp_path, RUN, messages.append) == {"number": number} and messages == []
    assert checkpoint.read(tmp_path / checkpoint.PREVIOUS, RUN) == {"number": 3}


def test_two_kills_between_the_checksum_and_its_file_lose_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is killed when it has written the checksum of a checkpoint and not yet renamed its file; twice."""

    class Killed(BaseException):
        pass

    def write_atomically(path: Path, content: Any, before_replacing: Any = lambda: None) -> None:
        if path.name == checkpoint.NAME:
            content(io.BytesIO())
            before_replacing()
            raise Killed
        files.write_atomically(path, content)

    for epoch in (1, 2):
        checkpoint.save(folder, RUN, {"epoch": epoch})
    for epoch in (3, 4):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_atomically", write_atomically)
            with pytest.raises(Killed):
                checkpoint.save(folder, RUN, {"epoch": epoch})
        messages: list[str] = []
        state = checkpoint.load(folder, RUN, messages.append)
        assert state == {"epoch": 2}
        assert messages == []
    checkpoint.save(folder, RUN, {"epoch": 5})
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        content = (folder / name).read_bytes()
        assert (folder / f"{name}.sha256").read_text() == f"{hashlib.sha256(content).hexdigest()}  {name}\n"
