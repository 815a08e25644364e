"""Transforms of one PIL image in loader processes, made of those of timm and torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.data import create_transform
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode, str_to_pil_interp
from torch import Tensor
from torchvision import transforms

from roadmap.config.schema import DataSpec, RecipeSpec

Transform = Callable[[Any], Tensor]  # PIL image -> uint8 C,H,W


def train_transform(data: DataSpec, recipe: RecipeSpec, share: float) -> Transform:
    """Return the recipe's augmentation of single images: crop, flip, and RandAugment for a fraction `share` of them.

    Small images get a crop of the padded image (as usual on CIFAR: He et al. 2016, section 4.2) instead of a random
    resized crop, which would enlarge a few pixels.
    """
    size, interpolation = data.image_size, recipe.interpolation
    if data.small_images:
        operations: list[Any] = [
            transforms.Resize((size, size), str_to_interp_mode(interpolation)),
            transforms.RandomCrop(size, padding=data.crop_padding),
        ]
    else:
        operations = [RandomResizedCropAndInterpolation(size, interpolation=interpolation)]
    operations.append(transforms.RandomHorizontalFlip(data.flip))
    if recipe.rand_augment is not None and share > 0:
        fill = tuple(round(255 * mean) for mean in per_channel(data.mean, data.in_chans))
        hparams = {
            "translate_const": round(data.image_size * 0.45),  # timm's fraction of the image for RandAugment
            "img_mean": fill if data.in_chans == 3 else fill[0],
            "interpolation": str_to_pil_interp(interpolation),
        }
        rand_augment = rand_augment_transform(recipe.rand_augment, hparams)
        operations.append(transforms.RandomApply([rand_augment], share) if share < 1 else rand_augment)
    return transforms.Compose([*operations, transforms.PILToTensor()])


def test_transform(data: DataSpec, recipe: RecipeSpec) -> Transform:
    """Return resize and centre crop; small images are only resized."""
    if not data.small_images:
        transform: Any = create_transform(
            input_size=(data.in_chans, data.image_size, data.image_size),
            use_prefetcher=True,
            crop_pct=recipe.test_crop,
            interpolation=recipe.interpolation,
        )
        return transform
    size = (data.image_size, data.image_size)
    resize = transforms.Resize(size, str_to_interp_mode(recipe.interpolation))
    return transforms.Compose([resize, transforms.PILToTensor()])


def channel_stats(data: DataSpec) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, each (C,1,1), of pixel values from 0 to 255."""
    mean, std = (torch.tensor(per_channel(values, data.in_chans)) for values in (data.mean, data.std))
    return 255 * mean.view(-1, 1, 1), 255 * std.view(-1, 1, 1)


def per_channel(values: list[float], channels: int) -> list[float]:
    """Return one value per channel: `values`, or their mean for every channel if their number differs."""
    if len(values) == channels:
        return list(values)
    return [sum(values) / len(values)] * channels


def pil_mode(data: DataSpec) -> str:
    """Return Pillow's mode of the images: "L" for grey, "RGB" for colour."""
    return "L" if data.in_chans == 1 else "RGB"
