"""Common corruptions: what each one does to an image, and draws that do not depend on the batch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from roadmap.evaluation import corruptions
from roadmap.evaluation.corruptions import CORRUPTIONS, SEVERITIES, Draws, corrupt
from roadmap.evaluation.filters import blur_line, filter_each, gaussian, zoom

INDICES = torch.arange(6)


def images(side: int, channels: int = 3) -> Tensor:
    """Return six smooth images with values from 30 to 225."""
    noise = torch.rand(6, channels, side, side, generator=torch.Generator().manual_seed(0))
    smooth = gaussian(noise, side / 8)
    low, high = smooth.amin((1, 2, 3), keepdim=True), smooth.amax((1, 2, 3), keepdim=True)
    return (30 + 195 * (smooth - low) / (high - low)).round().to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 32, pytest.param(96, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_reproducible_and_does_not_depend_on_the_batch(name: str, side: int, channels: int) -> None:
    x = images(side, channels)
    before = x.clone()
    for severity in SEVERITIES:
        corrupted = corrupt(x, name, severity, INDICES)
        assert corrupted.shape == x.shape and corrupted.dtype == torch.uint8
        assert torch.equal(corrupt(x[2:4], name, severity, INDICES[2:4]), corrupted[2:4])
        assert torch.equal(x, before)


@pytest.mark.parametrize(
    "name", [name for name in CORRUPTIONS if name not in ("elastic_transform", "pixelate", "glass_blur")]
)
@pytest.mark.parametrize("side", [32, 96])
def test_severities_are_ordered(name: str, side: int) -> None:
    """Not of the excluded ones, whose authors trade one kind of distortion for another."""
    x = images(side)
    distances = [(corrupt(x, name, severity, INDICES).float() - x).abs().mean().item() for severity in SEVERITIES]
    assert 0 < distances[0] < distances[-1]
    assert all(after > 0.8 * before for before, after in pairwise(distances)), distances


def test_noise_has_the_statistics_of_its_definition() -> None:
    grey = torch.full((4, 3, 64, 64), 0.5)
    draws = Draws("x", 1, torch.arange(4))
    assert (corruptions.gaussian_noise(grey, 0.1, draws) - 0.5).std().item() == pytest.approx(0.1, rel=0.05)
    shot = corruptions.shot_noise(grey, 60, draws)
    assert shot.mean().item() == pytest.approx(0.5, rel=0.01)
    assert shot.var().item() == pytest.approx(0.5 / 60, rel=0.05)  # of a Poisson number, divided by the photons
    impulses = corruptions.impulse_noise(grey, 0.1, draws)
    assert (impulses == 0).float().mean().item() == pytest.approx(0.05, rel=0.1)
    assert (impulses == 1).float().mean().item() == pytest.approx(0.05, rel=0.1)


def test_brightness_and_contrast_follow_their_formulas() -> None:
    x = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    draws = Draws("x", 1, torch.arange(1))
    brighter = corruptions.brightness(x, 0.3, draws)[0, :, 0, 0]
    assert brighter.tolist() == pytest.approx([0.3, 0.6, 0.9])  # value 0.6 -> 0.9, hue and saturation stay
    assert corruptions.brightness(x * 0, 0.3, draws).unique().tolist() == pytest.approx([0.3])
    image = torch.tensor([[0.0, 1.0], [0.5, 0.5]]).view(1, 1, 2, 2)
    assert corruptions.contrast(image, 0.4, draws).flatten().tolist() == pytest.approx([0.3, 0.7, 0.5, 0.5])


def test_blurs_keep_the_sum_of_a_point_and_spread_it() -> None:
    point = torch.zeros(1, 1, 65, 65)
    point[0, 0, 32, 32] = 1
    draws = Draws("x", 1, torch.arange(1))
    for blurred in (
        gaussian(point, 3.0),
        corruptions.defocus_blur(point, (3, 0.1), draws),
        blur_line(point, 10, 3.0, torch.tensor([30.0])),
    ):
        assert blurred.sum().item() == pytest.approx(1, abs=1e-4) and blurred.max() < 0.3
    rows, columns = np.nonzero(corruptions.defocus_blur(point, (3, 0.1), draws)[0, 0].numpy() > 1e-3)
    assert np.hypot(rows - 32, columns - 32).max() <= 3.01
    spread = gaussian(point, 3.0)[0, 0]
    offsets = torch.arange(65) - 32
    assert (spread.sum(0) * offsets**2).sum().item() == pytest.approx(9, rel=0.02)  # variance in pixels


def test_motion_is_along_its_line() -> None:
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1
    horizontal = blur_line(point, 5, 3.0, torch.tensor([0.0]))[0, 0]
    assert horizontal[16].sum().item() == pytest.approx(1, abs=1e-5)
    assert int((horizontal > 0).sum()) == 11  # one side of the line: 2 * 5 + 1 pixels
    vertical = blur_line(point, 5, 3.0, torch.tensor([-90.0]))[0, 0]
    assert vertical[:, 16].sum().item() == pytest.approx(1, abs=1e-5)


def test_zoom_keeps_the_centre_and_a_filter_of_one_pixel_keeps_all() -> None:
    x = images(33).float()
    assert torch.equal(zoom(x, 1.0), x)
    assert zoom(x, 1.5).shape == x.shape
    identity = torch.zeros(6, 5, 5)
    identity[:, 2, 2] = 1
    assert torch.equal(filter_each(x, identity), x)


def test_pixelate_makes_blocks() -> None:
    x = images(32).float() / 255
    blocks = corruptions.pixelate(x, 0.25, Draws("x", 1, INDICES))
    assert torch.equal(blocks[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3), blocks)
    assert torch.allclose(blocks[:, :, ::4, ::4], torch.nn.functional.avg_pool2d(x, 4), atol=1e-6)
