"""Augmentation in batches: crop, flip, erasing and mixing equal timm or have its distribution; draws are per image."""

from __future__ import annotations

import dataclasses
import random
from unittest.mock import Mock

import numpy as np
import pytest
import timm.data.mixup
import torch
import torch.nn.functional as F
from scipy import stats
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from roadmap.data import augmentation, rand_augment
from roadmap.runtime.random import derive, uniform
from tests.data.images import UNLIKELY, pictures, seeded


def normalized(count: int, channels: int = 1, size: int = 32) -> Tensor:
    return pictures(channels, size, count).float() / 255


def test_the_augmentation_of_an_image_does_not_depend_on_its_batch() -> None:
    images, index = pictures(3, 24, 60), 1000 + 7 * torch.arange(60)
    ours = rand_augment.RandAugment("rand-m9-mstd0.5-inc1", [100, 150, 200], "bicubic")

    def chain(x: Tensor, index: Tensor) -> Tensor:
        u = uniform(5, index, "crop", 2, count=3)
        x = augmentation.flip(augmentation.crop(x, 3, u[:, :2]), 0.5, u[:, 2])
        return augmentation.random_erase(ours(x, index, 5, 2).float(), 0.5, index, 5, 2)

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    whole = chain(images, index)
    assert not torch.equal(whole, images)
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(chain(images[shuffled], index[shuffled]), whole[shuffled])
    for size in (1, 7, 30):
        parts = [chain(x, i) for x, i in zip(images.split(size), index.split(size), strict=True)]
        assert torch.equal(torch.cat(parts), whole)
    assert states[:2] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    assert torch.equal(states[2], torch.get_rng_state())


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_windows_of_the_padded_image_with_equal_probability(channels: int) -> None:
    count, padding, size = 8100, 4, 8
    images = pictures(channels, size, count) // 2 + 100
    u = uniform(0, torch.arange(count), "crop", 0, count=2)
    result = augmentation.crop(images, padding, u)
    down, right = (u * 9).long().unbind(1)
    padded = F.pad(images, (padding,) * 4)
    for i in range(0, count, 100):
        window = padded[i, :, down[i] : down[i] + size, right[i] : right[i] + size]
        assert torch.equal(result[i], window)
    times = torch.bincount(9 * down + right, minlength=81)
    assert len(times) == 81 and stats.chisquare(times).pvalue > UNLIKELY
    last = torch.full((1, 2), 1 - 2**-24)
    assert torch.equal(augmentation.crop(images[:1], padding, last)[..., :4, :4], images[:1, :, 4:, 4:])
    assert torch.equal(augmentation.crop(images, 0, u), images)


def test_flips_are_left_to_right_with_the_given_probability() -> None:
    images = pictures(3, 8, 4000)
    u = uniform(0, torch.arange(4000), "flip", 0, count=1)[:, 0]
    for probability in (0.0, 0.3, 1.0):
        result = augmentation.flip(images, probability, u)
        flipped = u < probability
        assert torch.equal(result[flipped], images[flipped].flip(3))
        assert torch.equal(result[~flipped], images[~flipped])
        assert stats.binomtest(int(flipped.sum()), 4000, probability).pvalue > UNLIKELY


def boxes(erased: Tensor) -> tuple[Tensor, ...]:
    """Return top, left, height and width of the box of pixels that are not 100."""
    changed = (erased != 100).any(1)
    rows, columns = changed.any(2), changed.any(1)
    return rows.int().argmax(1), columns.int().argmax(1), rows.sum(1), columns.sum(1)


@pytest.mark.parametrize("size", [8, 32])
def test_erasing_has_timms_distribution(size: int) -> None:
    images, index = torch.full((4000, 2, size, size), 100.0), torch.arange(4000)
    result = augmentation.random_erase(images, 1.0, index, seed=0, epoch=0)
    with seeded():
        expected = RandomErasing(1.0, mode="pixel", device="cpu")(images.clone())
    sides = [list(boxes(x)) for x in (result, expected)]
    for ours, theirs in zip(*sides, strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > UNLIKELY
    for combine in (torch.mul, torch.div):
        ours, theirs = (combine(height.double(), width) for _, _, height, width in sides)
        assert stats.ks_2samp(ours, theirs).pvalue > UNLIKELY
    noise = result[result != 100].double()
    assert stats.kstest(noise[::29], "norm").pvalue > UNLIKELY
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    top, left, height, width = (int(side[0]) for side in boxes(result))
    assert (result[0] != 100).sum() == 2 * height * width
    assert (result[0, :, top : top + height, left : left + width] != 100).all()
    assert torch.equal(images, torch.full_like(images, 100))


def test_erasing_has_the_given_probability_and_differs_by_epoch_and_seed() -> None:
    images, index = torch.full((4000, 1, 8, 8), 100.0), torch.arange(4000)
    result = augmentation.random_erase(images, 0.25, index, 0, 0)
    times = int((result != 100).flatten(1).any(1).sum())
    assert stats.binomtest(times, 4000, 0.25).pvalue > UNLIKELY
    assert not torch.equal(result, augmentation.random_erase(images, 0.25, index, 0, 1))
    assert not torch.equal(result, augmentation.random_erase(images, 0.25, index, 1, 0))
    assert augmentation.random_erase(images, 0.0, index, 0, 0) is images
    top, bottom, left, right = augmentation.erased_box(torch.full((1, 22), 0.5), 1, 1)
    assert top == bottom and left == right
    too_tall = torch.full((1, 22), 1 - 2**-24)  # ten candidates with a third of the area and an aspect of 3.3
    top, bottom, left, right = augmentation.erased_box(too_tall, 8, 8)
    assert top == bottom and left == right


MIXES = {"mixup": (0.8, 0.0), "cutmix": (0.0, 1.0), "both": (0.8, 1.0)}


def draws_of(mix: augmentation.Mix, epoch: int, count: int) -> Tensor:
    return mix.draw(24, 32, count, np.random.default_rng(derive(0, "mix", epoch, 0)))


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("alphas", list(MIXES))
def test_mixing_equals_timm(alphas: str, elementwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same draws: images and targets of timm's Mixup, which corrects lambda for the clipped box."""
    mixup, cutmix = MIXES[alphas]
    images, labels = normalized(16)[:, :, :24], torch.arange(16) % 10
    # timm mixes image i with image 15 - i; ours, images 2 i and 2 i + 1.
    order = torch.stack([torch.arange(8), 15 - torch.arange(8)], 1).flatten()
    mix = augmentation.Mix(mixup, cutmix, 0.8, num_classes=10, smoothing=0.1, elementwise=elementwise)
    mode, unmixed, cuts = "elem" if elementwise else "batch", 0, 0
    for epoch in range(20):
        drawn = draws_of(mix, epoch, 16 if elementwise else 1)
        kept, top, bottom, left, right = (drawn[:, order.argsort()] if elementwise else drawn).double().numpy()
        cut, touched = kept == 0, kept < 1
        unmixed, cuts = unmixed + int((~touched).sum()), cuts + int(cut.sum())
        lam = np.where(cut, 0.5, kept).astype(np.float32)  # for CutMix, timm only checks whether it is 1
        theirs = timm.data.mixup.Mixup(mixup, cutmix, mode=mode, label_smoothing=0.1, num_classes=10)
        draws = [(float(lam[0]), bool(cut[0])), (lam, cut)]
        boxes = np.stack([top, bottom, left, right], 1)[cut].astype(int).tolist()
        monkeypatch.setattr(theirs, "_params_per_batch", Mock(return_value=draws[0]))
        monkeypatch.setattr(theirs, "_params_per_elem", Mock(return_value=draws[1]))
        monkeypatch.setattr(timm.data.mixup, "rand_bbox", Mock(side_effect=boxes))
        expected, expected_targets = theirs(images.clone(), labels)
        result, targets = mix(images[order], labels[order], seed=0, epoch=epoch, iteration=0)
        torch.testing.assert_close(result, expected[order], rtol=0, atol=1e-6)
        torch.testing.assert_close(targets, expected_targets[order].float(), rtol=0, atol=1e-6)
    assert unmixed > 0 and (cuts > 0) == (cutmix > 0)


@pytest.mark.parametrize("alphas", list(MIXES))
def test_lambdas_and_boxes_have_timms_distribution(alphas: str) -> None:
    mixup, cutmix = MIXES[alphas]
    count, shape = 4000, (1, 24, 32)
    mix = augmentation.Mix(mixup, cutmix, 0.7, num_classes=10, smoothing=0.1, elementwise=True)
    kept, *box = (row.numpy() for row in mix.draw(24, 32, count, np.random.default_rng(1)))
    theirs = timm.data.mixup.Mixup(mixup, cutmix, prob=0.7, mode="elem")
    with seeded():
        lam, cut = theirs._params_per_elem(count)
        cut &= lam < 1
        their_boxes = np.array([timm.data.mixup.rand_bbox(shape, value) for value in lam[cut]]).reshape(-1, 4)
    our_cut = kept == 0
    mixed, our_mixed = ~cut & (lam < 1), ~our_cut & (kept < 1)
    for ours, other in ((our_cut.sum(), cut.sum()), (our_mixed.sum(), mixed.sum())):
        assert stats.fisher_exact([[ours, count - ours], [other, count - other]]).pvalue > UNLIKELY
    if mixup:
        assert stats.ks_2samp(kept[our_mixed], lam[mixed]).pvalue > UNLIKELY
    if cutmix:
        for side, their_side in zip(box, their_boxes.T, strict=True):
            assert stats.ks_2samp(side[our_cut], their_side).pvalue > UNLIKELY
        areas = (box[1] - box[0]) * (box[3] - box[2])
        their_areas = (their_boxes[:, 1] - their_boxes[:, 0]) * (their_boxes[:, 3] - their_boxes[:, 2])
        assert stats.ks_2samp(areas[our_cut], their_areas).pvalue > UNLIKELY


@pytest.mark.parametrize("elementwise", [False, True])
def test_pairs_of_a_batch_mix_like_the_whole_batch(elementwise: bool) -> None:
    images, labels = normalized(16, channels=3), torch.arange(16) % 10
    mix = augmentation.Mix(0.8, 1.0, 0.9, num_classes=10, smoothing=0.1, elementwise=elementwise, group_size=6)
    for iteration in range(6):
        whole, targets = mix(images, labels, 0, 1, iteration)
        for part in ([0, 1, 14, 15], [2, 3, 4, 5, 8, 9], [6, 7, 10, 11, 12, 13]):
            positions = torch.tensor(part)
            result = mix(images[positions], labels[positions], 0, 1, iteration, positions, batch_size=16)
            assert torch.equal(result[0], whole[positions]) and torch.equal(result[1], targets[positions])


def test_an_image_without_its_partner_stays() -> None:
    """Where an unreadable image was left out."""
    images, labels = normalized(4), torch.arange(4)
    mix = augmentation.Mix(0.8, 0.0, 1.0, num_classes=10, smoothing=0.0)
    whole, _ = mix(images, labels, 0, 0, 0)
    present = torch.tensor([0, 2, 3])
    result, targets = mix(images[present], labels[present], 0, 0, 0, present, batch_size=4)
    torch.testing.assert_close(result[0], images[0])
    torch.testing.assert_close(targets[0], F.one_hot(labels[0], 10).float())
    assert torch.equal(result[1:], whole[2:]) and not torch.equal(whole[0], images[0])


def test_each_group_of_a_batch_has_a_draw_of_its_own() -> None:
    """As in the official runs, in which each process draws for its 128 images."""
    labels = torch.arange(512) % 2  # every pair has both labels
    mix = augmentation.Mix(0.8, 0.0, 1.0, num_classes=2, smoothing=0.0, group_size=128)
    _, targets = mix(normalized(8).repeat(64, 1, 1, 1), labels, 0, 0, 0)
    kept = targets.gather(1, labels[:, None]).view(4, 128)
    assert all(len(group.unique()) == 1 for group in kept) and len(kept.unique()) == 4
    _, targets = dataclasses.replace(mix, group_size=None)(normalized(8).repeat(64, 1, 1, 1), labels, 0, 0, 0)
    assert len(targets.gather(1, labels[:, None]).unique()) == 1


def test_mixing_depends_on_seed_epoch_and_iteration_and_can_be_off() -> None:
    images, labels = normalized(8), torch.arange(8)
    mix = augmentation.Mix(0.8, 1.0, 1.0, num_classes=10, smoothing=0.1)
    result = mix(images, labels, 0, 0, 0)[1]
    assert torch.equal(result, mix(images, labels, 0, 0, 0)[1])
    for other in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):
        assert not torch.equal(result, mix(images, labels, *other)[1])
    off = augmentation.Mix(0.8, 1.0, 0.0, num_classes=10, smoothing=0.2)
    same, targets = off(images, labels, 0, 0, 0)
    assert same is images
    torch.testing.assert_close(targets, 0.8 * F.one_hot(labels, 10) + 0.02)
