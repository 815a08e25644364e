"""RandAugment on whole batches of uint8 images; the operations are PIL's, their distributions timm's.

Point operations take images (n,C,H,W) and an argument (n,1,1,1), and return values that the caller clamps to 0..255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from roadmap.config.validation import rand_augment_settings
from roadmap.data.augmentation import choose, standard_normal, to_device_of
from roadmap.runtime.random import uniform


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Return images with each channel stretched to 0..255."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low).float() * 255 / (high - low), images)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Return images with an even histogram per channel: a pixel becomes the number of darker ones, in 255 levels."""
    pixels = images.flatten(2)
    darker = torch.searchsorted(pixels.sort(-1).values, pixels)
    per_level = darker.amax(-1, keepdim=True) // 255
    return torch.where(per_level > 0, (per_level // 2 + darker) // per_level.clamp_min(1), pixels).view_as(images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Return images with only the highest `bits` of each value, 0 to 8."""
    dropped = 8 - bits.int()
    return images.int() >> dropped << dropped


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Return images moved away from (factor above 1) or towards (below 1) their mean grey."""
    grey = _grey(images)
    return _blend((grey.sum((2, 3), keepdim=True) / grey[0].numel() + 0.5).floor(), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Return images moved away from (factor above 1) or towards (below 1) a smoothed image.

    Smoothing: 5/13 of a pixel plus 1/13 of each of its eight neighbours; pixels at the border are unchanged.
    """
    smooth = images.float()
    nine = F.avg_pool2d(smooth, 3, stride=1, divisor_override=1)
    smooth[..., 1:-1, 1:-1] = ((nine + 4 * smooth[..., 1:-1, 1:-1]) / 13).round()
    return _blend(smooth, images, factor)


def _blend(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    return base + factor * (images - base)


def _grey(images: Tensor) -> Tensor:
    """Return the luma of ITU-R 601, (n,1,H,W)."""
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
# Amount at magnitude 10: degrees counterclockwise, shift per pixel, shift as a fraction of the side.
WARPS = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateX": 0.45, "TranslateY": 0.45}
IDENTITY = len(POINT_OPS) + len(WARPS)  # number of the operation that changes nothing


def point_argument(name: str, level: Tensor, sign: Tensor, increasing: bool) -> Tensor:
    """Return the argument of a point operation; `level` is a tenth of the magnitude, `sign` is -1 or 1.

    With `increasing`, a higher magnitude makes every operation stronger (timm's inc1).
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
    """Return images rotated about the centre, sheared from the top left corner, or translated: float32 (n,C,H,W).

    `kind` (n,) is an index into `WARPS`, and `amount` (n,) is multiplied by the amount there. Pixels from outside of
    the image are `fill` (C,).
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
    """Return images (n,C,H,W) at the points x, y (n,H,W), in pixels from the left and top edge: float32 (n,C,H,W).

    Equals PIL's transform, with the border repeated outwards. PIL's cubic has a = -1 (PyTorch's grid_sample: -0.75).
    """
    n, channels, height, width = images.shape
    taps = {"nearest": 1, "bilinear": 2, "bicubic": 4}[interpolation]
    if taps > 1:
        x, y = x - 0.5, y - 0.5
    left, top = x.floor(), y.floor()
    padded = F.pad(images.float(), (2, 2, 2, 2), mode="replicate")
    offset = torch.arange(taps, device=images.device) - (taps - 1) // 2 + 2
    middle = top.clamp(-1, height - 1).long() * (width + 4) + left.clamp(-1, width - 1).long()
    indices = middle.view(n, 1, -1) + (offset[:, None] * (width + 4) + offset)[:, :, None, None, None]
    values = padded.flatten(2).expand(taps, taps, -1, -1, -1).gather(4, indices.expand(-1, -1, -1, channels, -1))
    rows = _interpolate(values.view(taps, taps, *images.shape).unbind(1), (x - left)[:, None])
    return _interpolate(rows.unbind(0), (y - top)[:, None])


def _interpolate(v: Sequence[Tensor], d: Tensor) -> Tensor:
    """Interpolate between 1, 2 or 4 values at distance 1, at a distance `d` (0 to 1) after the middle one."""
    if len(v) == 1:
        return v[0]
    if len(v) == 2:
        return v[0] + d * (v[1] - v[0])
    a, b, c, e = v
    f = 1 - d
    return b - d * f * f * (a - b) + d * (1 + d * f) * (c - b) - d * d * f * (e - b)


class RandAugment:
    """RandAugment (Cubuk et al. 2020) as in timm, for uint8 images: `layers` operations, each with probability 1/2.

    `notation` is timm's, such as rand-m9-mstd0.5-inc1: m magnitude (default 10), n layers (2), mstd standard deviation
    of the magnitude (0; above 100: uniform in 0..m), mmax limit of the magnitude (10), inc1 the increasing variants.
    `fill` (C,) is the colour of pixels from outside of an image, 0..255. Raises SpecError for another notation.
    """

    def __init__(self, notation: str, fill: Sequence[float], interpolation: str) -> None:
        values = rand_augment_settings(notation)
        self.magnitude, self.std = values.get("m", 10.0), values.get("mstd", 0.0)
        self.limit = values.get("mmax", 10.0)
        self.layers, self.increasing = int(values.get("n", 2)), bool(values.get("inc"))
        self.fill, self.interpolation = torch.tensor(fill).float().round(), interpolation

    def __call__(self, images: Tensor, index: Tensor, seed: int, epoch: int, share: float = 1.0) -> Tensor:
        """Return uint8 images (N,C,H,W), of which a fraction `share` is augmented."""
        kind, level, sign = self.draw(index, seed, epoch, share)
        # The images of each layer, grouped by operation: each operation runs once, on all of its images.
        order = kind.argsort(dim=1)
        sizes = F.one_hot(kind, IDENTITY + 1).sum(1).tolist()
        kind, level, sign, order, fill = (to_device_of(images, x) for x in (kind, level, sign, order, self.fill))
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
                warps = kind[layer, rows] - len(POINT_OPS)
                changed = warp(images[rows], warps, level[layer, rows] * sign[layer, rows], self.interpolation, fill)
                images[rows] = changed.clamp(0, 255).to(torch.uint8)
        return images

    def draw(self, index: Tensor, seed: int, epoch: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the operation, the level (a tenth of the magnitude) and the sign for each image, each (layers, N).

        The operations are numbered: `POINT_OPS`, then `WARPS`, then `IDENTITY`.
        """
        u = uniform(seed, index, "rand_augment", epoch, count=1 + 4 * self.layers).T.contiguous()
        operation, applied, noise, sign = u[1:].view(4, self.layers, -1)
        kind = torch.where((u[0] < share) & (applied < 0.5), choose(operation, IDENTITY), IDENTITY)
        magnitude = self.magnitude * noise if self.std > 100 else self.magnitude + self.std * standard_normal(noise)
        return kind, magnitude.clamp(0, self.limit) / 10, torch.where(sign < 0.5, -1.0, 1.0)
