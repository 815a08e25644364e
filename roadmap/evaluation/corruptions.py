"""Common corruptions of images at five severities (Hendrycks and Dietterich, "Benchmarking neural network robustness to
common corruptions and perturbations", ICLR 2019), on batches of tensors.

The parameters are those of ImageNet-C, and of CIFAR-10-C for images below 64 pixels (github.com/hendrycks/robustness).
`frost` is left out: it needs the authors' photographs. Motion blur, also that of the snow, is a one-sided Gaussian
along a line, as in ImageMagick. Every draw is a function of corruption, severity and image.

Letters: N images, C channels, H and W pixels. All functions take and return float32 from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from roadmap.evaluation.filters import blur_line, filter_each, gaussian, zoom
from roadmap.runtime.random import derive, uniform

SEVERITIES = (1, 2, 3, 4, 5)
SMALL = 64  # pixels; smaller images get the parameters of CIFAR-10-C


class Draws:
    """Random numbers of each image of a batch, the same in any batch."""

    def __init__(self, name: str, severity: int, indices: Tensor) -> None:
        self.address, self.indices, self.count = (name, severity), indices.cpu(), 0

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return uniform numbers (N, *shape)."""
        self.count += 1
        numbers = uniform(0, self.indices, "corruption", *self.address, self.count, count=math.prod(shape))
        return low + (high - low) * numbers.view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers (N, *shape)."""
        return torch.special.ndtri(self.uniform(*shape).clamp(1e-7, 1 - 1e-7))

    def poisson(self, rates: Tensor) -> Tensor:
        """Return Poisson numbers with the given rates (N, ...)."""
        self.count += 1
        generators = [derive(0, "corruption", *self.address, self.count, index) for index in self.indices.tolist()]
        drawn = [torch.poisson(r, torch.Generator().manual_seed(g)) for r, g in zip(rates, generators, strict=True)]
        return torch.stack(drawn)


def corrupt(images: Tensor, name: str, severity: int, indices: Tensor) -> Tensor:
    """Return the corrupted images: uint8 (N, C, H, W) on the CPU -> the same. `indices` (N,) number the images."""
    function, small, large = CORRUPTIONS[name]
    parameters = (small if images.shape[-1] < SMALL else large)[severity - 1]
    corrupted = function(images.float() / 255, parameters, Draws(name, severity, indices))
    return (corrupted.clamp(0, 1) * 255).round().to(torch.uint8)


def gaussian_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    """Add normal noise."""
    return x + scale * draws.normal(*x.shape[1:])


def shot_noise(x: Tensor, photons: float, draws: Draws) -> Tensor:
    """Replace each value by a Poisson number of photons."""
    return draws.poisson(x * photons) / photons


def impulse_noise(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Set a share of the values to 0 or 1."""
    chosen, high = draws.uniform(*x.shape[1:]) < share, draws.uniform(*x.shape[1:]) < 0.5
    return torch.where(chosen, high.float(), x)


def defocus_blur(x: Tensor, parameters: tuple[float, float], draws: Draws) -> Tensor:
    """Average over a disk of a radius, itself blurred with a standard deviation."""
    radius, blur = parameters
    reach = max(8, math.ceil(radius))
    axis = torch.arange(-reach, reach + 1)
    disk = (axis[:, None] ** 2 + axis**2 <= radius**2).float()
    width = 3 if radius <= 8 else 5
    kernel = vision.gaussian_blur(F.pad(disk / disk.sum(), (2, 2, 2, 2))[None], [width, width], [blur, blur])[0]
    return filter_each(x, kernel.expand(len(x), -1, -1))


def glass_blur(x: Tensor, parameters: tuple[float, int, int], draws: Draws) -> Tensor:
    """Blur, exchange each pixel with a near one a number of times, and blur again."""
    sigma, reach, repeats = parameters
    x = gaussian(x, sigma).clone()
    side, rows = x.shape[-1], torch.arange(len(x))
    positions = range(side - reach - 1, reach, -1)
    for _ in range(repeats):
        moves = draws.uniform(len(positions), len(positions), 2, low=-reach, high=reach).floor().long()
        for i, h in enumerate(positions):
            for j, w in enumerate(positions):
                h2, w2 = h + moves[:, i, j, 0], w + moves[:, i, j, 1]
                here, there = x[:, :, h, w].clone(), x[rows, :, h2, w2].clone()
                x[:, :, h, w], x[rows, :, h2, w2] = there, here
    return gaussian(x, sigma)


def motion_blur(x: Tensor, parameters: tuple[int, float], draws: Draws) -> Tensor:
    """Blur along a line within 45 degrees of the horizontal."""
    return blur_line(x, *parameters, draws.uniform(1, low=-45, high=45)[:, 0])


def zoom_blur(x: Tensor, factors: tuple[float, ...], draws: Draws) -> Tensor:
    """Average over enlarged versions."""
    return torch.stack([x, *(zoom(x, factor) for factor in factors)]).mean(0)


def snow(x: Tensor, parameters: tuple[float, ...], draws: Draws) -> Tensor:
    """Add flakes, which are thresholded noise that is blurred along a line, and make the image paler."""
    mean, scale, factor, threshold, radius, sigma, strength = parameters
    layer = zoom(mean + scale * draws.normal(1, *x.shape[2:]), factor)
    layer = torch.where(layer < threshold, torch.zeros(()), layer).clamp(0, 1)
    layer = blur_line(layer, int(radius), sigma, draws.uniform(1, low=-135, high=-45)[:, 0])
    grey = x if x.shape[1] == 1 else vision.rgb_to_grayscale(x)
    x = strength * x + (1 - strength) * torch.maximum(x, 1.5 * grey + 0.5)
    return x + layer + layer.rot90(2, (2, 3))


def fog(x: Tensor, parameters: tuple[float, float], draws: Draws) -> Tensor:
    """Add a plasma fractal; the largest value of each image stays."""
    amount, decay = parameters
    side = 2 ** math.ceil(math.log2(x.shape[-1]))
    plasma = _plasma(side, decay, draws)[:, None, : x.shape[2], : x.shape[3]]
    largest = x.amax((1, 2, 3), keepdim=True)
    return (x + amount * plasma) * largest / (largest + amount)


def brightness(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """Add to the value in hue, saturation and value."""
    value = x.amax(1, keepdim=True)
    brighter = (value + amount).clamp(max=1)
    return torch.where(value > 0, x * brighter / value.clamp(min=1e-8), brighter)  # a black pixel has no hue


def contrast(x: Tensor, factor: float, draws: Draws) -> Tensor:
    """Move each channel towards its mean."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def elastic_transform(x: Tensor, parameters: tuple[float, float, float], draws: Draws) -> Tensor:
    """Distort by a random affine map and a smooth random displacement."""
    alpha, sigma, shift = parameters
    height, width = x.shape[2:]
    centre, size = torch.tensor([width // 2, height // 2]).float(), min(height, width) // 3
    corners = centre + size * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved = corners + draws.uniform(3, 2, low=-shift, high=shift)
    ones = torch.ones(len(x), 3, 1)
    back = torch.linalg.solve(torch.cat([moved, ones], 2), corners.expand(len(x), -1, -1))  # (N, 3, 2)
    along_x, along_y, offset = back[:, :, None, None].unbind(1)  # (N, 1, 1, 2) each
    # Not a matrix product: the order of its sums, and so the last bit, depends on the number of images.
    places = torch.arange(width)[:, None] * along_x + torch.arange(height)[:, None, None] * along_y + offset
    noise = draws.uniform(2, height, width, low=-1, high=1)
    places = places + alpha * (gaussian(noise, sigma) if sigma > 0 else noise).permute(0, 2, 3, 1)
    scale = torch.tensor([width - 1, height - 1]) / 2
    return F.grid_sample(x, places / scale - 1, padding_mode="reflection", align_corners=True)


def pixelate(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Reduce to a share of the side and enlarge again."""
    side = x.shape[-1]
    small = F.interpolate(x, size=max(1, int(side * share)), mode="area")
    return F.interpolate(small, size=side, mode="nearest-exact")


def jpeg_compression(x: Tensor, quality: int, draws: Draws) -> Tensor:
    """Compress as JPEG."""
    images = (x * 255).round().to(torch.uint8)
    return torch.stack([_as_jpeg(image, quality) for image in images]).float() / 255


def _as_jpeg(image: Tensor, quality: int) -> Tensor:
    file = BytesIO()
    vision.to_pil_image(image).save(file, "JPEG", quality=quality)
    return vision.pil_to_tensor(Image.open(file))


def _plasma(side: int, decay: float, draws: Draws) -> Tensor:
    """Return fractals (N, side, side) from 0 to 1 by the diamond-square algorithm; `side` is a power of 2."""
    field = torch.zeros(len(draws.indices), side, side)
    step, scale = side, 100.0
    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        sums = corners + corners.roll(-1, 1)
        sums = sums + sums.roll(-1, 2)
        field[:, half::step, half::step] = _disturbed(sums, scale, draws)
        centres = field[:, half::step, half::step]
        corners = field[:, ::step, ::step]
        vertical = centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)
        horizontal = centres + centres.roll(1, 2) + corners + corners.roll(-1, 1)
        field[:, ::step, half::step] = _disturbed(vertical, scale, draws)
        field[:, half::step, ::step] = _disturbed(horizontal, scale, draws)
        step, scale = half, scale / decay
    field -= field.amin((1, 2), keepdim=True)
    return field / field.amax((1, 2), keepdim=True).clamp(min=1e-8)


def _disturbed(sums: Tensor, scale: float, draws: Draws) -> Tensor:
    """Return the mean of four neighbours plus noise, uniform within the square of `scale`."""
    return sums / 4 + scale * draws.uniform(*sums.shape[1:], low=-scale, high=scale)


def _range(stop: float, step: float) -> tuple[float, ...]:
    return tuple(1 + step * i for i in range(math.ceil((stop - 1) / step - 1e-9)))


Parameters = tuple[Any, ...]
# Name -> function, and its parameters at the five severities for small images (CIFAR-10-C) and others (ImageNet-C).
CORRUPTIONS: dict[str, tuple[Callable[[Tensor, Any, Draws], Tensor], Parameters, Parameters]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.1), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (
        defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": (
        glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": (
        motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": (
        zoom_blur,
        tuple(_range(stop, 0.01) for stop in (1.06, 1.11, 1.16, 1.21, 1.26)),
        (_range(1.11, 0.01), _range(1.16, 0.01), _range(1.21, 0.02), _range(1.26, 0.02), _range(1.31, 0.03)),
    ),
    "snow": (
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "fog": (
        fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (
        elastic_transform,
        ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
        ((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)),
    ),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}  # fmt: skip
