"""One run in a process of its own."""

from __future__ import annotations

import faulthandler
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from roadmap.config.schema import SpecError
from roadmap.records.record import (
    COMPLETED,
    FAILED,
    FINISHED,
    finished_record,
    new_record,
    read_record,
    run_folder,
    write_record,
)
from roadmap.runtime import lock, progress
from roadmap.runtime.progress import LEADS, say
from roadmap.runtime.signals import EXIT_STOPPED, Stopped, raise_on_signal
from roadmap.sweep.planned_run import PlannedRun

EXIT_LOCKED = 76  # exit code of a process that found its run in another one's hands
# Asks to stop, which a cluster sends to all processes of a job at once; SIGUSR2 is submitit's.
GROUP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class RunProcess:
    """One run in a process of its own, which writes to the log.txt of the run's folder."""

    def __init__(
        self, job: PlannedRun, title: str, threads: int | None = None, gpu: int | None = None, number: int = 0
    ) -> None:
        """`number` counts the processes that a study started: those of torchrun that belong together agree in it."""
        self.job, self.title, self.gpu, self.number = job, title, gpu, number
        self.folder = run_folder(job.spec)
        self.earlier = self._written()
        self.process = process_context().Process(
            target=_child, args=(job, title, threads, _visible(gpu), number), name=self.folder.name
        )
        self.process.start()

    @property
    def sentinel(self) -> int:
        return int(self.process.sentinel)

    def finish(self) -> dict[str, Any] | None:
        """Wait for the run; its record, or one that says how its process died. None: another process has this run."""
        try:
            self.process.join()
        except BaseException:
            self.stop()
            raise
        code = self.process.exitcode or 0
        if code == EXIT_LOCKED:
            return None
        if not LEADS:
            return {"status": COMPLETED if code == 0 else FAILED}
        content = read_record(self.folder)
        if content is not None and self._written() != self.earlier:
            return content
        if content is not None and content["status"] in FINISHED and code in (0, 1):
            return content  # another process finished it meanwhile
        how = f"exited with code {code}; its log.txt may say why"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += "; the system does that when memory runs out" if -code == signal.SIGKILL else ""
        if code == EXIT_STOPPED:
            how = "was stopped by a signal"
        return record_failure(
            self.job, f"the process of the run {how}; the same command goes on, from its checkpoint if any"
        )

    @property
    def was_stopped(self) -> bool:
        """Whether it ended because of a signal that asks to stop."""
        return self.process.exitcode in (EXIT_STOPPED, -signal.SIGTERM)

    def ask_to_stop(self) -> None:
        self.process.terminate()

    def stop(self) -> None:
        """Let the run write a checkpoint and end."""
        self.ask_to_stop()
        self.process.join()

    def _written(self) -> int | None:
        path = self.folder / "record.json"
        return path.stat().st_mtime_ns if path.exists() else None


def _visible(gpu: int | None) -> str | None:
    """CUDA_VISIBLE_DEVICES for a run on the `gpu`-th of those that this process sees; None: all, and nothing to say."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpu is None:
        return visible
    return visible.split(",")[gpu] if visible else str(gpu)


def process_context() -> Any:
    """A server process that has imported torch once and forks a fresh process for every run; where forking is not safe
    (macOS) or not there (Windows), a new interpreter for every run."""
    method = "forkserver" if sys.platform == "linux" else "spawn"
    multiprocessing.set_start_method(method, force=True)  # joblib's workers name one that only they know
    found: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        found.set_forkserver_preload(["roadmap.training.run"])
        _start_server()
    return found


def _start_server() -> None:
    """Deaf to what asks all processes of a job to stop: its runs need it until they have written their checkpoints.
    What it forks is deaf too until it calls `listen`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        multiprocessing.resource_tracker.ensure_running()  # which lets SIGTERM through again
        signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_signals() -> None:
    """To be called first in each process of `context`."""
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # submitit hears it in the process above, and ends that
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)


def _child(job: PlannedRun, title: str, threads: int | None, gpus: str | None, number: int) -> None:
    try:
        raise_on_signal()  # a signal before the training, or after it; now they may come
        unblock_signals()
        _log_to(job)
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        os.environ["ROADMAP_GROUP"] = str(number)
        if gpus is not None:  # not what the server was started with: Ray gives each of its tasks others
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        import torch

        from roadmap.training.run import run

        if threads is not None:
            torch.set_num_threads(threads)
        content = run(job.spec, job.command, title)
        sys.exit(0 if content["status"] == COMPLETED else 1)
    except SpecError as error:  # known only now, as a batch larger than the data: the sweep goes on without it
        record_failure(job, str(error))
        sys.exit(1)
    except lock.LockedError:
        sys.exit(EXIT_LOCKED)
    except Stopped as stopped:
        say(f"{title}: {stopped}")
        sys.exit(EXIT_STOPPED)


def _log_to(job: PlannedRun) -> None:
    """Send all that this process prints, a crash of native code included, to the run's log; `say` speaks to both."""
    folder = run_folder(job.spec)
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    progress.console = os.fdopen(os.dup(1), "w")
    if LEADS:
        with (folder / "log.txt").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            with suppress(OSError):
                print(time.strftime("\n%Y-%m-%d %H:%M:%S"), job.command, flush=True)
    faulthandler.enable()


def _stop_with_parent() -> None:
    """A run does not outlive its study: if that is killed, it writes a checkpoint and ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def record_failure(job: PlannedRun, reason: str) -> dict[str, Any]:
    """Write and return the record of a run that could not write its own, unless another process has it in hand."""
    content = new_record(job.spec, job.command) | {"error": reason, "top1": None, "curve": []}
    folder = run_folder(job.spec)
    if not LEADS:
        return content
    for _ in range(10):
        try:
            with lock.hold(folder):
                found = None if job.spec.force else finished_record(job.spec)
                if found is None:
                    write_record(folder, content)
            break
        except lock.LockedError:  # another study trains this run, or only looked whether somebody does
            time.sleep(0.1)
        except OSError as error:  # a full disk must not end the other runs
            say(f"{job.title}: its record could not be written: {error}")
            break
    return content


def summarize_record(content: dict[str, Any]) -> str:
    """A record in a few words."""
    if content["status"] != COMPLETED:
        return f"{content['status']} ({content['error']})"
    rate = content["images_per_second"]
    skipped = sum(map(len, content["unreadable"].values()))
    left_out = f", {skipped} unreadable images left out" if skipped else ""
    return f"top-1 {content['top1']:.2f} %, {rate:,.0f} images/s, {content['wall_seconds']:.0f} s{left_out}"
