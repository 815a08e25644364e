"""Split of a batch over processes and accumulation parts."""

from __future__ import annotations

import re

import pytest
import torch

from roadmap.config.compose import compose
from roadmap.config.schema import SpecError
from roadmap.data import datasets
from roadmap.data.loaders import train_loader
from roadmap.data.sampling import BatchSplit, group_of_position, group_sizes, split_evenly
from roadmap.runtime.world import SINGLE_PROCESS, World
from tests.data.batches import CPU, train_batches


@pytest.mark.parametrize(("processes", "parts"), [(2, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("small", [True, False], ids=["memory", "workers"])
def test_processes_and_parts_share_a_batch(processes: int, parts: int, small: bool) -> None:
    """Together they have each image of the batch once, and each part has whole pairs of Mixup: (0, 1), (2, 3) ..."""
    spec = compose("+step=gelu", "budget=smoke", "budget.regularization=1", f"data.small_images={small}")
    train, _ = datasets.load(spec.data, spec.budget)
    (whole, *_) = train_batches(spec, 2)
    images = dict(zip(whole.indices.tolist(), whole.images, strict=True))
    index_at = dict(zip(whole.positions.tolist(), whole.indices.tolist(), strict=True))
    seen: list[int] = []
    for rank in range(processes):
        loader = train_loader(train, spec, BatchSplit(32, World(rank, processes), parts), 0, CPU)
        for _, part in zip(range(parts), loader.epoch(2), strict=False):
            assert len(part.labels) >= 2 and torch.equal(part.positions[::2] + 1, part.positions[1::2])
            for image, index, position in zip(part.images, part.indices.tolist(), part.positions.tolist(), strict=True):
                assert torch.equal(image, images[index]) and index_at[position] == index
                seen.append(position)
    assert sorted(seen) == list(range(32))


def test_a_part_without_a_pair_of_images_is_refused() -> None:
    message = "budget.batch_size=8: 2 processes with 3 parts each need two images per part; use 12 or more"
    with pytest.raises(SpecError, match=message):
        BatchSplit(8, World(0, 2), accumulate=3)


@pytest.mark.parametrize(("batch_size", "parts"), [(8, 1), (8, 2), (8, 4), (10, 3), (9, 2), (9, 4)])
def test_parts_are_even_complete_and_nearly_equal(batch_size: int, parts: int) -> None:
    sizes = split_evenly(batch_size, parts)
    assert len(sizes) == parts and sum(sizes) == batch_size
    assert all(size % 2 == 0 for size in sizes[:-1]) and max(sizes) - min(sizes) <= 2
    positions = [BatchSplit(batch_size, World(rank, parts)).parts[0] for rank in range(parts)]
    assert torch.cat(positions).tolist() == list(range(batch_size))


@pytest.mark.parametrize(
    ("batch_size", "group_size", "expected"),
    [(256, 128, [128, 128]), (128, 128, [128]), (64, 128, [64]), (10, None, [10]), (300, 128, [100] * 3),
     (14, 4, [4, 4, 4, 2]), (5, 2, [2, 3]), (1, 2, [1])],
)  # fmt: skip
def test_groups_of_a_batch(batch_size: int, group_size: int | None, expected: list[int]) -> None:
    assert group_sizes(batch_size, group_size) == expected
    groups = group_of_position(batch_size, group_size)
    assert groups.bincount().tolist() == expected and torch.equal(groups, groups.sort().values)


@pytest.mark.parametrize(("batch_size", "group_size", "processes"), [(96, 32, 2), (64, 16, 3), (32, 8, 2)])
def test_the_share_of_a_process_counts_the_images_of_the_batch(
    batch_size: int, group_size: int, processes: int
) -> None:
    """Throughput is that of all processes, and the parts of some of them are larger."""
    splits = [BatchSplit(batch_size, World(rank, processes), 1, group_size, True) for rank in range(processes)]
    sizes = [len(split.parts[0]) for split in splits]
    assert (len(set(sizes)) > 1) == (batch_size != 32)
    for split, size in zip(splits, sizes, strict=True):
        assert round(size / split.share_of_process) == batch_size


def test_parts_of_a_network_with_batch_norm_have_whole_groups() -> None:
    """Three groups of four images for two processes: no group is divided. Without BatchNorm the parts are equal."""
    for batch_norm, sizes in ((True, [8, 4]), (False, [6, 6])):
        splits = [BatchSplit(12, World(rank, 2), 1, 4, batch_norm) for rank in range(2)]
        assert [len(split.parts[0]) for split in splits] == sizes
    assert splits[0].norm_groups(torch.tensor([0, 1, 3, 4, 5])) == [(0, 3), (1, 2)]  # an unreadable image
    shared = BatchSplit(12, World(1, 3), 1, 6, batch_norm=True)
    assert shared.shares_norm_groups and shared.norm_groups(shared.parts[0]) == [(0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("accumulate", "norm_batch_size", "message"),
    [
        (2, None, "accumulate=2: a part would have less than the 32 images that BatchNorm normalizes together; "
                  "use 1, or recipe.norm_batch_size=16"),
        (8, 8, "accumulate=8: a part would have less than the 8 images that BatchNorm normalizes together; "
               "use 4 or less, or recipe.norm_batch_size=4"),
    ],
)  # fmt: skip
def test_a_part_that_would_divide_a_group_is_refused(
    accumulate: int, norm_batch_size: int | None, message: str
) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        BatchSplit(32, SINGLE_PROCESS, accumulate, norm_batch_size, batch_norm=True)
    assert len(BatchSplit(32, SINGLE_PROCESS, accumulate, norm_batch_size).parts) == accumulate
