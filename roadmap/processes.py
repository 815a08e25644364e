"""Runs in processes of their own, some at once: whatever happens in one ends neither the study nor the other runs."""

from __future__ import annotations

import faulthandler
import itertools
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from roadmap import lock, progress, record, road
from roadmap.progress import LEADS, TEAM, duration, say
from roadmap.spec import Device, Failures, RunSpec, SpecError
from roadmap.stop import STOPPED, Stopped, listening, raise_at_once

GPU_FILES = ("nvidia[0-9]*", "kfd", "dxg")  # in /dev, where a driver of NVIDIA, AMD, or Windows below WSL is loaded
BUSY = 76  # exit code of a process that found its run in another one's hands
POLL_SECONDS = 0.5
# Asks to stop, which a cluster sends to all processes of a job at once; SIGUSR2 is submitit's.
GROUP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class Job(NamedTuple):
    spec: RunSpec
    words: list[str]  # the overrides that make it
    setting: tuple[str, ...] = ()  # those that tell it from other runs of its sweep, besides its network and its seed

    @property
    def title(self) -> str:
        return " ".join([road.name_of(list(self.spec.transforms)), *self.setting, f"seed={self.spec.seed}"])

    @property
    def command(self) -> str:
        words = [word.replace("+study=named_", "study=") for word in self.words]  # see config.name_study
        return shlex.join(["python", "run_roadmap.py", *words])


class Placement(NamedTuple):
    at_once: int
    threads: int | None  # of each run on the CPU; None: as many as PyTorch takes
    gpus: int  # runs take turns on them

    def __str__(self) -> str:
        where = f", {self.threads} CPU threads each" if self.threads else ""
        where += f", on {self.gpus} GPUs in turn" if self.gpus > 1 else ""
        return f"{self.at_once} at once{where} (parallel=N for another number)"


def placement(jobs: Sequence[Job]) -> Placement:
    """How many runs at once, and where.

    Networks for small images gain more from processes than from threads: on two cores two processes of one thread
    train 1.2 to 1.9 times as many images/s as one of two (`python -m benchmarks timm`). A GPU takes one run. The
    number of threads does not depend on how many runs are left: what is resumed goes on with as many as before.
    """
    asked = jobs[0].spec.parallel
    if TEAM:  # torchrun's processes train each run together
        return Placement(1, None, 0)
    gpus = 0 if all(job.spec.device is Device.cpu for job in jobs) else _count_gpus()
    if gpus:
        return Placement(asked or gpus, None, gpus)
    cores = record.cores()
    small = all(job.spec.data.small_images and job.spec.device is not Device.mps for job in jobs)
    if asked is None and (not small or _has_mps()):
        return Placement(1, None, 0)
    at_once = asked or cores
    return Placement(at_once, max(1, cores // at_once), 0)


def _count_gpus() -> int:
    if sys.platform == "linux" and not any(next(Path("/dev").glob(name), None) for name in GPU_FILES):
        return 0  # known without importing torch
    import torch

    return torch.cuda.device_count()


def _has_mps() -> bool:
    if sys.platform != "darwin":
        return False
    import torch

    return torch.backends.mps.is_available()


class RunProcess:
    """One run in a process of its own, which writes to the log.txt of the run's folder."""

    def __init__(
        self, job: Job, title: str, threads: int | None = None, gpu: int | None = None, number: int = 0
    ) -> None:
        """`number` counts the processes that a study started: those of torchrun that belong together agree in it."""
        self.job, self.title, self.gpu, self.number = job, title, gpu, number
        self.folder = record.run_folder(job.spec)
        self.earlier = self._written()
        self.process = context().Process(
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
        if code == BUSY:
            return None
        if not LEADS:
            return {"status": record.COMPLETED if code == 0 else record.FAILED}
        content = record.read(self.folder)
        if content is not None and self._written() != self.earlier:
            return content
        if content is not None and content["status"] in record.FINISHED and code in (0, 1):
            return content  # another process finished it meanwhile
        how = f"exited with code {code}; its log.txt may say why"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += "; the system does that when memory runs out" if -code == signal.SIGKILL else ""
        if code == STOPPED:
            how = "was stopped by a signal"
        return record_failure(
            self.job, f"the process of the run {how}; the same command goes on, from its checkpoint if any"
        )

    @property
    def was_stopped(self) -> bool:
        """Whether it ended because of a signal that asks to stop."""
        return self.process.exitcode in (STOPPED, -signal.SIGTERM)

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


def run_here(jobs: Sequence[Job]) -> None:
    """All runs on this machine, each in a process of its own, as many at once as serves.

    Where another study is at one of them, it comes later, or is found finished. Raises Stopped after a signal: then
    every run under way has written a checkpoint. Returns early after a failure with failures=stop.
    """
    where = placement(jobs)
    say(str(where))
    started, waiting, done = time.time(), list(enumerate(jobs, start=1)), 0
    running: dict[RunProcess, int] = {}
    numbers = itertools.count(1)
    with listening() as stop:
        try:
            while (waiting or running) and not stop:
                while len(running) < where.at_once and (chosen := _next(waiting)) is not None:
                    number, job = chosen
                    title = f"[{number}/{len(jobs)}] {job.title}"
                    if not TEAM and not job.spec.force and (found := record.finished(job.spec)) is not None:
                        done += 1
                        say(f"{title}: another study finished it, {describe(found)}")
                        continue
                    taken = [process.gpu for process in running]
                    gpu = min(range(where.gpus), key=taken.count) if where.gpus else None
                    running[RunProcess(job, title, where.threads, gpu, next(numbers))] = number
                    say(title)
                ended = wait([process.sentinel for process in running], timeout=POLL_SECONDS)
                for process in [process for process in running if process.sentinel in ended and not stop]:
                    number = running.pop(process)
                    content = _agreed(process, process.finish())
                    if content is None:  # between our look and its own another study took it
                        waiting.append((number, process.job))
                        continue
                    done += 1
                    _tell(process.title, content, time.time() - started, done, len(jobs))
                    if content["status"] != record.COMPLETED and process.job.spec.failures is Failures.stop:
                        say("failures=stop: the runs under way write a checkpoint, the others do not start")
                        return
        finally:
            for process in running:
                process.ask_to_stop()
            for process in running:
                process.process.join()
    if stop:
        raise Stopped(f"stopped by {stop.reason}: {done} of {len(jobs)} runs done; the same command goes on from there")


def _agreed(process: RunProcess, content: dict[str, Any] | None) -> dict[str, Any] | None:
    """Under torchrun the first process's word on a run is that of all, so that they stay in step."""
    if not TEAM:
        return content
    from roadmap.distributed import agree

    status = agree(f"ended {process.number}", content["status"] if content is not None else "")
    return (content or {}) | {"status": status} if status else None


def _next(waiting: list[tuple[int, Job]]) -> tuple[int, Job] | None:
    """Take the first run that no other study is at; None where there is none now."""
    for chosen in waiting:
        if TEAM or not lock.is_held(record.run_folder(chosen[1].spec)):
            waiting.remove(chosen)
            return chosen
    return None


def _tell(title: str, content: dict[str, Any], elapsed: float, done: int, total: int) -> None:
    if LEADS:
        left = duration(elapsed / done * (total - done))
        say(f"{title}: {describe(content)}; {done} done in {duration(elapsed)}, about {left} left")


def context() -> Any:
    """A server process that has imported torch once and forks a fresh process for every run; where forking is not safe
    (macOS) or not there (Windows), a new interpreter for every run."""
    method = "forkserver" if sys.platform == "linux" else "spawn"
    multiprocessing.set_start_method(method, force=True)  # joblib's workers name one that only they know
    found: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        found.set_forkserver_preload(["roadmap.run"])
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


def listen() -> None:
    """To be called first in each process of `context`."""
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # submitit hears it in the process above, and ends that
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)


def _child(job: Job, title: str, threads: int | None, gpus: str | None, number: int) -> None:
    try:
        raise_at_once()  # a signal before the training, or after it; now they may come
        listen()
        _log_to(job)
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        os.environ["ROADMAP_GROUP"] = str(number)
        if gpus is not None:  # not what the server was started with: Ray gives each of its tasks others
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        import torch

        from roadmap.run import run

        if threads is not None:
            torch.set_num_threads(threads)
        content = run(job.spec, job.command, title)
        sys.exit(0 if content["status"] == record.COMPLETED else 1)
    except SpecError as error:  # known only now, as a batch larger than the data: the sweep goes on without it
        record_failure(job, str(error))
        sys.exit(1)
    except lock.Busy:
        sys.exit(BUSY)
    except Stopped as stopped:
        say(f"{title}: {stopped}")
        sys.exit(STOPPED)


def _log_to(job: Job) -> None:
    """Send all that this process prints, a crash of native code included, to the run's log; `say` speaks to both."""
    folder = record.run_folder(job.spec)
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


def record_failure(job: Job, reason: str) -> dict[str, Any]:
    """Write and return the record of a run that could not write its own, unless another process has it in hand."""
    content = record.start(job.spec, job.command) | {"error": reason, "top1": None, "curve": []}
    folder = record.run_folder(job.spec)
    if not LEADS:
        return content
    for _ in range(10):
        try:
            with lock.hold(folder):
                found = None if job.spec.force else record.finished(job.spec)
                if found is None:
                    record.write(folder, content)
            break
        except lock.Busy:  # another study trains this run, or only looked whether somebody does
            time.sleep(0.1)
        except OSError as error:  # a full disk must not end the other runs
            say(f"{job.title}: its record could not be written: {error}")
            break
    return content


def describe(content: dict[str, Any]) -> str:
    """A record in a few words."""
    if content["status"] != record.COMPLETED:
        return f"{content['status']} ({content['error']})"
    rate = content["images_per_second"]
    skipped = sum(map(len, content["unreadable"].values()))
    left_out = f", {skipped} unreadable images left out" if skipped else ""
    return f"top-1 {content['top1']:.2f} %, {rate:,.0f} images/s, {content['wall_seconds']:.0f} s{left_out}"
