"""Test images for the augmentation tests, and what compares a distribution with timm's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from roadmap.runtime.random import seed_all

UNLIKELY = 1e-4  # a test fails for p-values below; the seeds are fixed


def pictures(channels: int, size: int, count: int = 12) -> Tensor:
    """Return uint8 images (count, channels, size, size): half of them noise, half smooth, the last one black."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (count // 2, channels, size, size), generator=generator)
    coarse = 255 * torch.rand(count // 2, channels, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear")
    smooth[-1] = 0
    return torch.cat([noise, smooth]).to(torch.uint8)


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())


def from_pil(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


@contextmanager
def seeded() -> Iterator[None]:
    """Seed the global generators, from which timm draws, and restore their states afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
