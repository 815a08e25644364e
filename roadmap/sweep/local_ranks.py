"""Several processes of this machine that train one run together, as torchrun starts them."""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
import uuid

from roadmap.config.choices import Device
from roadmap.config.schema import RunSpec, SpecError
from roadmap.runtime import lock
from roadmap.runtime.exit_codes import EXIT_STOPPED
from roadmap.runtime.logs import configure_logging, logger
from roadmap.runtime.signals import Stopped, raise_on_signal
from roadmap.runtime.system import Resources, num_cores
from roadmap.runtime.world import is_distributed
from roadmap.sweep.placement import count_gpus, has_slices
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.processes import process_context, stop_with_parent, unblock_signals

# For the processes to write a checkpoint after a signal or after a failure of another process, before they are killed.
SHUTDOWN_SECONDS = 120


class RankDiedError(Exception):
    """One of the processes of a run has died; the message tells which one, and how."""


def check_processes(spec: RunSpec, on_this_machine: bool = True) -> None:
    """Raise SpecError if `processes` is set under torchrun, which has started the processes.

    Also if the runs train on this machine and it has fewer GPUs, or fewer cores if it has no GPU.
    """
    if spec.processes is None:
        return
    if is_distributed():
        reason = "under torchrun its own processes train each run; leave processes out"
        raise SpecError(f"processes={spec.processes}: {reason}")
    if not on_this_machine:
        return
    num_gpus = 0 if spec.device is Device.cpu else count_gpus()
    if num_gpus and has_slices() and spec.processes > 1:
        raise SpecError(f"processes={spec.processes}: a process sees only one slice of a GPU (MIG); use processes=1")
    most, what = (num_gpus, "GPUs") if num_gpus else (num_cores(), "cores")
    if spec.processes > most:
        raise SpecError(f"processes={spec.processes}: this machine has {most} {what}; use {most} or less")


def train_in_processes(
    run: PlannedRun,
    num_processes: int,
    title: str = "",
    group: str = "",
    threads: int | None = None,
    resources: Resources | None = None,
    wait: bool = False,
) -> str:
    """Train the run with `num_processes` processes, one per GPU, and return its status.

    `threads` is the number of CPU threads of all processes together, by default the number of cores. The other
    arguments are those of `training.run`. Raises SpecError, LockedError and Stopped as `training.run` does, and
    RankDiedError.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        start_method=process_context().get_start_method(),
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    own_threads = max(1, (threads or num_cores()) // num_processes)
    try:
        results = elastic_launch(config, _train_rank)(run, title, group, own_threads, resources, wait)
    except SignalException as stopped:
        raise Stopped(f"stopped by {signal.Signals(stopped.sigval).name}") from stopped
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == EXIT_STOPPED:
            raise Stopped("stopped by a signal to its processes") from error
        cause = signal.Signals(-failure.exitcode).name if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        raise RankDiedError(f"process {rank} of the run ended with {cause}") from error
    kind, text = next((result for result in results.values() if result[0] == "error"), results[0])
    if kind == "error":
        raise SpecError(text)
    if kind == "locked":
        raise lock.LockedError(text)
    return text


def _train_rank(
    run: PlannedRun, title: str, group: str, threads: int, resources: Resources | None, wait: bool
) -> tuple[str, str]:
    """Train as one of the processes. Return what kind of end it was, and the status or the message."""
    raise_on_signal()
    unblock_signals()
    faulthandler.enable()
    configure_logging()
    threading.Thread(target=stop_with_parent, daemon=True).start()
    import torch

    from roadmap.training.run import run as train_run

    torch.set_num_threads(threads)
    try:
        record = train_run(run.spec, run.command, title, wait, group, resources)
    except SpecError as error:
        return "error", str(error)
    except lock.LockedError as error:
        return "locked", str(error)
    except Stopped as stopped:
        logger.info(f"{title}: {stopped}")
        sys.exit(EXIT_STOPPED)  # a result would wait for the other process, which is ending too
    return "status", str(record["status"])
