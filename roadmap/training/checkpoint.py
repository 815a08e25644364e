"""Checkpoints: the state of a run on disk, from which the same command resumes it.

A file consists of a magic line, the SHA-256 of the rest, and PyTorch's own format, which is read with
`weights_only=True`: it can contain tensors and plain values, but no code. The previous checkpoint is kept. A file that
is damaged or belongs to another run is renamed and reported, and the previous one is used.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from roadmap.records.record import CHECKPOINT_NAME
from roadmap.runtime.files import write_atomically

MAGIC = b"roadmap checkpoint 1\n"
NAME, PREVIOUS, BAD = CHECKPOINT_NAME, "checkpoint.previous.pt", "checkpoint.bad.pt"


class CheckpointError(Exception):
    """A file is not an intact checkpoint of this run; the message names the file in one line."""


def save(folder: Path, run: str, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) of the run named `run`; the last checkpoint becomes the previous one.

    At every moment one of the two files is intact, also if the process is killed. Raises OSError if the file cannot be
    written; then both files stay as they are.
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
                previous.hardlink_to(path)  # a link instead of a move: `path` exists at every moment
            except OSError:  # a file system without links
                path.replace(previous)

    write_atomically(path, MAGIC + hashlib.sha256(content).digest() + content, before_replacing=keep_previous)


def load(folder: Path, run: str, report: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the state in the newest intact checkpoint of the run named `run`, or None.

    Calls `report` with a message for each checkpoint that cannot be used, and renames that file to `BAD`, so that the
    next `save` does not make it the previous checkpoint.
    """
    for name in (NAME, PREVIOUS):
        if (folder / name).exists():
            try:
                return read(folder / name, run)
            except CheckpointError as error:
                report(f"checkpoint not used: {error}; kept as {BAD}")
                (folder / name).replace(folder / BAD)
    return None


def read(path: Path, run: str) -> dict[str, Any]:
    """Return the state in one file. Raises CheckpointError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    digest, content = raw[len(MAGIC) : len(MAGIC) + 32], raw[len(MAGIC) + 32 :]
    if not raw.startswith(MAGIC):
        raise CheckpointError(f"{path}: not a checkpoint of roadmap")
    if hashlib.sha256(content).digest() != digest:
        raise CheckpointError(f"{path}: damaged, its checksum differs")
    try:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        saved_run, state = saved["run"], saved["state"]
    except Exception as error:  # torch raises many types for what it refuses to read
        raise CheckpointError(f"{path}: contains more than tensors and plain values; not loaded") from error
    if saved_run != run:
        raise CheckpointError(f"{path}: belongs to another run ({saved_run})")
    return dict(state)


def remove(folder: Path) -> None:
    """Delete all checkpoints in `folder`."""
    for name in (BAD, PREVIOUS, NAME):
        (folder / name).unlink(missing_ok=True)
