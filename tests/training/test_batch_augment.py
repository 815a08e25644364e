"""Augmentation of whole batches before an iteration: chunks of batches change no draw, and epochs differ."""

from __future__ import annotations

import pytest
import torch

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
