"""Communication between the processes of one run, as torchrun starts them.

N processes with one global batch compute the same as one process, except for the order of sums. Without torchrun there
is one process, and every function here returns at once.
"""

from __future__ import annotations

import datetime
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from roadmap.config.choices import Device
from roadmap.config.validation import require
from roadmap.runtime.exit_codes import EXIT_RUN_FAILED
from roadmap.runtime.world import World, current_world

TIMEOUT = datetime.timedelta(minutes=30)  # for the slowest process to load its data
POLL_SECONDS = 1.0  # between two looks for a failure of another process
GRACE_SECONDS = 10.0  # for a process to end by itself after a failure of another one


@contextmanager
def process_group(name: str, device: Device, on_failure: Callable[[str], None] = lambda _: None) -> Iterator[World]:
    """Initialize a group of all processes of `current_world()`, yield that world, and destroy the group at the end.

    `name` separates the group from other groups of the same torchrun: all processes of one attempt at a run pass the
    same name, and no other attempt uses it. If a process publishes a failure, or dies, and this one does not leave the
    context soon, as with NCCL, whose operations wait for the failed process, then `on_failure` is called with the
    reason in a thread, and this process exits. Raises SpecError if there are more processes than GPUs on this machine.
    """
    world = current_world()
    if world.size == 1:
        yield world
        return
    use_gpu = device is not Device.cpu and torch.cuda.is_available()
    if use_gpu:
        num_gpus = torch.cuda.device_count()
        message = f"this machine has {num_gpus} GPUs; start at most {num_gpus} processes on it"
        # In all processes of the machine: those that a single one left would wait for it.
        require(world.local_size <= num_gpus, "--nproc-per-node", world.local_size, message)
        torch.cuda.set_device(world.local_rank)
    dist.init_process_group(
        "nccl" if use_gpu else "gloo",
        store=dist.PrefixStore(name, _store(world)),
        rank=world.rank,
        world_size=world.size,
        timeout=TIMEOUT,
    )
    has_ended = threading.Event()
    _store(world).set(_process_key(name, world.rank), f"{os.getpid()} {_process_namespace()}")
    watch = threading.Thread(target=_exit_after_failure, args=(name, world, has_ended, on_failure))
    watch.start()
    try:
        yield world
    finally:
        with suppress(RuntimeError):  # the process that serves the store has ended
            _store(world).set(_process_key(name, world.rank), "")
        dist.destroy_process_group()
        has_ended.set()
        watch.join()


def _exit_after_failure(name: str, world: World, has_ended: threading.Event, on_failure: Callable[[str], None]) -> None:
    """Wait until `has_ended`, or for a failure, after which this process may take GRACE_SECONDS to end."""
    store = _store(world).clone()
    while not has_ended.wait(POLL_SECONDS):
        try:
            reason = store.get(_failure_key(name)).decode() if store.check([_failure_key(name)]) else None
            reason = reason or _death_of_another(name, world, store)
        except RuntimeError:  # the process that serves the store has ended
            return
        if reason is not None:
            if not has_ended.wait(GRACE_SECONDS):
                try:
                    on_failure(reason)
                finally:
                    os._exit(EXIT_RUN_FAILED)
            return


def _death_of_another(name: str, world: World, store: dist.Store) -> str | None:
    """Return a reason if another process of the group on this machine no longer exists, but has not left the group."""
    first = world.rank - world.local_rank
    for rank in range(first, first + world.local_size):
        key = _process_key(name, rank)
        if rank == world.rank or not store.check([key]):
            continue
        process, _, namespace = store.get(key).decode().partition(" ")
        if process and namespace == _process_namespace() and not _exists(int(process)) and store.get(key):
            return f"process {rank} died"
    return None


def _process_namespace() -> str:
    """Return what processes have in common that see each other; containers on one machine may not."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return platform.node()


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _process_key(name: str, rank: int) -> str:
    return f"process {rank} of {name}"


def broadcast_before_group(key: str, value: str, name: str | None = None) -> str:
    """Return rank zero's `value` in every process, however long that takes. Each `key` can be used once.

    Uses torchrun's store and needs no process group. Raises RuntimeError if a process has published a failure of the
    group `name` meanwhile.
    """
    world = current_world()
    if world.size == 1:
        return value
    store = _store(world)
    if world.is_rank_zero:
        store.set(key, value)
        return value
    while not store.check([key]):
        if name is not None and store.check([_failure_key(name)]):
            raise RuntimeError(store.get(_failure_key(name)).decode())
        time.sleep(0.05)
    return store.get(key).decode()


def connect() -> None:
    """Connect to the store in which processes find each other; before a long wait of rank zero, which may serve it."""
    world = current_world()
    if world.size > 1:
        _store(world)


@cache
def _store(world: World) -> dist.Store:
    """Return the store that torchrun's agent serves, or else rank zero. Keys start with the restart count, so that keys
    of an earlier start of the same torchrun are not read."""
    agent_serves = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, world.size, is_master=world.is_rank_zero and not agent_serves, timeout=TIMEOUT)
    return dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)


def publish_failure(name: str, reason: str) -> None:
    """Tell the other processes of the group `name` why this one fails, unless another one has failed before."""
    world = current_world()
    if world.size > 1:
        _store(world).compare_set(_failure_key(name), "", f"process {world.rank}: {reason}")


def published_failure(name: str) -> str | None:
    """Return the reason of the first process of the group that published a failure; None if there is none after 3 s.

    A process calls this after a failed collective operation, which only shows that another process has ended.
    """
    world = current_world()
    for _ in range(30 if world.size > 1 else 0):
        if _store(world).check([_failure_key(name)]):
            return _store(world).get(_failure_key(name)).decode()
        time.sleep(0.1)
    return None


def _failure_key(name: str) -> str:
    return f"failed {name}"


def world_size() -> int:
    """Return the number of processes in the current group; 1 outside of a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_max(*numbers: float) -> list[float]:
    """Return the maximum over all processes of each number, in every process."""
    if world_size() == 1:
        return list(numbers)
    tensor = torch.tensor(numbers, dtype=torch.float64, device=_collective_device())
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over all processes, in every process. May change `tensor` in place."""
    if world_size() > 1:
        tensor = tensor.to(_collective_device())
        dist.all_reduce(tensor)
    return tensor


def all_gather(value: Any) -> list[Any]:
    """Return the values of all processes, ordered by rank, in every process. Values must be picklable."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Return rank zero's `value` in every process. It must be picklable."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _collective_device() -> torch.device:
    use_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if use_gpu else torch.device("cpu")
