"""Runs in processes of their own, some at once: whatever happens in one ends neither the study nor the other runs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import Any

from roadmap.config.schema import Failures
from roadmap.records.record import (
    COMPLETED,
    finished_record,
    run_folder,
)
from roadmap.runtime import lock
from roadmap.runtime.progress import LEADS, TEAM, format_duration, say
from roadmap.runtime.signals import Stopped, deferred_signals
from roadmap.sweep.placement import choose_placement
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import RunProcess, summarize_record

POLL_SECONDS = 0.5


def run_locally(jobs: Sequence[PlannedRun]) -> None:
    """All runs on this machine, each in a process of its own, as many at once as serves.

    Where another study is at one of them, it comes later, or is found finished. Raises Stopped after a signal: then
    every run under way has written a checkpoint. Returns early after a failure with failures=stop.
    """
    where = choose_placement(jobs)
    say(str(where))
    started, waiting, done = time.time(), list(enumerate(jobs, start=1)), 0
    running: dict[RunProcess, int] = {}
    numbers = itertools.count(1)
    with deferred_signals() as stop:
        try:
            while (waiting or running) and not stop:
                while len(running) < where.at_once and (chosen := _next(waiting)) is not None:
                    number, job = chosen
                    title = f"[{number}/{len(jobs)}] {job.title}"
                    if not TEAM and not job.spec.force and (found := finished_record(job.spec)) is not None:
                        done += 1
                        say(f"{title}: another study finished it, {summarize_record(found)}")
                        continue
                    taken = [process.gpu for process in running]
                    gpu = min(range(where.gpus), key=taken.count) if where.gpus else None
                    running[RunProcess(job, title, where.threads, gpu, next(numbers))] = number
                    say(title)
                ended = wait([process.sentinel for process in running], timeout=POLL_SECONDS)
                for process in [process for process in running if process.sentinel in ended and not stop]:
                    number = running.pop(process)
                    content = _agree_on_end(process, process.finish())
                    if content is None:  # between our look and its own another study took it
                        waiting.append((number, process.job))
                        continue
                    done += 1
                    _report_progress(process.title, content, time.time() - started, done, len(jobs))
                    if content["status"] != COMPLETED and process.job.spec.failures is Failures.stop:
                        say("failures=stop: the runs under way write a checkpoint, the others do not start")
                        return
        finally:
            for process in running:
                process.ask_to_stop()
            for process in running:
                process.process.join()
    if stop:
        raise Stopped(f"stopped by {stop.reason}: {done} of {len(jobs)} runs done; the same command goes on from there")


def _agree_on_end(process: RunProcess, content: dict[str, Any] | None) -> dict[str, Any] | None:
    """Under torchrun the first process's word on a run is that of all, so that they stay in step."""
    if not TEAM:
        return content
    from roadmap.runtime.distributed import broadcast_before_group

    status = broadcast_before_group(f"ended {process.number}", content["status"] if content is not None else "")
    return (content or {}) | {"status": status} if status else None


def _next(waiting: list[tuple[int, PlannedRun]]) -> tuple[int, PlannedRun] | None:
    """Take the first run that no other study is at; None where there is none now."""
    for chosen in waiting:
        if TEAM or not lock.is_held(run_folder(chosen[1].spec)):
            waiting.remove(chosen)
            return chosen
    return None


def _report_progress(title: str, content: dict[str, Any], elapsed: float, done: int, total: int) -> None:
    if LEADS:
        left = format_duration(elapsed / done * (total - done))
        say(f"{title}: {summarize_record(content)}; {done} done in {format_duration(elapsed)}, about {left} left")
