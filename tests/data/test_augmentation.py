"""Augmentation in batches: the operations are PIL's, the distributions timm's, and each image's draws its own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data.mixup
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats
from timm.data import auto_augment
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from roadmap.config.compose import compose
from roadmap.config.schema import SpecError
from roadmap.data import augmentation, datasets, rand_augment
from roadmap.runtime.random import derive, seed_all, uniform

NOTATION = "rand-m9-mstd0.5-inc1"
UNLIKELY = 1e-4  # p-values below this fail; the seeds are fixed
LEVELS = [0.0, 0.1, 0.33, 0.5, 0.87, 0.9, 1.0]


def pictures(channels: int, size: int, count: int = 12) -> Tensor:
    """Half of them noise, half smooth, one black."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (count // 2, channels, size, size), generator=generator)
    coarse = 255 * torch.rand(count // 2, channels, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear")
    smooth[-1] = 0
    return torch.cat([noise, smooth]).to(torch.uint8)


def digits() -> Tensor:
    return torch.from_numpy(datasets.digits().train.images[:40])[:, None].to(torch.uint8)  # type: ignore[attr-defined]


@contextmanager
def seeded() -> Iterator[None]:
    """For timm, which draws from the global generators; afterwards they are as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())


def from_pil(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def timms_name(name: str, increasing: bool = True) -> str:
    name += "Rel" if name.startswith("Translate") else ""
    return name + "Increasing" if increasing and name + "Increasing" in auto_augment.NAME_TO_OP else name


def by_timm(images: Tensor, name: str, level: float, sign: float, patch: pytest.MonkeyPatch, **pil: Any) -> Tensor:
    patch.setattr(auto_augment, "_randomly_negate", lambda v: sign * v)
    to_arguments = auto_augment.LEVEL_TO_ARG[name]
    arguments = to_arguments(10 * level, {}) if to_arguments else ()
    return torch.stack([from_pil(auto_augment.NAME_TO_OP[name](to_pil(image), *arguments, **pil)) for image in images])


def differences(found: Tensor, wanted: Tensor) -> tuple[int, float]:
    """The largest, in grey levels, and the share of pixels that differ at all."""
    apart = (found.clamp(0, 255).to(torch.uint8).int() - wanted.int()).abs()
    return int(apart.max()), float((apart > 0).float().mean())


def assert_point_op_is_timms(images: Tensor, name: str, increasing: bool, patch: pytest.MonkeyPatch) -> None:
    for level in LEVELS:
        for sign in (-1.0, 1.0):
            argument = rand_augment.point_argument(name, torch.tensor([level]), torch.tensor([sign]), increasing)
            found = rand_augment.POINT_OPS[name](images, argument.expand(len(images))[:, None, None, None])
            wanted = by_timm(images, timms_name(name, increasing), level, sign, patch)
            worst, share = differences(found, wanted)
            assert worst <= 1 and share < 0.03, (name, level, sign, worst, share)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(rand_augment.POINT_OPS))
def test_point_operations_are_timms(name: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a grey level where float32 rounds to the other side."""
    for increasing in (False, True):
        assert_point_op_is_timms(pictures(channels, 33), name, increasing, monkeypatch)


@pytest.mark.parametrize("name", ["Invert", "Equalize", "Posterize", "Solarize", "SolarizeAdd"])
def test_operations_on_whole_numbers_are_exactly_timms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.cat([pictures(1, 32), pictures(1, 32) // 4 + 100])
    for level in torch.arange(11) / 10:
        argument = rand_augment.point_argument(name, level, torch.tensor(1.0), True)
        found = rand_augment.POINT_OPS[name](images, argument.expand(len(images))[:, None, None, None])
        # timm divides a whole magnitude by ten, as here
        wanted = by_timm(images, timms_name(name), round(10 * float(level)) / 10, 1.0, monkeypatch)
        assert differences(found, wanted) == (0, 0.0), float(level)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("name", list(rand_augment.WARPS))
def test_warps_are_timms(name: str, interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for images, fill in ((pictures(3, 32), (10, 200, 77)), (pictures(1, 33), (9,)), (digits(), (70,))):
        assert_warp_is_timms(images, fill, name, interpolation, monkeypatch)


def assert_warp_is_timms(
    images: Tensor, fill: tuple[int, ...], name: str, interpolation: str, patch: pytest.MonkeyPatch
) -> None:
    pil = {"fillcolor": fill if len(fill) == 3 else fill[0], "resample": Image.Resampling[interpolation.upper()]}
    kind = torch.full((len(images),), list(rand_augment.WARPS).index(name))
    for level in LEVELS:
        for sign in (-1.0, 1.0):
            amount = torch.full((len(images),), level * sign)
            found = rand_augment.warp(images, kind, amount, interpolation, torch.tensor(fill).float())
            worst, share = differences(found, by_timm(images, timms_name(name), level, sign, patch, **pil))
            assert worst <= 1 and share < 0.06, (level, sign, worst, share)


def test_operations_on_fashion_mnist(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = compose("data=fashion_mnist", f"data.root={fashion}")
    train, _ = datasets.load(spec.data, spec.budget)
    images = torch.stack([from_pil(train[i][0]) for i in range(30)])
    for name in rand_augment.POINT_OPS:
        assert_point_op_is_timms(images, name, True, monkeypatch)
    for name in rand_augment.WARPS:
        assert_warp_is_timms(images, (73,), name, "bicubic", monkeypatch)


@pytest.mark.parametrize(
    "notation", [NOTATION, "rand", "rand-m5", "rand-n3-m7-mstd0.25", "rand-m12-mmax15-inc0", "rand-m9-mstd101-inc1"]
)
def test_the_notation_is_timms(notation: str) -> None:
    ours, theirs = rand_augment.RandAugment(notation, [0], "bicubic"), auto_augment.rand_augment_transform(notation, {})
    op = theirs.ops[0]
    std = float("inf") if ours.std > 100 else ours.std
    assert (ours.magnitude, std, ours.layers) == (op.magnitude, op.magnitude_std, theirs.num_layers)
    assert ours.limit == (op.magnitude_max or 10)
    names = [timms_name(name, ours.increasing) for name in (*rand_augment.POINT_OPS, *rand_augment.WARPS)]
    assert sorted(names) == sorted(op.name for op in theirs.ops)


@pytest.mark.parametrize("word", ["w0", "tweights", "p0.5", "m", "mstdx", "m9.5", "", "n0", "inc"])
def test_other_notations_are_named(word: str) -> None:
    with pytest.raises(SpecError, match=rf"^recipe.rand_augment=rand-m9-{word}: '{word}' is not"):
        rand_augment.RandAugment(f"rand-m9-{word}", [0], "bicubic")
    with pytest.raises(SpecError, match="^recipe.rand_augment=augmix-m9: write it as"):
        rand_augment.RandAugment("augmix-m9", [0], "bicubic")


@pytest.mark.parametrize("notation", [NOTATION, "rand-m8-n3-mstd2-mmax9", "rand-m6-mstd200"])
def test_operations_and_magnitudes_are_drawn_as_timm_draws_them(notation: str) -> None:
    theirs, count = auto_augment.rand_augment_transform(notation, {}), 8000
    drawn: list[tuple[str, float]] = []

    def record(name: str) -> Callable[..., Any]:
        return lambda magnitude, _: drawn.append((name, magnitude)) or ()  # type: ignore[func-returns-value]

    for op in theirs.ops:
        op.level_fn = record(op.name.removesuffix("Rel").removesuffix("Increasing"))
        op.aug_fn = lambda image, **_: image
    per_image = []
    with seeded():
        for _ in range(count):
            before = len(drawn)
            theirs(None)
            per_image.append(len(drawn) - before)

    kind, level, sign = rand_augment.RandAugment(notation, [0], "bicubic").draw(torch.arange(count), 0, 0, 1.0)
    applied = kind < rand_augment.IDENTITY
    names = [*rand_augment.POINT_OPS, *rand_augment.WARPS]
    times = torch.bincount(kind[applied], minlength=rand_augment.IDENTITY).tolist()
    theirs_times = Counter(name for name, _ in drawn)
    assert stats.chi2_contingency([times, [theirs_times[name] for name in names]]).pvalue > UNLIKELY
    layers = torch.bincount(applied.sum(0)).tolist()
    assert stats.chi2_contingency([layers, np.bincount(per_image)]).pvalue > UNLIKELY
    magnitudes = (10 * level[applied]).tolist(), [magnitude for _, magnitude in drawn]
    assert stats.ks_2samp(*magnitudes).pvalue > UNLIKELY
    assert max(magnitudes[0]) <= max(*magnitudes[1], 9) + 1e-4
    assert stats.binomtest(int((sign > 0).sum()), sign.numel()).pvalue > UNLIKELY


def test_rand_augment_applies_what_it_draws() -> None:
    images, index = pictures(3, 16, 400), torch.arange(400)
    ours = rand_augment.RandAugment("rand-m9-mstd0.5-n1-inc1", [100, 150, 200], "bicubic")
    found = ours(images, index, seed=3, epoch=1, share=0.6)
    (kind,), (level,), (sign,) = ours.draw(index, 3, 1, 0.6)
    wanted = images.clone()
    for i in range(len(images)):
        one = slice(i, i + 1)
        if kind[i] < len(rand_augment.POINT_OPS):
            name = list(rand_augment.POINT_OPS)[int(kind[i])]
            argument = rand_augment.point_argument(name, level[one], sign[one], True)
            wanted[i] = rand_augment.POINT_OPS[name](images[one], argument[:, None, None, None]).clamp(0, 255)[0]
        elif kind[i] < rand_augment.IDENTITY:
            amount, fill = level[one] * sign[one], torch.tensor([100.0, 150, 200])
            warped = rand_augment.warp(images[one], kind[one] - len(rand_augment.POINT_OPS), amount, "bicubic", fill)
            wanted[i] = warped.clamp(0, 255)[0]
    assert torch.equal(found, wanted)
    assert 0.6 < (kind == rand_augment.IDENTITY).float().mean() < 0.8  # 1 - 0.6 / 2
    assert torch.equal(ours(images, index, 3, 1, share=0.0), images)


def normalized(count: int, channels: int = 1, size: int = 32) -> Tensor:
    return pictures(channels, size, count).float() / 255


def test_what_an_image_gets_does_not_depend_on_its_batch() -> None:
    images, index = pictures(3, 24, 60), 1000 + 7 * torch.arange(60)
    ours = rand_augment.RandAugment(NOTATION, [100, 150, 200], "bicubic")

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
def test_crops_are_windows_of_the_padded_image_all_alike(channels: int) -> None:
    count, padding, size = 8100, 4, 8
    images = pictures(channels, size, count) // 2 + 100
    u = uniform(0, torch.arange(count), "crop", 0, count=2)
    found = augmentation.crop(images, padding, u)
    down, right = (u * 9).long().unbind(1)
    padded = F.pad(images, (padding,) * 4)
    for i in range(0, count, 100):
        window = padded[i, :, down[i] : down[i] + size, right[i] : right[i] + size]
        assert torch.equal(found[i], window)
    times = torch.bincount(9 * down + right, minlength=81)
    assert len(times) == 81 and stats.chisquare(times).pvalue > UNLIKELY
    last = torch.full((1, 2), 1 - 2**-24)
    assert torch.equal(augmentation.crop(images[:1], padding, last)[..., :4, :4], images[:1, :, 4:, 4:])
    assert torch.equal(augmentation.crop(images, 0, u), images)


def test_flips_are_left_to_right_and_as_often_as_asked() -> None:
    images = pictures(3, 8, 4000)
    u = uniform(0, torch.arange(4000), "flip", 0, count=1)[:, 0]
    for probability in (0.0, 0.3, 1.0):
        found = augmentation.flip(images, probability, u)
        flipped = u < probability
        assert torch.equal(found[flipped], images[flipped].flip(3))
        assert torch.equal(found[~flipped], images[~flipped])
        assert stats.binomtest(int(flipped.sum()), 4000, probability).pvalue > UNLIKELY


def boxes(erased: Tensor) -> tuple[Tensor, ...]:
    """Top, left, height and width of what is not 100."""
    changed = (erased != 100).any(1)
    rows, columns = changed.any(2), changed.any(1)
    return rows.int().argmax(1), columns.int().argmax(1), rows.sum(1), columns.sum(1)


@pytest.mark.parametrize("size", [8, 32])
def test_erasing_is_timms(size: int) -> None:
    images, index = torch.full((4000, 2, size, size), 100.0), torch.arange(4000)
    found = augmentation.random_erase(images, 1.0, index, seed=0, epoch=0)
    with seeded():
        wanted = RandomErasing(1.0, mode="pixel", device="cpu")(images.clone())
    sides = [list(boxes(x)) for x in (found, wanted)]
    for ours, theirs in zip(*sides, strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > UNLIKELY
    for combine in (torch.mul, torch.div):
        ours, theirs = (combine(height.double(), width) for _, _, height, width in sides)
        assert stats.ks_2samp(ours, theirs).pvalue > UNLIKELY
    noise = found[found != 100].double()
    assert stats.kstest(noise[::29], "norm").pvalue > UNLIKELY
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    top, left, height, width = (int(side[0]) for side in boxes(found))
    assert (found[0] != 100).sum() == 2 * height * width
    assert (found[0, :, top : top + height, left : left + width] != 100).all()
    assert torch.equal(images, torch.full_like(images, 100))


def test_erasing_is_as_frequent_as_asked_and_differs_by_image_and_epoch() -> None:
    images, index = torch.full((4000, 1, 8, 8), 100.0), torch.arange(4000)
    found = augmentation.random_erase(images, 0.25, index, 0, 0)
    times = int((found != 100).flatten(1).any(1).sum())
    assert stats.binomtest(times, 4000, 0.25).pvalue > UNLIKELY
    assert not torch.equal(found, augmentation.random_erase(images, 0.25, index, 0, 1))
    assert not torch.equal(found, augmentation.random_erase(images, 0.25, index, 1, 0))
    assert augmentation.random_erase(images, 0.0, index, 0, 0) is images
    top, bottom, left, right = augmentation.erased_box(torch.full((1, 22), 0.5), 1, 1)
    assert top == bottom and left == right


MIXES = {"mixup": (0.8, 0.0), "cutmix": (0.0, 1.0), "both": (0.8, 1.0)}


def drawn_for(mix: augmentation.Mix, epoch: int, count: int) -> Tensor:
    return mix.draw(24, 32, count, np.random.default_rng(derive(0, "mix", epoch, 0)))


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("alphas", list(MIXES))
def test_mixing_is_timms(alphas: str, elementwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the same draws: images and targets of timm's Mixup, which corrects lambda for the clipped box."""
    mixup, cutmix = MIXES[alphas]
    images, labels = normalized(16)[:, :, :24], torch.arange(16) % 10
    mix = augmentation.Mix(mixup, cutmix, 0.8, num_classes=10, smoothing=0.1, elementwise=elementwise)
    mode, unmixed, cuts = "elem" if elementwise else "batch", 0, 0
    for epoch in range(20):
        kept, top, bottom, left, right = drawn_for(mix, epoch, 16 if elementwise else 1).double().numpy()
        cut, touched = kept == 0, kept < 1
        unmixed, cuts = unmixed + int((~touched).sum()), cuts + int(cut.sum())
        lam = np.where(cut, 0.5, kept)  # of a cut, timm only asks whether it is 1
        given = iter(np.stack([top, bottom, left, right], 1)[cut].astype(int).tolist())
        monkeypatch.setattr(timm.data.mixup, "rand_bbox", lambda *_, given=given, **__: tuple(next(given)))
        theirs = timm.data.mixup.Mixup(mixup, cutmix, mode=mode, label_smoothing=0.1, num_classes=10)
        theirs._params_per_batch = lambda lam=lam, cut=cut: (float(lam[0]), bool(cut[0]))
        theirs._params_per_elem = lambda _, lam=lam, cut=cut: (lam.astype(np.float32), cut)
        wanted, wanted_targets = theirs(images.clone(), labels)
        found, targets = mix(images, labels, seed=0, epoch=epoch, step=0)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(targets, wanted_targets.float(), rtol=0, atol=1e-6)
    assert unmixed > 0 and (cuts > 0) == (cutmix > 0)


@pytest.mark.parametrize("alphas", list(MIXES))
def test_lambdas_and_boxes_are_drawn_as_timm_draws_them(alphas: str) -> None:
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
def test_processes_with_symmetric_parts_mix_as_one(elementwise: bool) -> None:
    images, labels = normalized(16, channels=3), torch.arange(16) % 10
    mix = augmentation.Mix(0.8, 1.0, 0.9, num_classes=10, smoothing=0.1, elementwise=elementwise)
    for step in range(6):
        whole, targets = mix(images, labels, 0, 1, step)
        for part in ([0, 1, 14, 15], [2, 5, 7, 8, 10, 13], [3, 4, 6, 9, 11, 12]):
            positions = torch.tensor(part)
            found = mix(images[positions], labels[positions], 0, 1, step, positions, batch_size=16)
            assert torch.equal(found[0], whole[positions]) and torch.equal(found[1], targets[positions])
    with pytest.raises(ValueError, match="do not pair"):
        mix(images[:4], labels[:4], 0, 1, 0, torch.arange(4), batch_size=16)


def test_mixing_depends_on_epoch_and_step_and_can_be_off() -> None:
    images, labels = normalized(8), torch.arange(8)
    mix = augmentation.Mix(0.8, 1.0, 1.0, num_classes=10, smoothing=0.1)
    found = mix(images, labels, 0, 0, 0)[1]
    assert torch.equal(found, mix(images, labels, 0, 0, 0)[1])
    for other in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):
        assert not torch.equal(found, mix(images, labels, *other)[1])
    off = augmentation.Mix(0.8, 1.0, 0.0, num_classes=10, smoothing=0.2)
    same, targets = off(images, labels, 0, 0, 0)
    assert same is images
    torch.testing.assert_close(targets, 0.8 * F.one_hot(labels, 10) + 0.02)
