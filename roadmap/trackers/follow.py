"""Follow runs while they train, and pass their points and results to trackers, each in a thread of its own.

`python -m roadmap.trackers.follow` is the process that a command with `logger=...` starts: it reads a request from its
standard input, follows the runs until standard input is closed, and prints one line for each tracker that failed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from roadmap.config.names import one_line
from roadmap.records.history import HISTORY_NAME, ITERATIONS_NAME
from roadmap.records.record import read_record
from roadmap.runtime import lock
from roadmap.trackers.backends import BACKENDS, INTERRUPTED, RunWriter, Tracker
from roadmap.trackers.points import Run, read_points, read_results

POLL_SECONDS = 3.0
FILES = ("record.json", ITERATIONS_NAME, HISTORY_NAME)
Times = dict[str, int]  # name of a file -> time of its last change, in ns


def file_times(folder: Path) -> Times:
    """Return the times at which the files of a run were changed last; without those that do not exist."""
    times = {}
    for name in FILES:
        with suppress(OSError):
            times[name] = (folder / name).stat().st_mtime_ns
    return times


@dataclass
class _Followed:
    """A run in one tracker."""

    run: Run
    before: Times  # files of an earlier session, which the run has not touched yet
    lock_folder: Path
    writer: RunWriter | None = None
    num_sent: int = 0
    is_finished: bool = False
    is_blocked: bool = False  # the process of an earlier command, which was killed, is still writing the run
    resources: ExitStack = field(default_factory=ExitStack)

    def update(self, tracker: Tracker) -> None:
        """Pass on what is new; nothing while `is_blocked`."""
        folder = Path(self.run.folder)
        changed = {name for name, when in file_times(folder).items() if self.before.get(name) != when}
        if self.is_finished or not changed:
            return
        record = read_record(folder) if "record.json" in changed else None
        points = read_points(folder, record) if record is not None or ITERATIONS_NAME in changed else []
        if self.writer is None and (points or record is not None) and self._lock():
            self.writer = tracker.open(self.run)
        if self.writer is None:
            return
        # The last point may still get the values of its epoch, unless the run has ended.
        complete = points if record is not None else points[:-1]
        for point in complete[self.num_sent :]:
            self.writer.log(point)
            self.num_sent += 1
        if record is not None:
            self._finish(read_results(record), record["status"])

    def _lock(self) -> bool:
        try:
            self.resources.enter_context(lock.hold(self.lock_folder))
        except lock.LockedError:
            self.is_blocked = True
            return False
        self.resources.callback(lock.remove_empty, self.lock_folder)
        self.is_blocked = False
        return True

    def _finish(self, results: dict[str, float], status: str) -> None:
        assert self.writer is not None
        self.writer.finish(results, status)
        self.is_finished = True
        self.resources.close()

    def close(self) -> None:
        """End the tracker's run of a run that has no record."""
        if self.writer is not None and not self.is_finished:
            for point in read_points(Path(self.run.folder), None)[self.num_sent :]:
                self.writer.log(point)
            self._finish({}, INTERRUPTED)


@dataclass
class Follower:
    """One tracker in a thread: it follows `runs` until `ended` is set, and keeps the reason if it fails."""

    name: str
    folder: Path
    runs: Sequence[tuple[Run, Times]]
    ended: threading.Event = field(default_factory=threading.Event)
    error: str | None = None
    shows_traceback: bool = False  # on standard error, which is the log of `main`

    def start(self) -> threading.Thread:
        """Start the thread."""
        thread = threading.Thread(target=self._guarded, name=self.name, daemon=True)
        thread.start()
        return thread

    def _guarded(self) -> None:
        try:
            self.follow()
        except Exception as error:
            if self.shows_traceback:
                traceback.print_exc()
            self.error = one_line(f"{type(error).__name__}: {error}")[:300]

    def follow(self) -> None:
        """Follow the runs to their end. Raises whatever the tracker's library raises."""
        tracker = BACKENDS[self.name](self.folder)
        locks = self.folder / "locks"
        followed = [_Followed(run, before, locks / f"{self.name}-{run.name}") for run, before in self.runs]
        with ExitStack() as resources:
            for run in followed:
                resources.enter_context(run.resources)
            while True:
                is_last = self.ended.wait(POLL_SECONDS)
                for run in followed:
                    run.update(tracker)
                if is_last and not any(run.is_blocked for run in followed):
                    break
                if is_last:
                    time.sleep(POLL_SECONDS / 10)
            for run in followed:
                run.close()


def request_of(trackers: Sequence[str], folder: Path, runs: Sequence[Run]) -> str:
    """Return the request that `main` reads, in one line of JSON."""
    listed = [{"run": asdict(run), "before": file_times(Path(run.folder))} for run in runs]
    return json.dumps({"trackers": list(trackers), "folder": str(folder), "runs": listed}) + "\n"


def main() -> None:
    """Follow the runs of the request on standard input until it is closed; print a line for each failed tracker."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):  # meant for the runs; the command closes standard input
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(19)
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print goes to the log
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    runs = [(Run(**entry["run"]), entry["before"]) for entry in request["runs"]]
    followers = [Follower(name, Path(request["folder"]), runs, shows_traceback=True) for name in request["trackers"]]
    threads = [follower.start() for follower in followers]
    sys.stdin.read()  # until the command closes it, or ends
    for follower in followers:
        follower.ended.set()
    for thread in threads:
        thread.join()
    for follower in followers:
        if follower.error is not None:
            print(f"{follower.name}\tfailed ({follower.error})", file=answer, flush=True)
    answer.close()
    os._exit(0)  # a library may have threads that never end


if __name__ == "__main__":
    main()
