"""Where a run is, on disk, so that the same command goes on from there.

A file is a magic line, the SHA-256 of what follows, and PyTorch's own format, read with `weights_only=True`: tensors
and plain values, never code. The one before is kept; a file that is not whole, or not of this run, is named and left.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from roadmap.runtime.files import write_atomically

MAGIC = b"roadmap checkpoint 1\n"
NAME, PREVIOUS, BAD = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.bad.pt"


class CheckpointError(Exception):
    """A file that is no whole checkpoint of this run; one line that names it."""


def save(folder: Path, run: str, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) of the run named `run`; the checkpoint before stays as the previous one.

    Whenever the process dies, one of the two is whole. Raises OSError where it cannot be written: then both stay.
    """
    buffer = io.BytesIO()
    torch.save({"run": run, "state": state}, buffer)
    content = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME

    def keep_previous() -> None:
        if path.exists():
            previous = folder / PREVIOUS
            previous.unlink(missing_ok=True)
            try:
                previous.hardlink_to(path)  # so that `path` is there at every moment
            except OSError:  # a file system without links
                path.replace(previous)

    write_atomically(path, MAGIC + hashlib.sha256(content).digest() + content, before_replacing=keep_previous)


def load(folder: Path, run: str, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest whole checkpoint of the run named `run`; None where there is none. `say` hears of each bad one."""
    for name in (NAME, PREVIOUS):
        if (folder / name).exists():
            try:
                return read(folder / name, run)
            except CheckpointError as error:
                say(f"checkpoint not used: {error}; kept as {BAD}")
                (folder / name).replace(folder / BAD)  # lest it take the place of the good one before
    return None


def read(path: Path, run: str) -> dict[str, Any]:
    """The state in one file. Raises CheckpointError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    digest, content = raw[len(MAGIC) : len(MAGIC) + 32], raw[len(MAGIC) + 32 :]
    if not raw.startswith(MAGIC):
        raise CheckpointError(f"{path}: is no checkpoint of roadmap")
    if hashlib.sha256(content).digest() != digest:
        raise CheckpointError(f"{path}: is damaged (its checksum differs)")
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        owner, state = found["run"], found["state"]
    except Exception as error:  # torch raises many kinds for what it refuses to read
        raise CheckpointError(f"{path}: holds more than tensors and plain values; not read") from error
    if owner != run:
        raise CheckpointError(f"{path}: is of another run ({owner})")
    return dict(state)


def remove(folder: Path) -> None:
    for name in (BAD, PREVIOUS, NAME):
        (folder / name).unlink(missing_ok=True)
