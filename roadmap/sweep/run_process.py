"""One run in a process of its own: whatever happens in it ends neither the study nor the other runs."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from roadmap.config.schema import SpecError
from roadmap.records.record import (
    COMPLETED,
    FAILED,
    FINISHED,
    finished_record,
    keep_previous_record,
    new_record,
    read_record,
    run_folder,
    write_record,
)
from roadmap.runtime import lock
from roadmap.runtime.exit_codes import EXIT_COMPLETED, EXIT_LOCKED, EXIT_RUN_FAILED, EXIT_STOPPED
from roadmap.runtime.files import describe_os_error
from roadmap.runtime.logs import configure_logging, logger
from roadmap.runtime.signals import Stopped, raise_on_signal
from roadmap.runtime.streams import prepare_streams
from roadmap.runtime.system import Resources
from roadmap.runtime.world import is_distributed, is_rank_zero, name_of_group
from roadmap.sweep.local_ranks import RankDiedError, train_in_processes
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.processes import process_context, stop_with_parent, unblock_signals, visible_devices


class RunProcess:
    """A run that trains in a process of its own and writes its output to log.txt in the run's folder."""

    def __init__(
        self,
        run: PlannedRun,
        title: str,
        threads: int | None = None,
        gpu: int | None = None,
        number: int = 0,
        resources: Resources | None = None,
        num_ranks: int = 1,
    ) -> None:
        """Start the process. `number` counts the processes that a study started: under torchrun the processes that
        train one run together have the same number. `resources` are the whole machine by default. With `num_ranks`,
        the process starts that many others, which train the run together; `gpu` then is the number of a group of GPUs.
        """
        self.run, self.title, self.gpu, self.number = run, title, gpu, number
        visible = visible_devices(None if gpu is None else range(num_ranks * gpu, num_ranks * (gpu + 1)))
        self.folder = run_folder(run.spec)
        self.written_before = record_mtime(self.folder)
        self.process = process_context().Process(
            target=_run_in_child,
            args=(run, title, threads, visible, number, resources, num_ranks),
            name=self.folder.name,
        )
        self.process.start()

    @property
    def sentinel(self) -> int:
        """The handle that becomes ready when the process ends, for `multiprocessing.connection.wait`."""
        return int(self.process.sentinel)

    def finish(self) -> dict[str, Any] | None:
        """Wait for the process and return the run's record, or a failure record that states how the process died.

        Return None where another process has locked this run.
        """
        try:
            self.process.join()
        except BaseException:
            self.terminate()
            self.process.join()
            raise
        code = self.process.exitcode or 0
        if code == EXIT_LOCKED:
            return None
        if is_distributed() and code not in (EXIT_COMPLETED, EXIT_RUN_FAILED, EXIT_STOPPED):
            from roadmap.runtime.distributed import publish_failure

            # The other processes of the run may wait for this one in an operation of NCCL.
            publish_failure(name_of_group(self.folder.name, str(self.number)), _how_it_ended(code).removeprefix("was "))
        if not is_rank_zero():
            return {"status": COMPLETED if code == EXIT_COMPLETED else FAILED}
        record = read_record(self.folder)
        if record is not None and self.has_new_record:
            return record
        if record is not None and record["status"] in FINISHED and code in (EXIT_COMPLETED, EXIT_RUN_FAILED):
            return record  # another process finished it in the meantime
        how = _how_it_ended(code)
        return record_failure(
            self.run, f"the process of the run {how}; the same command retries it, from its checkpoint if any"
        )

    @property
    def was_stopped(self) -> bool:
        """Whether the process ended because of a signal that asks to stop."""
        return self.process.exitcode in (EXIT_STOPPED, -signal.SIGTERM)

    def terminate(self) -> None:
        """Ask the run to write a checkpoint and end."""
        self.process.terminate()

    @property
    def has_new_record(self) -> bool:
        """Whether the run has a record that was written after the start of this process."""
        return record_mtime(self.folder) not in (None, self.written_before)


def record_mtime(folder: Path) -> int | None:
    """Return when the record in a run's folder was last written, in nanoseconds; None if there is none."""
    path = folder / "record.json"
    return path.stat().st_mtime_ns if path.exists() else None


def _how_it_ended(code: int) -> str:
    """Describe the exit code of a process that left no record."""
    if code == EXIT_STOPPED:
        return "was stopped by a signal"
    if code < 0:
        cause = "; the system does this when memory runs out" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{cause}"
    return f"exited with code {code}; its log.txt may show the reason"


def _run_in_child(
    run: PlannedRun,
    title: str,
    threads: int | None,
    gpus: str | None,
    number: int,
    resources: Resources | None,
    num_ranks: int,
) -> None:
    """Train `run` in this new process and exit with one of the codes of `roadmap.runtime.exit_codes`."""
    written_before = record_mtime(run_folder(run.spec))
    try:
        raise_on_signal()  # for signals before and after the training
        unblock_signals()
        prepare_streams()
        _redirect_output(run)
        threading.Thread(target=stop_with_parent, daemon=True).start()
        if gpus is not None:  # not those that the fork server started with: Ray gives each of its tasks others
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        import torch

        from roadmap.training.run import run as train_run

        if threads is not None:
            torch.set_num_threads(threads)
        if num_ranks > 1:
            status = train_in_processes(run, num_ranks, title, str(number), threads, resources)
        else:
            record = train_run(run.spec, run.command, title, group=str(number), resources=resources)
            status = record["status"]
        sys.exit(EXIT_COMPLETED if status == COMPLETED else EXIT_RUN_FAILED)
    except SpecError as error:  # found only now, as a batch size larger than the dataset: the sweep continues
        record_failure(run, str(error))
        sys.exit(EXIT_RUN_FAILED)
    except RankDiedError as error:
        record_death(run, str(error), written_before)
        sys.exit(EXIT_RUN_FAILED)
    except lock.LockedError:
        sys.exit(EXIT_LOCKED)
    except Stopped as stopped:
        logger.info(f"{title}: {stopped}")
        sys.exit(EXIT_STOPPED)
    except OSError as error:  # a full disk or a read-only folder: the log may be lost, so use the console
        logger.info(f"{title}: {describe_os_error(error)}")
        sys.exit(EXIT_RUN_FAILED)


def _redirect_output(run: PlannedRun) -> None:
    """Append all output of this process, crashes of native code included, to the run's log.txt.

    Messages of the package's logger still go to the console too.
    """
    folder = run_folder(run.spec)
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    configure_logging(console=os.fdopen(os.dup(1), "w", errors="replace"))
    if is_rank_zero():
        with (folder / "log.txt").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            with suppress(OSError):
                print(time.strftime("\n%Y-%m-%d %H:%M:%S"), run.command, flush=True)
    faulthandler.enable()


def record_death(run: PlannedRun, reason: str, written_before: int | None) -> dict[str, Any]:
    """Write and return the record of a run of which a process has died.

    Where another process has already recorded the failure that came first, that record stays. `written_before` is the
    result of `record_mtime` before the run.
    """
    folder = run_folder(run.spec)
    record = read_record(folder) if record_mtime(folder) not in (None, written_before) else None
    if record is not None and re.match(r"process \d+: ", record.get("error") or ""):
        return record
    return record_failure(run, f"{reason}; the same command retries it, from its checkpoint if any")


def record_failure(run: PlannedRun, reason: str) -> dict[str, Any]:
    """Write and return the record of a run whose process could not write one, unless another process has locked it."""
    record = new_record(run.spec, run.command) | {"error": reason, "top1": None, "curve": []}
    folder = run_folder(run.spec)
    if not is_rank_zero():
        return record
    for _ in range(10):
        try:
            with lock.hold(folder):
                if run.spec.force or finished_record(run.spec) is None:
                    keep_previous_record(folder)
                    write_record(folder, record)
            break
        except lock.LockedError:  # another study trains this run, or only checked whether it is locked
            time.sleep(0.1)
        except OSError as error:  # a full disk must not end the other runs
            record["error"] = f"{reason}; this could not be recorded: {error.strerror}"
            break
    return record


def with_log(result: str, record: dict[str, Any], folder: Path) -> str:
    """Return `result` and, if the run is not completed, the path of its log."""
    log = folder / "log.txt"
    return f"{result}; log: {log}" if record["status"] != COMPLETED and log.exists() else result


def summarize_record(record: dict[str, Any]) -> str:
    """Return the result of a run in a few words, as `top-1 91.20 %, 4,000 images/s, 65 s`."""
    if record["status"] != COMPLETED:
        return f"{record['status']} ({record['error']})"
    num_unreadable = sum(map(len, record["unreadable"].values()))
    skipped = f", {num_unreadable} unreadable images skipped" if num_unreadable else ""
    speed = f"{record['images_per_second']:,.0f} images/s"
    average = f" (EMA {record['ema']['top1']:.2f} %)" if record.get("ema") else ""
    return f"top-1 {record['top1']:.2f} %{average}, {speed}, {record['wall_seconds']:.0f} s{skipped}"
