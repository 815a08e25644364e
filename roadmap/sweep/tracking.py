"""The process that passes the runs of a command to experiment trackers (`logger=...`)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from roadmap.records.record import config_of, run_folder, study_folder
from roadmap.runtime.logs import logger
from roadmap.runtime.world import is_rank_zero
from roadmap.sweep.planned_run import PlannedRun
from roadmap.trackers.follow import request_of
from roadmap.trackers.points import Run

FOLDER_NAME, LOG_NAME = "trackers", "trackers.log"  # in `out`
LEAST_WAIT_SECONDS = 30.0  # for the trackers, after the last run
SHARE_OF_TIME = 0.01  # or this share of the command's time, if it is more


@contextmanager
def tracked(runs: Sequence[PlannedRun]) -> Iterator[None]:
    """Pass `runs` to the trackers that they name, while they train inside the context.

    At its end, wait until the trackers have everything: at most LEAST_WAIT_SECONDS, or SHARE_OF_TIME of the time in the
    context. Errors of trackers are logged and never raised.
    """
    if not runs or not runs[0].spec.logger or not is_rank_zero():
        yield
        return
    spec = runs[0].spec
    folder = Path(spec.out) / FOLDER_NAME
    started = time.monotonic()
    process = _start(spec.logger, folder, [_run_of(run) for run in runs])
    try:
        yield
    finally:
        if process is not None:
            limit = max(LEAST_WAIT_SECONDS, SHARE_OF_TIME * (time.monotonic() - started))
            for name, reason in _finish(process, spec.logger, limit).items():
                rest = f"roadmap log_records {study_folder(spec)} logger={name}"
                logger.info(f"logger={name}: {reason}; write what is missing with: {rest}")


def _start(trackers: Sequence[str], folder: Path, runs: Sequence[Run]) -> subprocess.Popen[str] | None:
    command = [sys.executable, "-m", "roadmap.trackers.follow"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG_NAME).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdin is not None
        process.stdin.write(request_of(trackers, folder, runs))
        process.stdin.flush()
    except OSError as error:
        logger.info(f"logger={','.join(trackers)}: could not be started ({error.strerror or error})")
        return None
    return process


def _run_of(run: PlannedRun) -> Run:
    spec, folder = run.spec, run_folder(run.spec)
    setting = " ".join(run.setting)
    return Run(
        str(folder), folder.name, spec.study, spec.name, spec.label, spec.seed, setting, config_of(spec), run.command
    )


def _finish(process: subprocess.Popen[str], trackers: Sequence[str], seconds: float) -> dict[str, str]:
    """Close the process's input, wait for it, and return the reason for each tracker that does not have all points."""
    assert process.stdin is not None and process.stdout is not None
    with suppress(OSError):
        process.stdin.close()
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(process.stdout or []), daemon=True)
    reader.start()
    reader.join(seconds)
    is_late = reader.is_alive()
    if is_late:
        process.kill()
    process.wait()
    reader.join()
    process.stdout.close()
    if is_late:
        return dict.fromkeys(trackers, f"not finished after {seconds:.0f} s")
    if process.returncode != 0:
        return dict.fromkeys(trackers, f"its process exited with code {process.returncode}")
    return dict(line.rstrip("\n").split("\t", 1) for line in output)
