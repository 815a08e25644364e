"""Invariants of every command, for any input: `Workplace.check` runs one command and asserts them.

- No traceback.
- The exit code is 0, 1, 2 or 75.
- After exit code 2 and in a dry run, nothing was written. After exit code 2, one line gives the reason.
- No finished record, and no file beside it, is lost or changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shlex
import shutil
import signal
import stat
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from roadmap.runtime.exit_codes import EXIT_STOPPED
from roadmap.runtime.signals import Stopped
from tests.helpers import Result, call_main

EXIT_CODES = (0, 1, 2, 75)
COLLECT = "ROADMAP_FUZZ_COLLECT"  # environment variable: a file for all violations. With it, tests do not stop at one
KEPT_FILES = ("record.json", "correct.npy", "model.pt", "model_ema.pt")

Snapshot = dict[str, str]


class Violation(AssertionError):
    """A command broke an invariant."""


def snapshot(folder: Path) -> Snapshot:
    """Return path -> kind and hash of everything below `folder`; lock files, which have no content, are left out."""
    found: Snapshot = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                content = f"link to {path.readlink()}"
            elif stat.S_ISREG(mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                content = "folder" if stat.S_ISDIR(mode) else "special"
            if name != ".lock":
                found[str(path.relative_to(folder))] = content
    return found


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the paths that were added (+), removed (-) or changed (~)."""
    added = [f"+{path}" for path in after if path not in before]
    removed = [f"-{path}" for path in before if path not in after]
    return added + removed + [f"~{path}" for path in after if before.get(path, after[path]) != after[path]]


def finished_files(content: Snapshot, folder: Path) -> Snapshot:
    """Return the entries of a snapshot that are files of finished runs. No command may change them."""
    finished = set()
    for path in content:
        if path.endswith("/record.json") and "/runs/" in path:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                text = (folder / path).read_text(encoding="utf-8")
                if '"status": "completed"' in text or '"status": "diverged"' in text:
                    finished.add(path.rpartition("/")[0])
    kept = [f"{run}/{name}" for run in finished for name in KEPT_FILES]
    return {path: content[path] for path in kept if path in content}


def find_violations(
    result: Result, before: Snapshot, after: Snapshot, finished: Snapshot, dry: bool, quiet: bool = False
) -> list[str]:
    """Return a line for each broken invariant.

    `finished` are the files that must not change. With `dry`, nothing may change. With `quiet`, standard error cannot
    be read.
    """
    found = []
    if "Traceback (most recent call last)" in result.out + result.err:
        lines = [line for line in (result.out + result.err).splitlines() if line.strip()]
        found.append(f"traceback: {lines[-1][:300]}")
    if result.code not in EXIT_CODES:
        found.append(f"exit code {result.code}")
    if result.code == 2 and not quiet:
        is_usage = result.err.startswith("usage: ")
        if not is_usage and re.fullmatch(r"error: \S.*\n", result.err) is None:
            found.append(f"exit code 2 without a line that says why: {result.err[:300]!r}")
        if is_usage and ": error: " not in result.err:
            found.append(f"exit code 2 with usage, but without an error: {result.err[:300]!r}")
    if result.code == 1 and not (result.out + result.err).strip() and not quiet:  # `doctor` prints it as a table
        found.append("exit code 1 without a reason")
    difference = changes(before, after)
    if difference and (result.code == 2 or dry):
        found.append(f"exit code {result.code}{', dry run' * dry}, but written: {difference[:6]}")
    lost = [path for path, content in finished.items() if after.get(path) != content]
    if lost:
        found.append(f"finished runs lost or changed: {lost[:6]}")
    return found


class Workplace:
    """A working folder with a prepared content, to which every case returns."""

    def __init__(self, root: Path) -> None:
        self.root, self.pristine = root / "case", root / "pristine"
        self.folder = self.root / "work"
        (self.pristine / "work").mkdir(parents=True)
        self.clean: Snapshot = {}

    def start(self) -> None:
        """Copy the prepared content to the working folder."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.pristine, self.root, symlinks=True)
        self.clean = snapshot(self.root)

    def reset(self) -> None:
        """Undo what a case has changed."""
        if snapshot(self.root) != self.clean:
            self.start()

    def check(
        self, *arguments: str, dry: bool = False, may_change: bool = False, seconds: float = 60, note: str = ""
    ) -> Result | None:
        """Run a command in the working folder, in this process, and assert the invariants.

        `dry`: the command must not write. `may_change`: the command may change finished runs (force=true, or their
        removal). After `seconds` it gets SIGTERM. `note` describes the case in the message of a violation.
        """
        before = snapshot(self.root)
        finished = {} if may_change else finished_files(before, self.root)
        broken: list[str] = []
        with in_folder(self.folder), stopped_after(seconds):
            result: Result | None = None
            try:
                result = call_main(*arguments)
            except Stopped as stopped:  # the signal came after the command line had handled its errors
                result = Result(EXIT_STOPPED, "", str(stopped))
            except Exception as error:
                broken = [f"traceback: {describe(error)}"]
        if result is not None:
            broken = find_violations(result, before, snapshot(self.root), finished, dry)
        self.reset()
        if broken:
            report(arguments, [*broken, *[note] * bool(note)])
        return result


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Work in `folder` with an empty standard input, and restore the process's folder and environment afterwards."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "provider=hydra.searchpath")  # Hydra's, for a folder that does not exist
        patch.setattr(sys, "stdin", io.StringIO())
        environment = dict(os.environ)
        try:
            yield
        finally:
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Send SIGTERM to this process after `seconds`, where the command line turns it into exit code 75."""
    ended = threading.Event()

    def stop() -> None:
        if ended.wait(seconds):
            return
        # During the imports the handler of the command line would end this process, which also runs the tests.
        while "raise_on_signal" not in handler_name() and "deferred_signals" not in handler_name():
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, lambda *_: None)  # for a signal when the command has just ended
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGTERM, previous)


def handler_name() -> str:
    """Return the qualified name of the handler of SIGTERM."""
    return getattr(signal.getsignal(signal.SIGTERM), "__qualname__", "")


def describe(error: Exception) -> str:
    """Return the error and the last line of our code in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = next((frame for frame in reversed(frames) if "roadmap" in Path(frame.filename).parts), frames[-1])
    return f"{type(error).__name__}: {str(error)[:300]} ({Path(ours.filename).name}:{ours.lineno})"


def report(command: Sequence[str], broken: Sequence[str]) -> None:
    """Raise Violation, or append it to the file of COLLECT."""
    text = "\n".join([shlex.join(["roadmap", *command]), *(f"    {line}" for line in broken)])
    if COLLECT not in os.environ:
        raise Violation(text)
    with Path(os.environ[COLLECT]).open("a", encoding="utf-8") as file:
        file.write(text + "\n")
