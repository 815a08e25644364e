"""Augmentation of a whole batch of images on its device: crop, flip, random erasing, Mixup and CutMix.

The draws for an image are a function of (seed, epoch, index in the dataset), for `Mix` of (seed, epoch, iteration,
position in the batch). They do not depend on the other images of the batch, nor on the split of the batch over
processes, and no global generator is used. The operations and their distributions are those of timm and torchvision,
which augment one PIL image at a time.

`index` (N,) int64 may be on the CPU: then the draws are made there, and the CPU does not wait for a GPU. `u` are
uniform random numbers from [0, 1), float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from roadmap.data.sampling import group_of_position
from roadmap.runtime.random import derive, uniform


def crop(images: Tensor, padding: int, u: Tensor) -> Tensor:
    """Return a window of size HxW from each image with a black border of `padding` pixels: (N,C,H,W).

    `u` (N,2) chooses the offsets down and to the right. Equals torchvision's RandomCrop.
    """
    height, width = images.shape[2:]
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = to_device_of(images, choose(u, 2 * padding + 1)).unbind(1)
    return windows[torch.arange(len(images), device=images.device), :, down, right]


def flip(images: Tensor, probability: float, u: Tensor) -> Tensor:
    """Return images (N,C,H,W), mirrored left to right where u (N,) < probability."""
    return torch.where(to_device_of(images, u < probability)[:, None, None, None], images.flip(3), images)


def random_erase(images: Tensor, probability: float, index: Tensor, seed: int, epoch: int) -> Tensor:
    """Return normalized images (N,C,H,W), a fraction `probability` of them with a box of standard normal noise.

    Random erasing (Zhong et al. 2020), as in timm's mode "pixel".
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
    """Return top, bottom, left and right of a box, int64 (4,n): area 2 % to 1/3 of the image, aspect 0.3 to 3.3.

    `u` (n,22) gives ten candidates; the first that is lower and narrower than the image is used. If there is none, the
    box is empty.
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
    """Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) with the distributions of timm.

    `mixup` and `cutmix` are the alphas of the Beta distributions; 0 switches one off, and with both on each has
    probability 1/2. A batch consists of consecutive groups of at most `group_size` images (None: one group). Each group
    has one draw, and is mixed with `probability`. With `elementwise`, each image has a draw of its own. The images at
    positions 0 and 1, 2 and 3, ... are mixed with each other. timm mixes a batch with its reverse, which is the same
    for images in random order.
    """

    mixup: float
    cutmix: float
    probability: float
    num_classes: int
    smoothing: float
    elementwise: bool = False
    group_size: int | None = None

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        seed: int,
        epoch: int,
        iteration: int,
        positions: Tensor | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return mixed images (N,C,H,W) and smoothed distributions (N,K) for float images (N,C,H,W) and labels (N,).

        For a part of a batch of `batch_size`, `positions` (N,) int64, ascending and on the CPU, are the positions in
        the batch. If the part has both images of each pair, the result equals that part of the mixed batch. An image
        whose partner is absent is mixed with itself.
        """
        batch_size = batch_size or len(images)
        positions = torch.arange(batch_size) if positions is None else positions
        height, width = images.shape[2:]
        rng = np.random.default_rng(derive(seed, "mix", epoch, iteration))
        group = torch.arange(batch_size) if self.elementwise else group_of_position(batch_size, self.group_size)
        drawn = self.draw(height, width, int(group[-1]) + 1, rng)[:, group[positions]]
        off = self.smoothing / self.num_classes
        targets = F.one_hot(labels, self.num_classes) * (1 - self.smoothing) + off
        if (drawn[0] == 1).all():
            return images, targets
        partner = to_device_of(images, partners(positions))
        kept, top, bottom, left, right = drawn = to_device_of(images, drawn)
        weight = torch.where(inside_box(drawn[1:], height, width), kept[:, None, None, None], 1.0)
        share = (1 - (1 - kept) * (bottom - top) * (right - left) / (height * width))[:, None]
        return weight * images + (1 - weight) * images[partner], share * targets + (1 - share) * targets[partner]

    def draw(self, height: int, width: int, count: int, rng: np.random.Generator) -> Tensor:
        """Return `count` draws as float32 (5,count): kept, top, bottom, left, right.

        `kept` is the fraction of the image that remains inside the box. For Mixup the box is the whole image; for
        CutMix `kept` is 0. Where it is 1, the image is not mixed.
        """
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


def partners(positions: Tensor) -> Tensor:
    """Return where in ascending `positions` (N,) the partner i ^ 1 of each position i is: int64 (N,).

    Where it is absent, the image itself.
    """
    index = torch.searchsorted(positions, positions ^ 1).clamp_max(len(positions) - 1)
    return torch.where(positions[index] == positions ^ 1, index, torch.arange(len(positions)))


def inside_box(box: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels are in a box (4,n) of top, bottom, left, right: bool (n,1,H,W)."""
    top, bottom, left, right = box[:, :, None, None, None]
    y = torch.arange(height, device=box.device)[:, None]
    x = torch.arange(width, device=box.device)
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def choose(u: Tensor, count: int | Tensor) -> Tensor:
    """Return 0, 1, ... or count - 1 with equal probability, chosen by `u`: int64.

    `u` has 24 bits, so that `u * count` never rounds up to `count`.
    """
    return (u * count).long()


def to_device_of(images: Tensor, x: Tensor) -> Tensor:
    """Return `x` on the device of the images."""
    return x.to(images.device, non_blocking=True)


def standard_normal(u: Tensor) -> Tensor:
    """Return standard normal numbers for `u`, where u = 0 counts as half of the next number above 0."""
    return math.sqrt(2) * torch.erfinv(2 * u.clamp_min(2**-25) - 1)
