"""Images of each batch, and the split of a batch over processes and accumulation parts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from roadmap.config.schema import RunSpec, SpecError
from roadmap.runtime.random import derive
from roadmap.runtime.world import SINGLE_PROCESS, World


def split_evenly(batch_size: int, count: int) -> list[int]:
    """Return the sizes of `count` consecutive parts of a batch.

    They are as equal as even numbers can be, so that the pairs (0, 1), (2, 3), ... of Mixup and CutMix stay together.
    The last part of an odd batch is odd.
    """
    pairs = torch.arange(batch_size // 2).tensor_split(count)
    sizes = [2 * len(part) for part in pairs]
    sizes[-1] += batch_size % 2
    return sizes


def group_sizes(batch_size: int, group_size: int | None) -> list[int]:
    """Return the sizes of the consecutive groups of at most `group_size` images into which a batch is divided.

    None: one group. A group is larger by one image where an odd batch requires it.
    """
    count = 1 if group_size is None else math.ceil(batch_size / group_size)
    return split_evenly(batch_size, max(1, min(count, batch_size // 2)))


def group_of_position(batch_size: int, group_size: int | None) -> Tensor:
    """Return the number of the group of each position in a batch: int64 (batch_size,)."""
    sizes = torch.tensor(group_sizes(batch_size, group_size))
    return torch.arange(len(sizes)).repeat_interleave(sizes)


class BatchSplit:
    """Split of each batch over the processes of `world`, and in each process over `accumulate` consecutive parts.

    `norm_batch_size` is the number of images that BatchNorm normalizes together (None: the whole batch), and
    `batch_norm` tells whether the network has one. With BatchNorm, the parts of a process are made of whole groups.
    Raises SpecError if this is impossible, or if a part would get less than two images.
    """

    def __init__(
        self,
        batch_size: int,
        world: World = SINGLE_PROCESS,
        accumulate: int = 1,
        norm_batch_size: int | None = None,
        batch_norm: bool = False,
    ) -> None:
        self.batch_size, self.world, self.accumulate = batch_size, world, accumulate
        num_parts = self.num_parts = world.size * accumulate
        if num_parts > 1 and batch_size < 2 * num_parts:
            message = f"{world.size} processes with {accumulate} parts each need two images per part"
            raise SpecError(f"budget.batch_size={batch_size}: {message}; use {2 * num_parts} or more")
        groups = group_sizes(batch_size, norm_batch_size)
        self.num_norm_groups = len(groups)
        sizes = split_evenly(batch_size, num_parts)
        if batch_norm and len(groups) >= num_parts:
            sizes = [int(part.sum()) for part in torch.tensor(groups).tensor_split(num_parts)]
        elif batch_norm and accumulate > 1:
            size = batch_size // num_parts // 2 * 2
            message = f"a part would have less than the {groups[0]} images that BatchNorm normalizes together"
            advice = f"use {len(groups) // world.size} or less" if len(groups) > world.size else "use 1"
            raise SpecError(f"accumulate={accumulate}: {message}; {advice}, or recipe.norm_batch_size={size}")
        first = world.rank * accumulate
        self.parts = list(torch.arange(batch_size).split(sizes))[first : first + accumulate]
        self.share_of_process = (
            sum(map(len, self.parts)) / batch_size
        )  # of the images; equal parts are not always possible
        self._norm_group = group_of_position(batch_size, norm_batch_size)
        # Whether a group of BatchNorm has images in several processes.
        self.shares_norm_groups = world.size > 1 and len(groups) < num_parts

    def norm_groups(self, positions: Tensor) -> list[tuple[int, int]]:
        """Return (group, number of images) of the consecutive groups of BatchNorm in a part of a batch."""
        groups, counts = self._norm_group[positions].unique_consecutive(return_counts=True)
        return list(zip(groups.tolist(), counts.tolist(), strict=True))

    @classmethod
    def of(cls, run: RunSpec, batch_size: int, world: World = SINGLE_PROCESS, accumulate: int = 1) -> BatchSplit:
        """Return the split of `run`, whose batches have `batch_size` images. Raises SpecError, see the class."""
        return cls(batch_size, world, accumulate, run.recipe.norm_batch_size, run.network.has_batch_norm)

    def order(self, num_images: int, seed: int, epoch: int) -> Tensor:
        """Return the order of the images in an epoch, int64 (num_images,): a permutation by `seed` and `epoch`."""
        return torch.randperm(num_images, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))

    def addresses(self, num_images: int, start: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield the place in the epoch's order, and the positions in the batch, int64 (N,), of every part of this
        process in every iteration from `start` on."""
        for iteration in range(start, num_images // self.batch_size):
            for part in self.parts:
                first = iteration * self.batch_size + int(part[0])
                yield slice(first, first + len(part)), part


class EpochSampler(Sampler[list[tuple[int, int, int]]]):
    """Parts of an epoch's batches as lists of (image index, epoch, position), from iteration `start` on.

    Set `epoch` and `start` before iterating.
    """

    def __init__(self, num_images: int, seed: int, split: BatchSplit) -> None:
        self.num_images, self.seed, self.split = num_images, seed, split
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        order = self.split.order(self.num_images, self.seed, self.epoch).tolist()
        for place, positions in self.split.addresses(self.num_images, self.start):
            yield [(i, self.epoch, position) for i, position in zip(order[place], positions.tolist(), strict=True)]
