"""The parts of a training recipe: optimizer (from timm), learning-rate schedule, batch augmentation, loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from roadmap.config.choices import LRSchedule, Mixing, Optimizer
from roadmap.config.schedule import Schedule
from roadmap.config.schema import RecipeSpec, RunSpec
from roadmap.data import augmentation, rand_augment
from roadmap.data.images import Batch
from roadmap.data.transforms import channel_stats, per_channel
from roadmap.runtime.random import uniform

# Images in memory that are augmented together. A GPU takes more: starting an operation takes longer than its work.
CHUNK_IMAGES, GPU_CHUNK_IMAGES = 2048, 8192
GPU_CHUNK_BYTES = 2**28  # of the augmented images on a GPU


def make_optimizer(model: nn.Module, recipe: RecipeSpec, lr: float) -> torch.optim.Optimizer:
    """Return SGD with (plain) momentum or AdamW over all parameters of `model`.

    Weight decay does not apply to parameters of one dimension (norms, biases, layer scale), unless
    `recipe.decay_norms_and_biases`.
    """
    options: dict[str, Any] = {"betas": tuple(recipe.betas)}
    if recipe.optimizer is Optimizer.sgd:
        options = {"momentum": recipe.momentum}
    return create_optimizer_v2(
        model,
        opt="momentum" if recipe.optimizer is Optimizer.sgd else "adamw",  # timm's "sgd" is Nesterov's
        lr=lr,
        weight_decay=recipe.weight_decay,
        filter_bias_and_bn=not recipe.decay_norms_and_biases,
        fused=True,
        **options,
    )


def learning_rate(recipe: RecipeSpec, schedule: Schedule, iterations_per_epoch: int, iteration: int) -> float:
    """Return the learning rate of a training iteration, which is counted from 0 over all epochs.

    A linear warm-up from 0 to the peak, both included, then a cosine to `min_lr` over the remaining iterations, or
    step decays, counted from the start. As `cosine_scheduler` in utils.py of facebookresearch/ConvNeXt.
    """
    total = schedule.epochs * iterations_per_epoch
    warmup = round(schedule.warmup_share * total)
    if iteration < warmup:
        return schedule.lr * iteration / max(1, warmup - 1)
    if recipe.schedule is LRSchedule.cosine:
        done = (iteration - warmup) / (total - warmup)
        return recipe.min_lr + (schedule.lr - recipe.min_lr) / 2 * (1 + math.cos(math.pi * done))
    decays = iteration // max(1, round(schedule.decay_share * total))
    return schedule.lr * recipe.decay_rate**decays


class BatchAugment:
    """Turns a batch of uint8 images and labels into normalized float32 images on the device and targets of the loss.

    With `augment_images`, crop, flip and RandAugment happen here too, and random erasing with them, for many images at
    once; without it, loader processes have done them.
    """

    def __init__(self, run: RunSpec, device: torch.device, augment_images: bool = False) -> None:
        data, recipe, share = run.data, run.recipe, run.budget.regularization
        self.device, self.data, self.seed, self.share = device, data, run.seed, share
        self.augment_images = augment_images
        self.chunk_images = CHUNK_IMAGES
        if device.type != "cpu":
            self.chunk_images = min(GPU_CHUNK_IMAGES, GPU_CHUNK_BYTES // (4 * data.in_chans * data.image_size**2))
        mean = per_channel(data.mean, data.in_chans)
        self.mean, self.std = (stat.to(device) for stat in channel_stats(data))
        self.rand_augment: rand_augment.RandAugment | None = None
        if recipe.rand_augment is not None and share > 0 and augment_images:
            fill = [255 * value for value in mean]
            self.rand_augment = rand_augment.RandAugment(recipe.rand_augment, fill, recipe.interpolation)
        self.erasing = recipe.random_erasing * share
        self.mix: augmentation.Mix | None = None
        if recipe.mixup > 0 or recipe.cutmix > 0:
            num_classes = run.network.num_classes
            assert num_classes is not None
            per_image = recipe.mixing is Mixing.image
            smoothing, group = recipe.label_smoothing, recipe.mix_batch_size
            self.mix = augmentation.Mix(recipe.mixup, recipe.cutmix, share, num_classes, smoothing, per_image, group)

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 (N,C,H,W) as float32 on the device, minus the mean and divided by the standard deviation."""
        images = images.to(self.device, non_blocking=True).float()
        return images.sub_(self.mean).div_(self.std)

    def augment_in_chunks(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
        """Yield the same batches; with `augment_images`, their images are augmented, normalized and erased.

        Several batches are augmented together: for small images this is two to three times as fast as one batch at a
        time, and no draw changes.
        """
        if not self.augment_images:
            yield from batches
            return
        while True:
            chunk = []
            for batch in batches:
                chunk.append(batch)
                if len(chunk) * len(batch.labels) >= self.chunk_images:
                    break
            if not chunk:
                return
            images = self._augment(torch.cat([b.images for b in chunk]), torch.cat([b.indices for b in chunk]), epoch)
            for batch, augmented in zip(chunk, images.split([len(b.labels) for b in chunk]), strict=True):
                yield batch._replace(images=augmented)

    def _augment(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        draws = uniform(self.seed, indices, "crop", epoch, count=3)
        if self.data.crop_padding > 0:
            images = augmentation.crop(images, self.data.crop_padding, draws[:, :2])
        if self.data.flip > 0:
            images = augmentation.flip(images, self.data.flip, draws[:, 2])
        if self.rand_augment is not None:
            images = self.rand_augment(images, indices, self.seed, epoch, self.share)
        return self._normalize_and_erase(images, indices, epoch)

    def _normalize_and_erase(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        images = self.normalize(images)
        if self.erasing > 0:
            images = augmentation.random_erase(images, self.erasing, indices, self.seed, epoch)
        return images

    def __call__(self, batch: Batch, epoch: int, iteration: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Mix a batch of `augment_in_chunks` and return images (N,C,H,W) and targets.

        uint8 images are normalized and erased here. `batch_size` is that of the global batch; `batch` may be a part of
        it. Targets are labels (N,), or distributions (N,K) with Mixup or CutMix.
        """
        labels = batch.labels.to(self.device, non_blocking=True)
        images = batch.images
        if images.dtype is torch.uint8:
            images = self._normalize_and_erase(images, batch.indices, epoch)
        if self.mix is not None:
            images, labels = self.mix(images, labels, self.seed, epoch, iteration, batch.positions, batch_size)
        return images.contiguous(memory_format=torch.channels_last), labels


def training_loss(logits: Tensor, targets: Tensor, recipe: RecipeSpec) -> Tensor:
    """Return the mean cross entropy with labels (N,), smoothed here, or with distributions (N,K), smoothed by Mixup."""
    smoothing = recipe.label_smoothing if targets.ndim == 1 else 0.0
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
