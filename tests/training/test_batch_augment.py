"""Augmentation of whole batches before an iteration: chunks of batches change no draw, and epochs differ."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from roadmap.config.compose import compose
from roadmap.training import recipe
from roadmap.training.recipe import BatchAugment
from tests.data.batches import CPU, same_batches, train_batches

OVERRIDES = ("+step=gelu", "budget=smoke", "budget.regularization=1")


def test_augmentation_differs_between_epochs() -> None:
    spec = compose(*OVERRIDES)
    augment = BatchAugment(spec, CPU, augment_images=True)
    first, second = (next(augment.augment_in_chunks(iter(train_batches(spec, 0)), epoch)).images for epoch in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("chunk_images", [1, 40, 2048])
def test_the_size_of_a_chunk_changes_nothing(chunk_images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = compose(*OVERRIDES)
    augment, batches = BatchAugment(spec, CPU, augment_images=True), train_batches(spec, 5)
    one_by_one = [next(augment.augment_in_chunks(iter([batch]), 5)) for batch in batches]
    monkeypatch.setattr(recipe, "CHUNK_IMAGES", chunk_images)
    assert same_batches(list(augment.augment_in_chunks(iter(batches), 5)), one_by_one)
    in_workers = BatchAugment(spec, CPU)  # loader processes have augmented the images
    assert same_batches(list(in_workers.augment_in_chunks(iter(batches), 5)), batches)


def test_only_the_batches_of_a_chunk_are_read_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a whole epoch need not fit into memory."""
    spec = compose(*OVERRIDES)
    unread = iter(train_batches(spec, 0))  # 4 batches of 32 images
    monkeypatch.setattr(recipe, "CHUNK_IMAGES", 40)
    augmented = BatchAugment(spec, CPU, augment_images=True).augment_in_chunks(unread, 0)
    assert len(next(augmented).labels) == 32 and len(list(unread)) == 2


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("padding", [0, 1])
def test_images_are_cropped_and_flipped(flip: int, padding: int) -> None:
    spec = compose("+step=baseline", "budget=smoke", f"data.flip={flip}", f"data.crop_padding={padding}")
    (before, *_), augment = train_batches(spec, 0), BatchAugment(spec, CPU, augment_images=True)
    after = next(augment.augment_in_chunks(iter([before]), 0)).images
    after = after.flip(3) if flip else after
    windows = F.pad(before.images, (padding,) * 4).unfold(2, 8, 1).unfold(3, 8, 1)  # (N,C,down,right,8,8)
    equal = (windows == after[:, :, None, None]).flatten(4).all(4).all(1)  # (N,down,right)
    assert equal.flatten(1).any(1).all()
    assert equal.any(0).all()  # every window was chosen for an image
