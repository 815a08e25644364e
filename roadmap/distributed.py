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
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from roadmap.spec import Device, require

PATIENCE = datetime.timedelta(minutes=30)  # for the slowest process to load its data


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its machine: which GPU is its own

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0


ALONE = World()


def world() -> World:
    """What torchrun said in the environment; one process without it."""
    if "WORLD_SIZE" not in os.environ or "MASTER_ADDR" not in os.environ:
        return ALONE
    return World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


@contextmanager
def joined(key: str, device: Device) -> Iterator[World]:
    """The processes of `world()` as one group while inside; `key` sets the group apart from others of this torchrun."""
    here = world()
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
        timeout=PATIENCE,
    )
    try:
        yield here
    finally:
        dist.destroy_process_group()


def agree(key: str, value: str) -> str:
    """The leading process's `value`, in all of them, before there is a group: through torchrun's store."""
    here = world()
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
    store = dist.TCPStore(host, port, here.size, is_master=here.leads and not served, timeout=PATIENCE)
    return dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)


def tell_failure(reason: str) -> None:
    """Leave word for the leading process of why this one fails."""
    here = world()
    if here.size > 1:
        _store(here).set(f"failed {os.environ.get('ROADMAP_GROUP')}", f"process {here.rank}: {reason}")


def told_failure() -> str | None:
    """What another process said of its failure, of which this one only saw that it was gone."""
    here = world()
    key = f"failed {os.environ.get('ROADMAP_GROUP')}"
    for _ in range(30 if here.size > 1 else 0):
        if _store(here).check([key]):
            return _store(here).get(key).decode()
        time.sleep(0.1)
    return None


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def largest(*numbers: float) -> list[float]:
    """Of each number the largest that any process has."""
    if size() == 1:
        return list(numbers)
    tensor = torch.tensor(numbers, dtype=torch.float64, device=_meeting_place())
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, in each of them."""
    if size() > 1:
        tensor = tensor.to(_meeting_place())
        dist.all_reduce(tensor)
    return tensor


def collect(thing: Any) -> list[Any]:
    """Every process's `thing`, in each of them, in the order of ranks."""
    if size() == 1:
        return [thing]
    found: list[Any] = [None] * size()
    dist.all_gather_object(found, thing)
    return found


def from_leader(thing: Any) -> Any:
    """The leading process's `thing`, in each of them."""
    if size() == 1:
        return thing
    box = [thing]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _meeting_place() -> torch.device:
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def positions(batch_size: int, part: int, parts: int) -> Tensor:
    """Which images of a batch the `part`-th of `parts` takes, int64.

    Image i always goes with its mirror image B - 1 - i, and stands where the part's own reversal puts it: Mixup and
    CutMix, which pair a batch with its reverse, pair the same images in parts as in the whole.
    """
    half = batch_size // 2
    first = torch.arange(part, half, parts)
    middle = torch.arange(half, half + 1) if batch_size % 2 and part == 0 else first[:0]
    return torch.cat([first, middle, (batch_size - 1 - first).flip(0)])


class _Total(torch.autograd.Function):
    """`total` that gradients pass: each process's part of the sum moves the loss of all."""

    @staticmethod
    def forward(_: Any, part: Tensor) -> Tensor:
        return total(part.clone())

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return total(gradient.clone())


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the images of all processes, N,C,H,W -> N,C,H,W.

    torch.nn.SyncBatchNorm knows no CPU; this one is for any device, and differentiates through the exchange.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or size() == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            count = total(values.new_full((1,), values.numel() / values.shape[1]))
            mean = _Total.apply(values.sum((0, 2, 3))) / count
            centred = values - mean[:, None, None]
            variance = _Total.apply(centred.square().sum((0, 2, 3))) / count
            self._remember(mean.detach(), variance.detach() * count / (count - 1))
            scale = self.weight * (variance + self.eps).rsqrt()
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def synchronize_norms(model: nn.Module) -> None:
    """Let every BatchNorm of `model` see the whole batch; in place, parameters and buffers stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
