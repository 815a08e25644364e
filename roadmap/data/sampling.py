"""Which images form a batch, and how a batch is split over processes and accumulation parts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from roadmap.config.schema import SpecError
from roadmap.runtime.random import derive
from roadmap.runtime.world import SINGLE_PROCESS, World


def batch_positions(batch_size: int, part: int, parts: int) -> Tensor:
    """Which images of a batch the `part`-th of `parts` takes, int64.

    Image i always goes with its mirror image B - 1 - i, and stands where the part's own reversal puts it: Mixup and
    CutMix, which pair a batch with its reverse, pair the same images in parts as in the whole.
    """
    half = batch_size // 2
    first = torch.arange(part, half, parts)
    middle = torch.arange(half, half + 1) if batch_size % 2 and part == 0 else first[:0]
    return torch.cat([first, middle, (batch_size - 1 - first).flip(0)])


class BatchSplit:
    """How one batch is shared out: over `world`, and in each process over `accumulate` parts, one after the other."""

    def __init__(self, batch_size: int, world: World = SINGLE_PROCESS, accumulate: int = 1) -> None:
        self.batch_size, self.world, self.accumulate = batch_size, world, accumulate
        parts = world.size * accumulate
        what = f"there are {world.size} processes with {accumulate} parts each, and a part takes a pair of images"
        if parts > 1 and batch_size < 2 * parts:
            raise SpecError(f"budget.batch_size={batch_size}: {what}; take {2 * parts} or more")
        self.parts = [batch_positions(batch_size, world.rank * accumulate + i, parts) for i in range(accumulate)]

    def addresses(self, num_images: int, seed: int, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's (image indices, positions) of every part of every step from `start` on."""
        generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
        order = torch.randperm(num_images, generator=generator)
        for step in range(start, num_images // self.batch_size):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            for part in self.parts:
                yield batch[part], part


class EpochSampler(Sampler[list[tuple[int, int, int]]]):
    """The parts of an epoch's steps as (image index, epoch, position), from step `start` on."""

    def __init__(self, num_images: int, seed: int, split: BatchSplit) -> None:
        self.num_images, self.seed, self.split = num_images, seed, split
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for index, places in self.split.addresses(self.num_images, self.seed, self.epoch, self.start):
            yield [(i, self.epoch, place) for i, place in zip(index.tolist(), places.tolist(), strict=True)]
