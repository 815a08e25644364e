"""Images of each batch, and the split of a batch over processes and accumulation parts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from roadmap.config.schema import SpecError
from roadmap.runtime.random import derive
from roadmap.runtime.world import SINGLE_PROCESS, World


def batch_positions(batch_size: int, part: int, num_parts: int) -> Tensor:
    """Return the positions in a batch that the `part`-th of `num_parts` takes: int64 (N,).

    Position i is always in the same part as its mirror B - 1 - i, and the two are also mirrors within the part.
    Therefore Mixup and CutMix, which pair a batch with its reverse, pair the same images in parts as in the whole.
    """
    half = batch_size // 2
    first = torch.arange(part, half, num_parts)
    middle = torch.arange(half, half + 1) if batch_size % 2 and part == 0 else first[:0]
    return torch.cat([first, middle, (batch_size - 1 - first).flip(0)])


class BatchSplit:
    """Split of each batch over the processes of `world`, and in each process over `accumulate` consecutive parts.

    Raises SpecError if a part would get less than two images.
    """

    def __init__(self, batch_size: int, world: World = SINGLE_PROCESS, accumulate: int = 1) -> None:
        self.batch_size, self.world, self.accumulate = batch_size, world, accumulate
        num_parts = world.size * accumulate
        if num_parts > 1 and batch_size < 2 * num_parts:
            message = f"{world.size} processes with {accumulate} parts each need two images per part"
            raise SpecError(f"budget.batch_size={batch_size}: {message}; use {2 * num_parts} or more")
        first = world.rank * accumulate
        self.parts = [batch_positions(batch_size, first + i, num_parts) for i in range(accumulate)]

    def addresses(self, num_images: int, seed: int, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's (image indices, positions), int64 (N,), for every part of every iteration from `start`.

        The order of the images is a random permutation that depends on `seed` and `epoch`.
        """
        generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
        order = torch.randperm(num_images, generator=generator)
        for iteration in range(start, num_images // self.batch_size):
            batch = order[iteration * self.batch_size : (iteration + 1) * self.batch_size]
            for part in self.parts:
                yield batch[part], part


class EpochSampler(Sampler[list[tuple[int, int, int]]]):
    """Parts of an epoch's batches as lists of (image index, epoch, position), from iteration `start` on.

    Set `epoch` and `start` before iterating.
    """

    def __init__(self, num_images: int, seed: int, split: BatchSplit) -> None:
        self.num_images, self.seed, self.split = num_images, seed, split
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for indices, positions in self.split.addresses(self.num_images, self.seed, self.epoch, self.start):
            yield [(i, self.epoch, position) for i, position in zip(indices.tolist(), positions.tolist(), strict=True)]
