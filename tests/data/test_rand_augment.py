"""RandAugment in batches: the operations are PIL's, and their distributions are timm's."""

from __future__ import annotations

import operator
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data import auto_augment
from torch import Tensor

from roadmap.config.compose import compose
from roadmap.config.schema import DataSpec, SpecError
from roadmap.data import datasets, rand_augment
from tests.data.images import UNLIKELY, from_pil, pictures, seeded, to_pil

NOTATION = "rand-m9-mstd0.5-inc1"
LEVELS = [0.0, 0.1, 0.33, 0.5, 0.87, 0.9, 1.0]


def digits() -> Tensor:
    train = datasets.read_digits(DataSpec()).train
    return torch.from_numpy(train.images[:40])[:, None].to(torch.uint8)  # type: ignore[attr-defined]


def timm_name(name: str, increasing: bool = True) -> str:
    name += "Rel" if name.startswith("Translate") else ""
    return name + "Increasing" if increasing and name + "Increasing" in auto_augment.NAME_TO_OP else name


def by_timm(images: Tensor, name: str, level: float, sign: float, patch: pytest.MonkeyPatch, **pil: Any) -> Tensor:
    patch.setattr(auto_augment, "_randomly_negate", partial(operator.mul, sign))
    to_arguments = auto_augment.LEVEL_TO_ARG[name]
    arguments = to_arguments(10 * level, {}) if to_arguments else ()
    return torch.stack([from_pil(auto_augment.NAME_TO_OP[name](to_pil(image), *arguments, **pil)) for image in images])


def differences(images: Tensor, expected: Tensor) -> tuple[int, float]:
    """Return the largest difference in grey levels, and the fraction of pixels that differ."""
    difference = (images.clamp(0, 255).to(torch.uint8).int() - expected.int()).abs()
    return int(difference.max()), float((difference > 0).float().mean())


def assert_point_op_equals_timm(images: Tensor, name: str, increasing: bool, patch: pytest.MonkeyPatch) -> None:
    for level in LEVELS:
        for sign in (-1.0, 1.0):
            argument = rand_augment.point_argument(name, torch.tensor([level]), torch.tensor([sign]), increasing)
            result = rand_augment.POINT_OPS[name](images, argument.expand(len(images))[:, None, None, None])
            expected = by_timm(images, timm_name(name, increasing), level, sign, patch)
            worst, share = differences(result, expected)
            assert worst <= 1 and share < 0.03, (name, level, sign, worst, share)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(rand_augment.POINT_OPS))
def test_point_operations_equal_timm(name: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to one grey level, where float32 rounds the other way."""
    for increasing in (False, True):
        assert_point_op_equals_timm(pictures(channels, 33), name, increasing, monkeypatch)


@pytest.mark.parametrize("name", ["Invert", "Equalize", "Posterize", "Solarize", "SolarizeAdd"])
def test_operations_on_integers_equal_timm_exactly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.cat([pictures(1, 32), pictures(1, 32) // 4 + 100])
    for level in torch.arange(11) / 10:
        argument = rand_augment.point_argument(name, level, torch.tensor(1.0), True)
        result = rand_augment.POINT_OPS[name](images, argument.expand(len(images))[:, None, None, None])
        # timm divides an integer magnitude by ten, as is done here
        expected = by_timm(images, timm_name(name), round(10 * float(level)) / 10, 1.0, monkeypatch)
        assert differences(result, expected) == (0, 0.0), float(level)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("name", list(rand_augment.WARPS))
def test_warps_equal_timm(name: str, interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for images, fill in ((pictures(3, 32), (10, 200, 77)), (pictures(1, 33), (9,)), (digits(), (70,))):
        assert_warp_equals_timm(images, fill, name, interpolation, monkeypatch)


def assert_warp_equals_timm(
    images: Tensor, fill: tuple[int, ...], name: str, interpolation: str, patch: pytest.MonkeyPatch
) -> None:
    pil = {"fillcolor": fill if len(fill) == 3 else fill[0], "resample": Image.Resampling[interpolation.upper()]}
    kind = torch.full((len(images),), list(rand_augment.WARPS).index(name))
    for level in LEVELS:
        for sign in (-1.0, 1.0):
            amount = torch.full((len(images),), level * sign)
            result = rand_augment.warp(images, kind, amount, interpolation, torch.tensor(fill).float())
            worst, share = differences(result, by_timm(images, timm_name(name), level, sign, patch, **pil))
            assert worst <= 1 and share < 0.06, (level, sign, worst, share)


def test_operations_on_fashion_mnist_equal_timm(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = compose("data=fashion_mnist", f"data.root={fashion}")
    train, _ = datasets.load(spec.data, spec.budget)
    images = torch.stack([from_pil(train[i][0]) for i in range(30)])
    for name in rand_augment.POINT_OPS:
        assert_point_op_equals_timm(images, name, True, monkeypatch)
    for name in rand_augment.WARPS:
        assert_warp_equals_timm(images, (73,), name, "bicubic", monkeypatch)


@pytest.mark.parametrize(
    "notation", [NOTATION, "rand", "rand-m5", "rand-n3-m7-mstd0.25", "rand-m12-mmax15-inc0", "rand-m9-mstd101-inc1"]
)
def test_the_notation_is_read_as_timm_reads_it(notation: str) -> None:
    ours, theirs = rand_augment.RandAugment(notation, [0], "bicubic"), auto_augment.rand_augment_transform(notation, {})
    op = theirs.ops[0]
    std = float("inf") if ours.std > 100 else ours.std
    assert (ours.magnitude, std, ours.layers) == (op.magnitude, op.magnitude_std, theirs.num_layers)
    assert ours.limit == (op.magnitude_max or 10)
    names = [timm_name(name, ours.increasing) for name in (*rand_augment.POINT_OPS, *rand_augment.WARPS)]
    assert sorted(names) == sorted(op.name for op in theirs.ops)


@pytest.mark.parametrize("setting", ["w0", "tweights", "p0.5", "m", "mstdx", "m9.5", "", "n0", "inc"])
def test_an_invalid_notation_is_refused(setting: str) -> None:
    with pytest.raises(SpecError, match=rf"^recipe.rand_augment=rand-m9-{setting}: '{setting}' is invalid"):
        rand_augment.RandAugment(f"rand-m9-{setting}", [0], "bicubic")
    with pytest.raises(SpecError, match="^recipe.rand_augment=augmix-m9: is not in timm's notation; write it as"):
        rand_augment.RandAugment("augmix-m9", [0], "bicubic")


@pytest.mark.parametrize("notation", [NOTATION, "rand-m8-n3-mstd2-mmax9", "rand-m6-mstd200"])
def test_operations_and_magnitudes_have_timms_distribution(notation: str) -> None:
    theirs, count = auto_augment.rand_augment_transform(notation, {}), 8000
    drawn: list[tuple[str, float]] = []

    def record(name: str, magnitude: float, _: Any) -> tuple[()]:
        drawn.append((name, magnitude))
        return ()

    for op in theirs.ops:
        op.level_fn = partial(record, op.name.removesuffix("Rel").removesuffix("Increasing"))
        op.aug_fn = Mock(return_value=None)
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
    timm_times = Counter(name for name, _ in drawn)
    assert stats.chi2_contingency([times, [timm_times[name] for name in names]]).pvalue > UNLIKELY
    layers = torch.bincount(applied.sum(0)).tolist()
    assert stats.chi2_contingency([layers, np.bincount(per_image)]).pvalue > UNLIKELY
    magnitudes = (10 * level[applied]).tolist(), [magnitude for _, magnitude in drawn]
    assert stats.ks_2samp(*magnitudes).pvalue > UNLIKELY
    assert max(magnitudes[0]) <= max(*magnitudes[1], 9) + 1e-4
    assert stats.binomtest(int((sign > 0).sum()), sign.numel()).pvalue > UNLIKELY


def test_rand_augment_applies_what_it_draws() -> None:
    images, index = pictures(3, 16, 400), torch.arange(400)
    ours = rand_augment.RandAugment("rand-m9-mstd0.5-n1-inc1", [100, 150, 200], "bicubic")
    result = ours(images, index, seed=3, epoch=1, share=0.6)
    (kind,), (level,), (sign,) = ours.draw(index, 3, 1, 0.6)
    expected = images.clone()
    for i in range(len(images)):
        one = slice(i, i + 1)
        if kind[i] < len(rand_augment.POINT_OPS):
            name = list(rand_augment.POINT_OPS)[int(kind[i])]
            argument = rand_augment.point_argument(name, level[one], sign[one], True)
            expected[i] = rand_augment.POINT_OPS[name](images[one], argument[:, None, None, None]).clamp(0, 255)[0]
        elif kind[i] < rand_augment.IDENTITY:
            amount, fill = level[one] * sign[one], torch.tensor([100.0, 150, 200])
            warped = rand_augment.warp(images[one], kind[one] - len(rand_augment.POINT_OPS), amount, "bicubic", fill)
            expected[i] = warped.clamp(0, 255)[0]
    assert torch.equal(result, expected)
    assert 0.6 < (kind == rand_augment.IDENTITY).float().mean() < 0.8  # 1 - 0.6 / 2
    assert torch.equal(ours(images, index, 3, 1, share=0.0), images)
