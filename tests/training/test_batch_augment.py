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
def test_the_size_of_a_chunk_changes_nothing(chunk_images: int) -> None:
    spec = compose(*OVERRIDES)
    augment, batches = BatchAugment(spec, CPU, augment_images=True), train_batches(spec, 5)
    one_by_one = [next(augment.augment_in_chunks(iter([batch]), 5)) for batch in batches]
    augment.chunk_images = chunk_images
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
    windows = augment.normalize(windows.flatten(2, 3)).view_as(windows)
    equal = (windows == after[:, :, None, None]).flatten(4).all(4).all(1)  # (N,down,right)
    assert equal.flatten(1).any(1).all()
    assert equal.any(0).all()  # every window was chosen for an image


def test_images_are_erased_with_their_chunk_as_they_would_be_in_their_batch() -> None:
    spec = compose(*OVERRIDES, "data.flip=0", "data.crop_padding=0", "recipe.rand_augment=null", "recipe.mixup=0")
    spec.recipe.cutmix, batches = 0.0, train_batches(spec, 0)
    in_chunks, in_batches = BatchAugment(spec, CPU, augment_images=True), BatchAugment(spec, CPU)
    erased = [in_chunks(batch, 0, 0, 32)[0] for batch in in_chunks.augment_in_chunks(iter(batches), 0)]
    assert all(torch.equal(a, in_batches(batch, 0, 0, 32)[0]) for a, batch in zip(erased, batches, strict=True))
    assert not torch.equal(erased[0], in_batches.normalize(batches[0].images))


def test_a_gpu_augments_more_images_at_once_as_far_as_its_memory_allows() -> None:
    small, large = compose(*OVERRIDES), compose(*OVERRIDES, "data.image_size=128", "data.in_chans=3")
    device = torch.device("meta")  # not a processor
    assert BatchAugment(small, CPU, augment_images=True).chunk_images == 2048
    assert BatchAugment(small, device, augment_images=True).chunk_images == 8192
    assert BatchAugment(large, device, augment_images=True).chunk_images == 2**28 // (4 * 3 * 128 * 128)
