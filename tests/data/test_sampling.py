"""Split of a batch over processes and accumulation parts."""

from __future__ import annotations

import pytest
import torch

from roadmap.config.compose import compose
from roadmap.config.schema import SpecError
from roadmap.data import datasets
from roadmap.data.loaders import train_loader
from roadmap.data.sampling import BatchSplit
from roadmap.runtime.world import World
from tests.data.batches import CPU, train_batches


@pytest.mark.parametrize(("processes", "parts"), [(2, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("small", [True, False], ids=["memory", "workers"])
def test_processes_and_parts_share_a_batch(processes: int, parts: int, small: bool) -> None:
    """Together they have each image of the batch once, and each part has whole pairs of Mixup."""
    spec = compose("+step=gelu", "budget=smoke", "budget.regularization=1", f"data.small_images={small}")
    train, _ = datasets.load(spec.data, spec.budget)
    (whole, *_) = train_batches(spec, 2)
    images = dict(zip(whole.indices.tolist(), whole.images, strict=True))
    index_at = dict(zip(whole.positions.tolist(), whole.indices.tolist(), strict=True))
    seen: list[int] = []
    for rank in range(processes):
        loader = train_loader(train, spec, BatchSplit(32, World(rank, processes), parts), 0, CPU)
        for _, part in zip(range(parts), loader.epoch(2), strict=False):
            assert (part.positions + part.positions.flip(0) == 31).all()
            for image, index, position in zip(part.images, part.indices.tolist(), part.positions.tolist(), strict=True):
                assert torch.equal(image, images[index]) and index_at[position] == index
                seen.append(position)
    assert sorted(seen) == list(range(32))


def test_a_part_without_a_pair_of_images_is_refused() -> None:
    message = "budget.batch_size=8: 2 processes with 3 parts each need two images per part; use 12 or more"
    with pytest.raises(SpecError, match=message):
        BatchSplit(8, World(0, 2), accumulate=3)
