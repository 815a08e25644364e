"""Checkpoints: the state of a run on disk, from which the same command resumes it.

A file has PyTorch's own format and is read with `torch.load(path, weights_only=True)`: it can contain tensors and plain
values, but no code. Its SHA-256 is in a file beside it, in the format of `sha256sum`. The previous checkpoint is kept.
A file that is damaged or belongs to another run is renamed and reported, and the previous one is used.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from roadmap.config.names import one_line
from roadmap.records.record import CHECKPOINT_NAME
from roadmap.runtime.files import write_atomically

NAME, PREVIOUS, BAD = CHECKPOINT_NAME, "checkpoint.previous.pt", "checkpoint.bad.pt"
MAX_OVERHEAD = 0.01  # share of the time of a run that regular checkpoints may take


class CheckpointError(Exception):
    """A file is not an intact checkpoint of this run; the message names the file in one line."""


def checksum_path(path: Path) -> Path:
    """Return the file that contains the checksum of a checkpoint."""
    return path.with_name(f"{path.name}.sha256")


def save(folder: Path, run: str, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) of the run named `run`; the last checkpoint becomes the previous one.

    At every moment one of the two files is intact, also if the process is killed. Raises OSError if the file cannot be
    written; then the last checkpoint stays as it is.
    """
    path, digest = folder / NAME, hashlib.sha256()

    def write(file: BinaryIO) -> None:
        torch.save({"run": run, "state": state}, cast("BinaryIO", _HashedFile(file, digest)))

    def keep_previous() -> None:
        if path.exists():
            _link_or_copy(path, folder / PREVIOUS)
            _write_checksum(folder / PREVIOUS, _read_checksum(path))
        # If the process is killed from here on, the old file at `path` has the checksum of the previous checkpoint.
        _write_checksum(path, digest.hexdigest())

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write, before_replacing=keep_previous)


class _HashedFile:
    """A file opened for writing that adds what is written to a checksum."""

    def __init__(self, file: BinaryIO, digest: Any) -> None:
        self.file, self.digest = file, digest

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def _link_or_copy(source: Path, target: Path) -> None:
    """Let `target` have the content of `source`, which exists at every moment."""
    temporary = source.with_name(f".{source.name}.previous")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # nothing is renamed if both are the same file


def load(folder: Path, run: str, report: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the state in the newest intact checkpoint of the run named `run`, or None.

    Calls `report` with a message for each checkpoint that cannot be used, and renames that file to `BAD`, so that the
    next `save` does not make it the previous checkpoint.
    """
    for name in (NAME, PREVIOUS):
        if (folder / name).exists():
            try:
                state, checksum = _read(folder / name, run)
                # A process may have been killed between writing the checksum of a new file and renaming that file.
                if _read_checksum(folder / name) != checksum:
                    with suppress(OSError):  # a full disk; the next checkpoint does not need it
                        _write_checksum(folder / name, checksum)
                return state
            except CheckpointError as error:
                report(f"checkpoint not used: {error}; kept as {BAD}")
                (folder / name).replace(folder / BAD)
    return None


def read(path: Path, run: str) -> dict[str, Any]:
    """Return the state in one file. Raises CheckpointError."""
    return _read(path, run)[0]


def _read(path: Path, run: str) -> tuple[dict[str, Any], str]:
    """Return the state in one file and the checksum of the file. Raises CheckpointError."""
    checksums = {_read_checksum(path.with_name(name)) for name in (NAME, PREVIOUS)}
    try:
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            if checksum not in checksums:
                raise CheckpointError(f"{path}: damaged, its checksum differs")
            file.seek(0)
            saved = torch.load(file, map_location="cpu", weights_only=True)
            saved_run, state = saved["run"], saved["state"]
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except Exception as error:  # torch raises many types for what it refuses to read
        raise CheckpointError(f"{path}: contains more than tensors and plain values; not loaded") from error
    if saved_run != run:
        raise CheckpointError(f"{path}: belongs to another run ({saved_run})")
    return dict(state), checksum


def accumulate_of(folder: Path, num_processes: int) -> int:
    """Return the number of parts of a batch with which the newest checkpoint in `folder` was trained.

    1 if there is no checkpoint, or if another number of processes trained it. Does not read the tensors.
    """
    for name in (NAME, PREVIOUS):
        with suppress(Exception):  # `load` reports what is wrong with a file
            outcome = torch.load(folder / name, mmap=True, weights_only=True)["state"]["outcome"]
            return int(outcome["accumulate"]) if outcome["processes"] == num_processes else 1
    return 1


def _write_checksum(path: Path, checksum: str) -> None:
    """Write the checksum of a checkpoint beside it, in the format of `sha256sum`. Raises OSError."""
    write_atomically(checksum_path(path), f"{checksum}  {path.name}\n".encode())


def _read_checksum(path: Path) -> str:
    """Return the checksum that was written beside a checkpoint; empty if there is none."""
    with suppress(OSError, UnicodeDecodeError):
        return checksum_path(path).read_text(encoding="ascii")[:64]
    return ""


def remove(folder: Path) -> None:
    """Delete all checkpoints in `folder`."""
    for name in (BAD, PREVIOUS, NAME):
        checksum_path(folder / name).unlink(missing_ok=True)
        (folder / name).unlink(missing_ok=True)


class Writer:
    """Writes the checkpoints of one run in a thread, one at a time, while the training continues.

    The training waits only for a copy of the state in the memory of the processor. Regular checkpoints are so far apart
    that they take at most MAX_OVERHEAD of the time: the interval grows with the time that the last one took.
    """

    def __init__(
        self, folder: Path, run: str, interval: float, shares_processor: bool, report: Callable[[str], None]
    ) -> None:
        """Write to `folder` at least every `interval` seconds. `shares_processor` tells whether the training computes
        on the processor, so that the writing slows it down; `report` is called with the reason of a failure."""
        self.folder, self.run, self.interval, self.report = folder, run, interval, report
        self.shares_processor = shares_processor
        self.saved_at = time.monotonic()
        self.cost = 0.0  # seconds that the last checkpoint took from the training
        self._thread: threading.Thread | None = None
        self._failure: str | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next regular checkpoint."""
        return time.monotonic() - self.saved_at >= max(self.interval, self.cost / MAX_OVERHEAD)

    def save(self, state: dict[str, Any], position: str) -> None:
        """Copy `state` and start to write it. `position` names the checkpoint in the message of a failure."""
        started = time.perf_counter()
        self.wait()
        copied = _to_cpu(state)
        self.cost = time.perf_counter() - started
        self._thread = threading.Thread(target=self._write, args=(copied, position), name="checkpoint")
        self._thread.start()
        self.saved_at = time.monotonic()

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk, and report if it could not be written."""
        if self._thread is not None:
            started = time.perf_counter()
            self._thread.join()
            self.cost += time.perf_counter() - started
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            self.report(failure)

    def _write(self, state: dict[str, Any], position: str) -> None:
        started = time.thread_time()
        try:
            save(self.folder, self.run, state)
        except OSError as error:
            self._failure = f"no checkpoint at {position}: {error.strerror}; previous checkpoint kept"
        except Exception as error:  # of torch.save
            self._failure = f"no checkpoint at {position}: {one_line(error)}; previous checkpoint kept"
        if self.shares_processor:
            self.cost += time.thread_time() - started


def _to_cpu(value: Any) -> Any:
    """Return a copy of a state in the memory of the processor."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    return [_to_cpu(item) for item in value] if isinstance(value, list) else value
