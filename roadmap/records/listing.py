"""List of the runs of a folder of experiments, with the current status of each, read from their files.

Nothing is written. A damaged file does not end the listing: its run is `damaged`, or a note names the file. Imports
neither torch nor Hydra.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from roadmap.config.schema import SpecError
from roadmap.records.history import PROGRESS_NAME, Progress, read_history
from roadmap.records.manifest import MANIFEST_NAME, Manifest, read_manifest
from roadmap.records.record import COMPLETED, DIVERGED, FAILED, FINISHED, RUNS_FOLDER, InvalidRecordError, load_record
from roadmap.runtime import lock

RUNNING, WAITING, INTERRUPTED, DAMAGED = "running", "waiting", "interrupted", "damaged"
STATUSES = (RUNNING, WAITING, INTERRUPTED, FAILED, DIVERGED, COMPLETED, DAMAGED)
RUN_NAME = re.compile(r"(?P<step>.+)-(?P<hash>[0-9a-f]{12})-seed(?P<seed>\d{1,18})")  # name of a run's folder
# A run on another machine counts as running for this time after the last change of its progress.json, because not every
# network file system shows the locks of other machines.
FRESH_SECONDS = 60.0


@dataclass(frozen=True)
class RunState:
    """A run of a listing. If `folder` does not exist, the run is waiting."""

    folder: Path
    status: str  # one of STATUSES
    step: str  # name of the network
    seed: int
    setting: tuple[str, ...] = ()  # the overrides by which its study distinguishes it, as `budget.epochs=3`
    studies: tuple[str, ...] = ()  # those whose study.json names the run
    record: dict[str, Any] | None = None
    progress: Progress | None = None
    history: list[dict[str, str]] = field(default_factory=list)  # lines of history.csv, only for a run without result
    changed: float | None = None  # time of the last change of a file, seconds since 1970
    problem: str | None = None  # why the record cannot be read, or why the run failed or diverged

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.name

    @property
    def top1(self) -> float | None:
        """Top-1 accuracy in percent: of the record or, for a run without result, of the last evaluation."""
        if self.record is not None and self.status in FINISHED:
            return self.record.get("top1")
        if self.progress is not None and self.progress.top1 is not None:
            return self.progress.top1
        return next(
            (number for row in reversed(self.history) if (number := _number(row["test_top1"])) is not None), None
        )

    @property
    def fraction(self) -> float:
        """Part of the training that is done, 0 to 1."""
        if self.status == COMPLETED:
            return 1.0
        progress = self.progress
        if progress is None:
            return 0.0
        done = (progress.epoch - 1) * progress.iterations_per_epoch + progress.iteration
        return min(1.0, max(0.0, done / (progress.epochs * progress.iterations_per_epoch)))


@dataclass(frozen=True)
class Listing:
    """The requested runs, and one line for each study.json that cannot be read."""

    runs: list[RunState]
    notes: list[str]


class RunFolder:
    """Reader of the folder of experiments `out`, or of one study in it. Each `read` returns the current state."""

    def __init__(self, out: Path, study: str | None = None) -> None:
        """Without `study`, read the runs of all studies and those that no study names."""
        self.out, self.study = out, study
        self.cache: dict[Path, tuple[tuple[int, int, int], dict[str, Any] | str]] = {}  # file's identity -> content

    @property
    def runs_folder(self) -> Path:
        """The folder with the runs of all studies."""
        return self.out / RUNS_FOLDER

    def read(self) -> Listing:
        """Return the runs of a study in the order of training; without a study, those changed last come first."""
        manifests, notes = read_manifests(self.out)
        names: Iterable[str]
        if self.study is None:
            listed = {name: None for manifest in manifests.values() for name in manifest.runs}
            names = dict.fromkeys([*self._existing(), *listed])
        elif self.study in manifests:
            names = manifests[self.study].runs
        else:  # the list cannot be read: the runs whose record names the study
            names = [name for name in self._existing() if self._is_record_of_study(name)]
        runs = [self._read_run(name, manifests) for name in names if RUN_NAME.fullmatch(name)]
        if self.study is None:
            runs.sort(key=lambda run: -(run.changed if run.changed is not None else math.inf))
        return Listing(runs, notes)

    def _existing(self) -> list[str]:
        """Return the names of the folders of runs. Links are not followed: a link is not a run."""
        try:
            found = [path for path in self.runs_folder.iterdir() if path.is_dir() and not path.is_symlink()]
        except FileNotFoundError:
            return []
        return sorted(path.name for path in found if RUN_NAME.fullmatch(path.name))

    def _is_record_of_study(self, name: str) -> bool:
        record = self._record(self.runs_folder / name)
        return isinstance(record, dict) and record["study"] == self.study

    def _record(self, folder: Path) -> dict[str, Any] | str | None:
        """Return the run's record, None without one, or a text that says why it cannot be read."""
        path = folder / "record.json"
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"record.json: {error.strerror}"
        identity = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self.cache.get(path, (None,))[0] == identity:
            return self.cache[path][1]
        content: dict[str, Any] | str | None
        try:
            content = load_record(folder)
        except InvalidRecordError as error:
            content = f"record.json {error}"
        if content is not None:
            self.cache[path] = (identity, content)
        return content

    def _read_run(self, name: str, manifests: dict[str, Manifest]) -> RunState:
        folder = self.runs_folder / name
        match = RUN_NAME.fullmatch(name)
        assert match is not None
        record = self._record(folder)
        damage = record if isinstance(record, str) else None
        record = record if isinstance(record, dict) else None
        finished = record is not None and record["status"] in FINISHED
        progress = None if finished else read_progress(folder)
        if record is not None and finished:
            status = record["status"]
        elif is_running(folder, progress):
            status = RUNNING
        elif damage is not None:
            status = DAMAGED
        elif record is not None:
            status = record["status"]
        else:
            status = INTERRUPTED if _was_started(folder) else WAITING
        studies = tuple(study for study, manifest in manifests.items() if name in manifest.runs)
        settings = [manifests[study].runs[name] for study in ([self.study] if self.study in studies else studies)]
        return RunState(
            folder,
            status,
            step=record["name"] if record is not None else match["step"],
            seed=int(match["seed"]),
            setting=tuple(next((setting for setting in settings if setting), [])),
            studies=studies,
            record=record,
            progress=progress,
            history=[] if finished or status == WAITING else read_history(folder),
            changed=last_change(folder),
            problem=damage or (record["error"] if record is not None and status in (FAILED, DIVERGED) else None),
        )


def read_manifests(out: Path) -> tuple[dict[str, Manifest], list[str]]:
    """Return the lists of runs of all studies in `out` by name, and a note for each that cannot be read."""
    manifests: dict[str, Manifest] = {}
    notes: list[str] = []
    for path in sorted(out.glob(f"*/{MANIFEST_NAME}")):
        try:
            manifest = read_manifest(path.parent)
        except SpecError as error:
            notes.append(str(error))
            continue
        if manifest is not None:
            manifests[path.parent.name] = manifest
    return manifests, notes


def find_study(out: Path, study: str | None) -> RunFolder:
    """Return the reader of `study`, a name in `out` or a folder; for None, of all runs of `out`.

    Raises SpecError if there is no such folder or study, with the names of those that exist.
    """
    if study is not None:
        for folder in (out / study, Path(study)):
            if _has_manifest(folder):
                named = Path(os.path.realpath(folder)) if folder.name in ("", "..") else folder
                return RunFolder(named.parent, named.name)
        if Path(study).name == RUNS_FOLDER and _is_folder(Path(study)):
            return RunFolder(Path(study).parent)
    if not _is_folder(out):
        raise SpecError(f"--out={out}: no such folder; give the folder of your experiments")
    if study is None or (study == RUNS_FOLDER and _is_folder(out / study)):
        return RunFolder(out)
    names = sorted(path.parent.name for path in out.glob(f"*/{MANIFEST_NAME}"))
    raise SpecError(f"{study}: no such study in {out}; existing studies: {', '.join(names) or 'none'}")


def _has_manifest(folder: Path) -> bool:
    try:
        return (folder / MANIFEST_NAME).exists()
    except (OSError, ValueError):  # a name that is too long or contains a null character
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_running(folder: Path, progress: Progress | None) -> bool:
    """Return whether a process trains the run now: it holds the lock or, on another machine, changed progress.json."""
    if lock.is_held(folder):
        return True
    if progress is None or progress.host == platform.node():
        return False
    return abs(time.time() - progress.updated) < FRESH_SECONDS


def _was_started(folder: Path) -> bool:
    """Return whether the folder has a file besides the lock."""
    try:
        return any(path.name != lock.LOCK_NAME for path in folder.iterdir())
    except OSError:
        return False


def read_progress(folder: Path) -> Progress | None:
    """Return the content of the run's progress.json; None if there is none or if it is damaged."""
    try:
        content = json.loads((folder / PROGRESS_NAME).read_text(encoding="utf-8"))
        known: dict[str, Any] = {field.name: content[field.name] for field in fields(Progress) if field.name in content}
        known.setdefault("host", "")
        progress = Progress(**known)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    counts = (progress.epoch, progress.epochs, progress.iteration, progress.iterations_per_epoch)
    optional = (progress.train_loss, progress.images_per_second, progress.top1, progress.seconds_left)
    numbers = [progress.updated, *(number for number in optional if number is not None)]
    if not all(isinstance(count, int) and 0 <= count < 2**53 for count in counts):
        return None
    if not all(isinstance(number, int | float) and abs(number) < 2**63 for number in numbers):
        return None
    return progress if progress.epochs and progress.iterations_per_epoch else None


def last_change(folder: Path) -> float | None:
    """Return the time of the last change of one of the folder's files, in seconds since 1970; None without files."""
    try:
        return max((path.lstat().st_mtime for path in folder.iterdir() if path.name != lock.LOCK_NAME), default=None)
    except OSError:
        return None


def size_on_disk(folder: Path) -> int:
    """Return the bytes of all files in the folder. Links are not followed, and a file with two names counts once."""
    sizes = {}
    for path in folder.rglob("*"):
        try:
            stat = path.lstat()
        except OSError:  # deleted in the meantime
            continue
        if not path.is_dir() or path.is_symlink():
            sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
