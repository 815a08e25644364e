"""The parts of a training recipe: optimizer and schedule, from timm, and what happens to a whole batch of images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.step_lr import StepLRScheduler
from torch import Tensor, nn

from roadmap.config.schedule import Schedule
from roadmap.config.schema import LRSchedule, Mixing, Optimizer, RecipeSpec, RunSpec
from roadmap.data import augmentation, rand_augment
from roadmap.data.images import Batch
from roadmap.data.transforms import channel_stats, per_channel
from roadmap.runtime.random import uniform


def make_optimizer(model: nn.Module, recipe: RecipeSpec, lr: float) -> torch.optim.Optimizer:
    """SGD with (plain) momentum or AdamW. Norms, biases and layer scale, the parameters of one dimension, are not
    decayed unless the recipe says so."""
    own = {"momentum": recipe.momentum} if recipe.optimizer is Optimizer.sgd else {"betas": tuple(recipe.betas)}
    return create_optimizer_v2(
        model,
        opt="momentum" if recipe.optimizer is Optimizer.sgd else "adamw",  # timm's "sgd" is Nesterov's
        lr=lr,
        weight_decay=recipe.weight_decay,
        filter_bias_and_bn=not recipe.decay_norms_and_biases,
        fused=True,
        **own,
    )


def make_lr_schedule(
    optimizer: torch.optim.Optimizer, recipe: RecipeSpec, plan: Schedule, steps_per_epoch: int
) -> Scheduler:
    """The learning rate as a function of the step: call `step_update(step)` before step 0, 1, ..."""
    total = plan.epochs * steps_per_epoch
    warmup = {"warmup_t": round(plan.warmup_share * total), "warmup_lr_init": 0.0, "t_in_epochs": False}
    if recipe.schedule is LRSchedule.cosine:
        return CosineLRScheduler(optimizer, t_initial=max(total, 2), lr_min=recipe.min_lr, **warmup)
    decay_t = max(1, round(plan.decay_share * total))
    return StepLRScheduler(optimizer, decay_t=decay_t, decay_rate=recipe.decay_rate, **warmup)


CHUNK_IMAGES = 2048  # images that are cropped, flipped and RandAugmented together


class BatchAugment:
    """A batch of uint8 images and labels -> normalized float32 images on the device and targets for `loss`.

    With `whole`, crop, flip and RandAugment happen here too, to all images at once; else loader processes did them.
    """

    def __init__(self, run: RunSpec, device: torch.device, whole: bool = False) -> None:
        data, recipe, share = run.data, run.recipe, run.budget.regularization
        self.device, self.data, self.seed, self.share, self.whole = device, data, run.seed, share, whole
        mean = per_channel(data.mean, data.in_chans)
        self.mean, self.std = (stat.to(device) for stat in channel_stats(data))
        self.rand_augment = None
        if recipe.rand_augment is not None and share > 0 and whole:
            fill = [255 * value for value in mean]
            self.rand_augment = rand_augment.RandAugment(recipe.rand_augment, fill, recipe.interpolation)
        self.erasing = recipe.random_erasing * share
        self.mix = None
        if recipe.mixup > 0 or recipe.cutmix > 0:
            assert run.network.num_classes is not None
            each = recipe.mixing is Mixing.image
            smoothing = recipe.label_smoothing
            self.mix = augmentation.Mix(recipe.mixup, recipe.cutmix, share, run.network.num_classes, smoothing, each)

    def normalize(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True).float()
        return images.sub_(self.mean).div_(self.std)

    def ahead(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
        """The same batches, cropped, flipped and RandAugmented if that is to be done here, several at once: of small
        images that is two to three times as fast as one after the other, and no draw changes."""
        if not self.whole:
            yield from batches
            return
        while True:
            some = []
            for batch in batches:
                some.append(batch)
                if len(some) * len(batch.labels) >= CHUNK_IMAGES:
                    break
            if not some:
                return
            images = self._vary(torch.cat([b.images for b in some]), torch.cat([b.indices for b in some]), epoch)
            for batch, varied in zip(some, images.split([len(b.labels) for b in some]), strict=True):
                yield batch._replace(images=varied)

    def _vary(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        draws = uniform(self.seed, indices, "crop", epoch, count=3)
        if self.data.crop_padding > 0:
            images = augmentation.crop(images, self.data.crop_padding, draws[:, :2])
        if self.data.flip > 0:
            images = augmentation.flip(images, self.data.flip, draws[:, 2])
        if self.rand_augment is not None:
            images = self.rand_augment(images, indices, self.seed, epoch, self.share)
        return images

    def __call__(self, batch: Batch, epoch: int, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """What is left to do to a batch of `ahead`; `batch_size` is that of the global batch, of which it may be a
        part."""
        labels = batch.labels.to(self.device, non_blocking=True)
        images = self.normalize(batch.images)
        if self.erasing > 0:
            images = augmentation.random_erase(images, self.erasing, batch.indices, self.seed, epoch)
        if self.mix is not None:
            where = (None, None) if batch.unreadable else (batch.positions, batch_size)
            images, labels = self.mix(images, labels, self.seed, epoch, step, *where)
        return images.contiguous(memory_format=torch.channels_last), labels


def training_loss(logits: Tensor, targets: Tensor, recipe: RecipeSpec) -> Tensor:
    """Mean cross entropy: of labels (N,) with the recipe's smoothing, or of Mixup's distributions (N,K), smoothed."""
    smoothing = recipe.label_smoothing if targets.ndim == 1 else 0.0
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
