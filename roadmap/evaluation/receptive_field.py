"""The effective receptive field of a network: how much each pixel changes the centre of the last feature map.

Luo et al., "Understanding the effective receptive field in deep convolutional neural networks", NeurIPS 2016.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadmap.models.network import Network

NUM_IMAGES = 100
CHUNK = 16  # images whose gradient is computed at once
LARGEST_MAP = 64  # pixels of a side; larger fields are averaged down


def receptive_field(model: nn.Module, batches: Iterable[Tensor], num_images: int = NUM_IMAGES) -> dict[str, Any]:
    """Return the field of `model`, averaged over the first `num_images` images of `batches` (N, C, H, W), normalized.

    The field is the absolute gradient of the centre of the last feature map with respect to the pixels, summed over the
    channels of the image. Of the map, the positive values are summed over its channels (Ding et al., "Scaling up your
    kernels to 31x31", CVPR 2022): the sum of all values is constant behind a LayerNorm. `map` has the field as whole
    numbers, 255 for the largest. `half_side` is the side, in pixels, of the smallest square around the centre of the
    image that has half of the sum.
    """
    total, count = torch.zeros(()), 0
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        for batch in batches:
            for images in batch[: num_images - count].split(CHUNK):
                total = total + _gradients(model, images)
                count += len(images)
            if count >= num_images:
                break
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
    field = (total / max(count, 1)).cpu()
    side = field.shape[-1]
    shown = field if side <= LARGEST_MAP else F.adaptive_avg_pool2d(field[None, None], LARGEST_MAP)[0, 0]
    levels = (255 * shown / shown.max().clamp(min=1e-30)).round().to(torch.int64)
    return {"num_images": count, "image_size": side, "half_side": _half_side(field), "map": levels.tolist()}


def _gradients(model: nn.Module, images: Tensor) -> Tensor:
    """Return the sum over the images of the absolute gradients (H, W)."""
    with torch.enable_grad():
        pixels = images.detach().clone().requires_grad_()
        features = last_map(model, pixels)
        _centre(features).relu().sum().backward()
    assert pixels.grad is not None
    return pixels.grad.abs().sum((0, 1))


def last_map(model: nn.Module, images: Tensor) -> Tensor:
    """Return the last feature map (N, C, H, W). timm's Swin Transformer has the channels last."""
    features: Tensor = model.forward_features(images)  # type: ignore[operator]
    return features if isinstance(model, Network) else features.permute(0, 3, 1, 2)


def _centre(features: Tensor) -> Tensor:
    """Return the mean of the one, two or four places in the middle of the map: (N, C)."""
    height, width = features.shape[2:]
    rows, columns = slice((height - 1) // 2, height // 2 + 1), slice((width - 1) // 2, width // 2 + 1)
    return features[:, :, rows, columns].mean((2, 3))


def _half_side(field: Tensor) -> int:
    side, total = field.shape[-1], float(field.sum())
    for half in range(side // 2 + 1):
        first, last = max(0, (side - 1) // 2 - half), min(side, side // 2 + half + 1)
        if float(field[first:last, first:last].sum()) >= total / 2:
            return last - first
    return side
