"""Filters of batches of images (N, C, H, W) for the common corruptions. Borders are reflected."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as vision


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian of a standard deviation in pixels, cut off at four of them."""
    reach = max(1, int(4 * sigma + 0.5))
    weights = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = (weights / weights.sum()).view(1, 1, 1, -1)
    for _ in range(2):  # one axis after the other
        columns = x[:, :, :, _reflected(x.shape[3], reach)]
        x = F.conv2d(columns.reshape(-1, 1, *columns.shape[2:]), kernel).view(*x.shape).transpose(2, 3)
    return x


def filter_each(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each image with its kernel (N, K, K); the border is reflected."""
    n, c, height, width = x.shape
    reach = kernels.shape[-1] // 2
    rows, columns = _reflected(height, reach), _reflected(width, reach)
    padded = x[:, :, rows][:, :, :, columns].transpose(0, 1)  # (C, N, ...)
    return F.conv2d(padded, kernels.flip(1, 2)[:, None], groups=n).transpose(0, 1).reshape(n, c, height, width)


def _reflected(size: int, reach: int) -> Tensor:
    """Return the indices of an axis with a reflected border, which may be longer than the axis."""
    period = max(1, 2 * (size - 1))
    place = torch.arange(-reach, size + reach).remainder(period)
    return torch.minimum(place, period - place) if size > 1 else torch.zeros_like(place)


def blur_line(x: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Blur each image along a line in its direction, with the weights of one half of a Gaussian."""
    steps = torch.arange(2 * radius + 1)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    radians = torch.deg2rad(degrees)[:, None]
    places = torch.stack([radians.sin() * steps, radians.cos() * steps], -1).round().long() + 2 * radius
    side = 4 * radius + 1
    flat = places[..., 0] * side + places[..., 1]
    kernels = torch.zeros(len(x), side * side).scatter_add_(1, flat, weights.expand(len(x), -1).contiguous())
    return filter_each(x, (kernels / kernels.sum(1, keepdim=True)).view(-1, side, side))


def zoom(x: Tensor, factor: float) -> Tensor:
    """Enlarge the centre to the size of the image."""
    side = x.shape[-1]
    part = math.ceil(side / factor)
    enlarged = F.interpolate(vision.center_crop(x, [part, part]), scale_factor=factor, mode="bilinear")
    return vision.center_crop(enlarged, [side, side])
