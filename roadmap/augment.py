"""Augmentation of a whole batch of images on their own device: crop, flip, RandAugment, erasing, Mixup and CutMix.

What an image gets is a function of (seed, epoch, its index in the dataset), or for `Mix` of (seed, epoch, step, its
position in the batch): the same however a batch is composed or split over processes. No global generator is touched.
The operations and their distributions are those of timm and torchvision, which work on one PIL image after the other.

`index` (N,) int64 may stay on the CPU: then the choices are made there, and a GPU need not be waited for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from roadmap.seeds import derive, uniform
from roadmap.spec import require


def crop(images: Tensor, padding: int, u: Tensor) -> Tensor:
    """A window of the images' own size out of the images with a black border of `padding` pixels.

    images (N,C,H,W), u (N,2) from [0, 1) for the offsets down and to the right. As torchvision's RandomCrop.
    """
    height, width = images.shape[2:]
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = _like(images, _choose(u, 2 * padding + 1)).unbind(1)
    return windows[torch.arange(len(images), device=images.device), :, down, right]


def flip(images: Tensor, probability: float, u: Tensor) -> Tensor:
    """Swap left and right where u (N,) < probability."""
    return torch.where(_like(images, u < probability)[:, None, None, None], images.flip(3), images)


# RandAugment's operations, as PIL and timm compute them: uint8 images (n,C,H,W) and one argument each, (n,1,1,1), to
# numbers that are clipped to 0..255 and truncated later.


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to 0..255."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low).float() * 255 / (high - low), images)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Even out the histogram of each channel: a pixel becomes the number of darker ones, in whole steps of a 255th."""
    pixels = images.flatten(2)
    darker = torch.searchsorted(pixels.sort(-1).values, pixels)
    step = darker.amax(-1, keepdim=True) // 255
    return torch.where(step > 0, (step // 2 + darker) // step.clamp_min(1), pixels).view_as(images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits`, 0..8."""
    dropped = 8 - bits.int()
    return images.int() >> dropped << dropped


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Away from, or towards, the mean grey."""
    grey = _grey(images)
    return _blend((grey.sum((2, 3), keepdim=True) / grey[0].numel() + 0.5).floor(), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Away from, or towards, a smooth image: 5/13 of a pixel and 1/13 of its eight neighbours; the border stays."""
    smooth = images.float()
    nine = F.avg_pool2d(smooth, 3, stride=1, divisor_override=1)
    smooth[..., 1:-1, 1:-1] = ((nine + 4 * smooth[..., 1:-1, 1:-1]) / 13).round()
    return _blend(smooth, images, factor)


def _blend(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    return base + factor * (images - base)


def _grey(images: Tensor) -> Tensor:
    """The luma (n,1,H,W) of ITU-R 601."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


POINT_OPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": lambda images, _: 255 - images,
    "Posterize": posterize,
    "Solarize": lambda images, threshold: torch.where(images < threshold, images, 255 - images),
    "SolarizeAdd": lambda images, add: torch.where(images < 128, images + add, images),
    "Color": lambda images, factor: _blend(_grey(images), images, factor),
    "Contrast": contrast,
    "Brightness": lambda images, factor: images * factor,
    "Sharpness": sharpness,
}
# At magnitude 10: degrees counterclockwise, shift per pixel, shift as a share of the side.
WARPS = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateX": 0.45, "TranslateY": 0.45}
NOTHING = len(POINT_OPS) + len(WARPS)  # the number of the operation that leaves an image as it is


def point_argument(name: str, level: Tensor, sign: Tensor, increasing: bool) -> Tensor:
    """The argument of a point operation; `level` is a tenth of the magnitude, `sign` -1 or 1.

    `increasing`: the operation grows stronger with the magnitude, as all should (timm's inc1).
    """
    if name == "Posterize":
        bits = (4 * level).floor()
        return (4 - bits if increasing else bits).clamp(0, 8)
    if name == "Solarize":
        threshold = (256 * level).floor().clamp_max(256)
        return 256 - threshold if increasing else threshold
    if name == "SolarizeAdd":
        return (110 * level).floor().clamp_max(128)
    return (1 + sign * 0.9 * level).clamp_min(0.1) if increasing else 1.8 * level + 0.1


def warp(images: Tensor, kind: Tensor, amount: Tensor, interpolation: str, fill: Tensor) -> Tensor:
    """Rotate about the centre, shear from the top left corner, or translate: float32 (n,C,H,W).

    images (n,C,H,W), kind (n,) a place in `WARPS`, amount (n,) times its size there; outside is `fill` (C,).
    """
    height, width = images.shape[2:]
    amounts = [(kind == k) * amount * size for k, size in enumerate(WARPS.values())]
    angle, shear_x, shear_y, move_x, move_y = (a[:, None, None] for a in amounts)
    cos, sin = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    from_x, from_y = x - width / 2, y - height / 2
    source_x = (width / 2 + cos * from_x + move_x * width) + (shear_x * y - sin * from_y)
    source_y = (height / 2 + cos * from_y + move_y * height) + (shear_y * x + sin * from_x)
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    return torch.where(inside[:, None], sample(images, source_x, source_y, interpolation), fill.view(-1, 1, 1))


def sample(images: Tensor, x: Tensor, y: Tensor, interpolation: str) -> Tensor:
    """The images (n,C,H,W) at the points x, y (n,H,W), in pixels from the left and top edge: float32 (n,C,H,W).

    As PIL's transform, with the border repeated outwards; its cubic has a = -1 (PyTorch's grid_sample: -0.75).
    """
    n, channels, height, width = images.shape
    taps = {"nearest": 1, "bilinear": 2, "bicubic": 4}[interpolation]
    if taps > 1:
        x, y = x - 0.5, y - 0.5
    left, top = x.floor(), y.floor()
    padded = F.pad(images.float(), (2, 2, 2, 2), mode="replicate")
    step = torch.arange(taps, device=images.device) - (taps - 1) // 2 + 2
    middle = top.clamp(-1, height - 1).long() * (width + 4) + left.clamp(-1, width - 1).long()
    places = middle.view(n, 1, -1) + (step[:, None] * (width + 4) + step)[:, :, None, None, None]
    values = padded.flatten(2).expand(taps, taps, -1, -1, -1).gather(4, places.expand(-1, -1, -1, channels, -1))
    rows = _between(values.view(taps, taps, *images.shape).unbind(1), (x - left)[:, None])
    return _between(rows.unbind(0), (y - top)[:, None])


def _between(v: Sequence[Tensor], d: Tensor) -> Tensor:
    """The value a share `d` behind the middle one of 1, 2 or 4 equidistant values."""
    if len(v) == 1:
        return v[0]
    if len(v) == 2:
        return v[0] + d * (v[1] - v[0])
    a, b, c, e = v
    f = 1 - d
    return b - d * f * f * (a - b) + d * (1 + d * f) * (c - b) - d * d * f * (e - b)


class RandAugment:
    """timm's RandAugment (Cubuk et al. 2020) for uint8 images: `layers` operations, each applied with even odds.

    `notation` is timm's, as rand-m9-mstd0.5-inc1: m magnitude (10), n layers (2), mstd standard deviation of the
    magnitude (0; above 100: uniform in 0..m), mmax its limit (10), inc1 the increasing variants. `fill` (C,) 0..255.
    """

    def __init__(self, notation: str, fill: Sequence[float], interpolation: str) -> None:
        start, *words = notation.split("-")
        known = {"m": r"\d+", "n": r"[1-9]\d*", "mstd": r"\d+(\.\d+)?", "mmax": r"\d+", "inc": r"\d+"}
        require(start == "rand", "recipe.rand_augment", notation, "write it as rand-m9-mstd0.5-inc1, or null")
        given: dict[str, float] = {}
        for word in words:
            name = word.rstrip("0123456789.")
            holds = name in known and re.fullmatch(known[name], word.removeprefix(name)) is not None
            require(holds, "recipe.rand_augment", notation, f"{word!r} is not a number after m, n, mstd, mmax or inc")
            given[name] = float(word.removeprefix(name))
        self.magnitude, self.std, self.limit = given.get("m", 10.0), given.get("mstd", 0.0), given.get("mmax") or 10.0
        self.layers, self.increasing = int(given.get("n", 2)), bool(given.get("inc"))
        self.fill, self.interpolation = torch.tensor(fill).float().round(), interpolation

    def __call__(self, images: Tensor, index: Tensor, seed: int, epoch: int, share: float = 1.0) -> Tensor:
        """Augment a `share` of uint8 images (N,C,H,W)."""
        kind, level, sign = self.draw(index, seed, epoch, share)
        order = kind.argsort(dim=1)
        sizes = F.one_hot(kind, NOTHING + 1).sum(1).tolist()
        kind, level, sign, order, fill = (_like(images, x) for x in (kind, level, sign, order, self.fill))
        images = images.clone()
        for layer in range(self.layers):
            *by_op, _ = order[layer].split(sizes[layer])
            for (name, op), rows in zip(POINT_OPS.items(), by_op, strict=False):
                if len(rows) > 0:
                    argument = point_argument(name, level[layer, rows], sign[layer, rows], self.increasing)
                    changed = op(images[rows], argument[:, None, None, None])
                    images[rows] = changed.clamp(0, 255).to(torch.uint8)
            rows = torch.cat(by_op[len(POINT_OPS) :])
            if len(rows) > 0:
                which = kind[layer, rows] - len(POINT_OPS)
                changed = warp(images[rows], which, level[layer, rows] * sign[layer, rows], self.interpolation, fill)
                images[rows] = changed.clamp(0, 255).to(torch.uint8)
        return images

    def draw(self, index: Tensor, seed: int, epoch: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
        """What each image gets, (layers, N): a number of `POINT_OPS` and `WARPS` or `NOTHING`, level, and sign."""
        u = uniform(seed, index, "rand_augment", epoch, count=1 + 4 * self.layers).T.contiguous()
        which, applied, noise, sign = u[1:].view(4, self.layers, -1)
        kind = torch.where((u[0] < share) & (applied < 0.5), _choose(which, NOTHING), NOTHING)
        magnitude = self.magnitude * noise if self.std > 100 else self.magnitude + self.std * _normal(noise)
        return kind, magnitude.clamp(0, self.limit) / 10, torch.where(sign < 0.5, -1.0, 1.0)


def erase(images: Tensor, probability: float, index: Tensor, seed: int, epoch: int) -> Tensor:
    """Put standard normal noise into a box of some of the normalized images (N,C,H,W).

    Random erasing (Zhong et al. 2020) as timm's, mode "pixel".
    """
    u = uniform(seed, index, "erase", epoch, count=1 + 22)
    rows = (u[:, 0] < probability).nonzero().squeeze(1)
    if len(rows) == 0:
        return images
    box = erased_box(u[rows, 1:], *images.shape[2:])
    index, rows, box = (_like(images, x) for x in (index[rows], rows, box))
    noise = _normal(uniform(seed, index, "noise", epoch, count=images[0].numel())).view(-1, *images.shape[1:])
    images = images.clone()
    images[rows] = torch.where(_inside(box, *images.shape[2:]), noise.to(images.dtype), images[rows])
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
    top, left = _choose(u[:, 20], height - tall + 1), _choose(u[:, 21], width - wide + 1)
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
        kept, top, bottom, left, right = drawn = _like(images, drawn)
        weight = torch.where(_inside(drawn[1:], height, width), kept[:, None, None, None], 1.0)
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


def _inside(box: Tensor, height: int, width: int) -> Tensor:
    """Which pixels are in a box (4,n) of top, bottom, left, right: bool (n,1,H,W)."""
    top, bottom, left, right = box[:, :, None, None, None]
    y = torch.arange(height, device=box.device)[:, None]
    x = torch.arange(width, device=box.device)
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def _choose(u: Tensor, count: int | Tensor) -> Tensor:
    """0, 1, ... or count - 1, evenly, by u from [0, 1): int64. (24 bits times a count never round up to the count.)"""
    return (u * count).long()


def _like(images: Tensor, x: Tensor) -> Tensor:
    """`x` on the device of the images."""
    return x.to(images.device, non_blocking=True)


def _normal(u: Tensor) -> Tensor:
    """Standard normal numbers from u in [0, 1), 0 taken as half of the next number."""
    return math.sqrt(2) * torch.erfinv(2 * u.clamp_min(2**-25) - 1)
