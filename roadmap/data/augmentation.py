"""Augmentation of a whole batch of images on their own device: crop, flip, RandAugment, erasing, Mixup and CutMix.

What an image gets is a function of (seed, epoch, its index in the dataset), or for `Mix` of (seed, epoch, step, its
position in the batch): the same however a batch is composed or split over processes. No global generator is touched.
The operations and their distributions are those of timm and torchvision, which work on one PIL image after the other.

`index` (N,) int64 may stay on the CPU: then the choices are made there, and a GPU need not be waited for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from roadmap.runtime.random import derive, uniform


def crop(images: Tensor, padding: int, u: Tensor) -> Tensor:
    """A window of the images' own size out of the images with a black border of `padding` pixels.

    images (N,C,H,W), u (N,2) from [0, 1) for the offsets down and to the right. As torchvision's RandomCrop.
    """
    height, width = images.shape[2:]
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = to_device_of(images, choose(u, 2 * padding + 1)).unbind(1)
    return windows[torch.arange(len(images), device=images.device), :, down, right]


def flip(images: Tensor, probability: float, u: Tensor) -> Tensor:
    """Swap left and right where u (N,) < probability."""
    return torch.where(to_device_of(images, u < probability)[:, None, None, None], images.flip(3), images)


def random_erase(images: Tensor, probability: float, index: Tensor, seed: int, epoch: int) -> Tensor:
    """Put standard normal noise into a box of some of the normalized images (N,C,H,W).

    Random erasing (Zhong et al. 2020) as timm's, mode "pixel".
    """
    u = uniform(seed, index, "erase", epoch, count=1 + 22)
    rows = (u[:, 0] < probability).nonzero().squeeze(1)
    if len(rows) == 0:
        return images
    box = erased_box(u[rows, 1:], *images.shape[2:])
    index, rows, box = (to_device_of(images, x) for x in (index[rows], rows, box))
    noise = standard_normal(uniform(seed, index, "noise", epoch, count=images[0].numel())).view(-1, *images.shape[1:])
    images = images.clone()
    images[rows] = torch.where(inside_box(box, *images.shape[2:]), noise.to(images.dtype), images[rows])
    return images


def erased_box(u: Tensor, height: int, width: int) -> Tensor:
    """Top, bottom, left, right (4,n): area 2 % to a third of the image, aspect 0.3 to 3.3. u (n,22) from [0, 1).

    The first of ten candidates that is lower and narrower than the image; an empty box if none is.
    """
    area = height * width * (0.02 + (1 / 3 - 0.02) * u[:, :10])
    aspect = torch.exp(math.log(0.3) * (1 - 2 * u[:, 10:20]))
    tall, wide = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (tall < height) & (wide < width)
    first = fits.int().argmax(1, keepdim=True)
    tall, wide = ((side * fits).gather(1, first).squeeze(1) for side in (tall, wide))
    top, left = choose(u[:, 20], height - tall + 1), choose(u[:, 21], width - wide + 1)
    return torch.stack([top, top + tall, left, left + wide])


@dataclass(frozen=True)
class Mix:
    """timm's Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): each image with the one as far from the other end.

    `mixup` and `cutmix` are Beta's alpha, 0: off; with both on, even odds. `elementwise`: a draw for each image, of
    which a share `probability` is mixed; else one draw for the whole batch, and this is the share of batches.
    """

    mixup: float
    cutmix: float
    probability: float
    num_classes: int
    smoothing: float
    elementwise: bool = False

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        seed: int,
        epoch: int,
        step: int,
        positions: Tensor | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Float images (N,C,H,W) and labels (N,) -> mixed images and smoothed distributions (N,K).

        A process that holds a part of a batch of `batch_size` says with `positions` (N,) int64, on the CPU, which. The
        part has to be symmetric and in such an order that first and last, second and last but one, ... are pairs
        (i, batch_size - 1 - i), as [0, 1, B-2, B-1]; then it gets just what the whole batch would give it.
        """
        batch_size = batch_size or len(images)
        height, width = images.shape[2:]
        rng = np.random.default_rng(derive(seed, "mix", epoch, step))
        drawn = self.draw(height, width, batch_size if self.elementwise else 1, rng)
        if positions is not None:
            if not (positions + positions.flip(0) == batch_size - 1).all():
                raise ValueError("the positions do not pair: positions + positions.flip(0) must be batch_size - 1")
            drawn = drawn[:, positions] if self.elementwise else drawn
        off = self.smoothing / self.num_classes
        targets = F.one_hot(labels, self.num_classes) * (1 - self.smoothing) + off
        if (drawn[0] == 1).all():
            return images, targets
        kept, top, bottom, left, right = drawn = to_device_of(images, drawn)
        weight = torch.where(inside_box(drawn[1:], height, width), kept[:, None, None, None], 1.0)
        share = (1 - (1 - kept) * (bottom - top) * (right - left) / (height * width))[:, None]
        return weight * images + (1 - weight) * images.flip(0), share * targets + (1 - share) * targets.flip(0)

    def draw(self, height: int, width: int, count: int, rng: np.random.Generator) -> Tensor:
        """`count` times how much of the image is kept inside of a box, and the box: float32 (5,count), kept, top,
        bottom, left, right. Mixup keeps a share of the whole image, CutMix nothing of a part."""
        both = self.mixup > 0 and self.cutmix > 0
        cut = rng.random(count) < (0.5 if both else float(self.cutmix > 0))
        alpha = np.where(cut, self.cutmix, self.mixup)
        kept = np.where(rng.random(count) < self.probability, rng.beta(alpha, alpha), 1.0)
        box = []
        for side in (height, width):
            length = (side * np.sqrt(1 - kept)).astype(int)
            centre = rng.integers(side, size=count)
            box.append(np.where(cut, (centre - length // 2).clip(0), 0))
            box.append(np.where(cut, (centre + (length + 1) // 2).clip(max=side), side))
        kept = np.where(cut & (kept < 1), 0.0, kept)
        return torch.from_numpy(np.stack([kept, *box])).float()


def inside_box(box: Tensor, height: int, width: int) -> Tensor:
    """Which pixels are in a box (4,n) of top, bottom, left, right: bool (n,1,H,W)."""
    top, bottom, left, right = box[:, :, None, None, None]
    y = torch.arange(height, device=box.device)[:, None]
    x = torch.arange(width, device=box.device)
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def choose(u: Tensor, count: int | Tensor) -> Tensor:
    """0, 1, ... or count - 1, evenly, by u from [0, 1): int64. (24 bits times a count never round up to the count.)"""
    return (u * count).long()


def to_device_of(images: Tensor, x: Tensor) -> Tensor:
    """`x` on the device of the images."""
    return x.to(images.device, non_blocking=True)


def standard_normal(u: Tensor) -> Tensor:
    """Standard normal numbers from u in [0, 1), 0 taken as half of the next number."""
    return math.sqrt(2) * torch.erfinv(2 * u.clamp_min(2**-25) - 1)
