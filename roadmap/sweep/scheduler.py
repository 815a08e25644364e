"""Local scheduler: train the runs of a sweep on this machine, each in a separate process, several at a time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from roadmap.config.choices import Failures
from roadmap.records.manifest import command_line
from roadmap.records.record import CHECKPOINT_NAME, COMPLETED, finished_record, run_folder
from roadmap.runtime import lock
from roadmap.runtime.logs import logger
from roadmap.runtime.progress import format_duration
from roadmap.runtime.signals import Stopped, deferred_signals
from roadmap.runtime.world import is_distributed
from roadmap.sweep.gpu_sharing import place_runs
from roadmap.sweep.placement import Placement
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import RunProcess, summarize_record, with_log

POLL_SECONDS = 0.5


def run_locally(runs: Sequence[PlannedRun]) -> dict[Path, str]:
    """Train all `runs` on this machine. With failures=stop, return the state of each unfinished run by folder.

    A run that another study has locked is postponed; if that study finishes it, it is skipped. Raises Stopped after a
    signal; then each started run has written a checkpoint.
    """
    placement = place_runs(runs)
    logger.info(str(placement))
    started, num_done = time.monotonic(), 0
    waiting = list(enumerate(runs, start=1))
    running: dict[RunProcess, int] = {}
    process_numbers = itertools.count(1)
    failed = False  # with failures=stop
    with deferred_signals() as stop:
        try:
            while (waiting or running) and not stop and not failed:
                while len(running) < placement.num_parallel and (entry := _take_unlocked(waiting)) is not None:
                    number, run = entry
                    title = f"[{number}/{len(runs)}] {run.title}"
                    if not is_distributed() and not run.spec.force and (record := finished_record(run.spec)):
                        num_done += 1
                        logger.info(f"{title}: finished by another study, {summarize_record(record)}")
                        continue
                    process = start_process(run, title, placement, list(running), next(process_numbers))
                    running[process] = number
                    logger.info(title)
                ended = wait([process.sentinel for process in running], timeout=POLL_SECONDS)
                for process in [process for process in running if process.sentinel in ended and not stop]:
                    number = running.pop(process)
                    record = _agree_on_result(process, process.finish())
                    if record is None:  # another study locked it after our check
                        waiting.append((number, process.run))
                        continue
                    num_done += 1
                    _log_result(process, record, time.monotonic() - started, num_done, len(runs))
                    if record["status"] != COMPLETED and process.run.spec.failures is Failures.stop:
                        logger.info("failures=stop: started runs write a checkpoint, no other run starts")
                        failed = True
                        break
        finally:
            stop_processes(list(running))
    if stop:
        raise Stopped(f"stopped by {stop.reason}: {num_done} of {len(runs)} runs done; {how_to_resume()}")
    stopped = {process.folder: _how_it_stopped(process) for process in running if not process.has_new_record}
    return {run_folder(run.spec): "not started" for _, run in waiting} | stopped


def start_process(
    run: PlannedRun, title: str, placement: Placement, running: Sequence[RunProcess], number: int
) -> RunProcess:
    """Start the process of a run, on the GPU with the fewest of the `running` ones."""
    used = [process.gpu for process in running]
    gpu = min(range(placement.num_groups), key=used.count) if placement.num_groups else None
    return RunProcess(run, title, placement.num_threads, gpu, number, placement.resources, placement.num_ranks)


def stop_processes(running: Sequence[RunProcess]) -> None:
    """Let runs write a checkpoint and end, and wait for them."""
    for process in running:
        process.terminate()
    for process in running:
        process.process.join()


def _how_it_stopped(process: RunProcess) -> str:
    has_checkpoint = (process.folder / CHECKPOINT_NAME).exists()
    return "stopped, with a checkpoint" if has_checkpoint else "stopped before its first checkpoint"


def how_to_resume() -> str:
    """Return how to continue after a signal. Under torchrun the command is known only in part."""
    hint = "the same command resumes"
    return hint if is_distributed() else f"{hint}: {command_line()}"


def _agree_on_result(process: RunProcess, record: dict[str, Any] | None) -> dict[str, Any] | None:
    """Under torchrun, take the status that rank zero saw, so that all processes continue alike."""
    if not is_distributed():
        return record
    from roadmap.runtime.distributed import broadcast_before_group

    status = broadcast_before_group(f"ended {process.number}", record["status"] if record is not None else "")
    return (record or {}) | {"status": status} if status else None


def _take_unlocked(waiting: list[tuple[int, PlannedRun]]) -> tuple[int, PlannedRun] | None:
    """Remove and return the first run that no other study has locked; None where all are locked now."""
    for entry in waiting:
        if is_distributed() or not lock.is_held(run_folder(entry[1].spec)):
            waiting.remove(entry)
            return entry
    return None


def _log_result(process: RunProcess, record: dict[str, Any], seconds: float, num_done: int, num_runs: int) -> None:
    left = format_duration(seconds / num_done * (num_runs - num_done))
    result = summarize_record(record) if "error" in record else record["status"]
    line = f"{process.title}: {with_log(result, record, process.folder)}"
    logger.info(f"{line}; {num_done} done in {format_duration(seconds)}, about {left} left")
