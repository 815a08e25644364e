"""One run on several processes, as torchrun starts them: who does which part of a batch, and how they agree.

N processes with one global batch compute what one process does, up to the order of sums. Outside of torchrun there is
one process, and everything here is free.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from roadmap.config.schema import Device
from roadmap.config.validation import require
from roadmap.runtime.world import World, current_world

TIMEOUT = datetime.timedelta(minutes=30)  # for the slowest process to load its data


@contextmanager
def process_group(key: str, device: Device) -> Iterator[World]:
    """The processes of `world()` as one group while inside; `key` sets the group apart from others of this torchrun."""
    here = current_world()
    if here.size == 1:
        yield here
        return
    on_gpu = device is not Device.cpu and torch.cuda.is_available()
    if on_gpu:
        count = torch.cuda.device_count()
        what = f"this machine has {count} GPUs; start no more processes on it"
        require(here.local_rank < count, "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE"), what)
        torch.cuda.set_device(here.local_rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=dist.PrefixStore(f"{key} {os.environ.get('ROADMAP_GROUP')}", _store(here)),
        rank=here.rank,
        world_size=here.size,
        timeout=TIMEOUT,
    )
    try:
        yield here
    finally:
        dist.destroy_process_group()


def broadcast_before_group(key: str, value: str) -> str:
    """The leading process's `value`, in all of them, before there is a group: through torchrun's store."""
    here = current_world()
    if here.size == 1:
        return value
    store = _store(here)
    if here.leads:
        store.set(key, value)
    return store.get(key).decode()


@cache
def _store(here: World) -> dist.Store:
    """The store that torchrun's own agent serves, or the leading process's; what an earlier start of the same torchrun
    left there is left alone."""
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, here.size, is_master=here.leads and not served, timeout=TIMEOUT)
    return dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)


def publish_failure(reason: str) -> None:
    """Leave word for the leading process of why this one fails."""
    here = current_world()
    if here.size > 1:
        _store(here).set(f"failed {os.environ.get('ROADMAP_GROUP')}", f"process {here.rank}: {reason}")


def published_failure() -> str | None:
    """What another process said of its failure, of which this one only saw that it was gone."""
    here = current_world()
    key = f"failed {os.environ.get('ROADMAP_GROUP')}"
    for _ in range(30 if here.size > 1 else 0):
        if _store(here).check([key]):
            return _store(here).get(key).decode()
        time.sleep(0.1)
    return None


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_max(*numbers: float) -> list[float]:
    """Of each number the largest that any process has."""
    if world_size() == 1:
        return list(numbers)
    tensor = torch.tensor(numbers, dtype=torch.float64, device=_collective_device())
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes, in each of them."""
    if world_size() > 1:
        tensor = tensor.to(_collective_device())
        dist.all_reduce(tensor)
    return tensor


def all_gather(thing: Any) -> list[Any]:
    """Every process's `thing`, in each of them, in the order of ranks."""
    if world_size() == 1:
        return [thing]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, thing)
    return found


def broadcast(thing: Any) -> Any:
    """The leading process's `thing`, in each of them."""
    if world_size() == 1:
        return thing
    box = [thing]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _collective_device() -> torch.device:
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
