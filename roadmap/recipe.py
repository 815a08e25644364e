"""The parts of a training recipe, from timm: optimizer, schedule, and what happens to a whole batch of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.optim import create_optimizer_v2
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.step_lr import StepLRScheduler
from torch import Tensor, nn

from roadmap import spec
from roadmap.budget import Plan
from roadmap.data.loading import channel_stats


def optimizer(model: nn.Module, recipe: spec.RecipeSpec, lr: float) -> torch.optim.Optimizer:
    """SGD with (plain) momentum or AdamW. Norms, biases and layer scale, the parameters of one dimension, are not
    decayed unless the recipe says so."""
    own = {"momentum": recipe.momentum} if recipe.optimizer is spec.Optimizer.sgd else {"betas": tuple(recipe.betas)}
    return create_optimizer_v2(
        model,
        opt="momentum" if recipe.optimizer is spec.Optimizer.sgd else "adamw",  # timm's "sgd" is Nesterov's
        lr=lr,
        weight_decay=recipe.weight_decay,
        filter_bias_and_bn=not recipe.decay_norms_and_biases,
        fused=True,
        **own,
    )


def schedule(optimizer: torch.optim.Optimizer, recipe: spec.RecipeSpec, plan: Plan, steps_per_epoch: int) -> Scheduler:
    """The learning rate as a function of the step: call `step_update(step)` before step 0, 1, ..."""
    total = plan.epochs * steps_per_epoch
    warmup = {"warmup_t": round(plan.warmup_share * total), "warmup_lr_init": 0.0, "t_in_epochs": False}
    if recipe.schedule is spec.Schedule.cosine:
        return CosineLRScheduler(optimizer, t_initial=max(total, 2), lr_min=recipe.min_lr, **warmup)
    decay_t = max(1, round(plan.decay_share * total))
    return StepLRScheduler(optimizer, decay_t=decay_t, decay_rate=recipe.decay_rate, **warmup)


class BatchAugment:
    """uint8 images (N,C,H,W) and labels (N,) -> normalized float32 images on the device and targets for `loss`.

    Random erasing draws for each image; Mixup or CutMix, one of the two with even odds, for the whole batch.
    """

    def __init__(self, run: spec.RunSpec, device: torch.device) -> None:
        data, recipe, share = run.data, run.recipe, run.budget.regularization
        self.device = device
        self.mean, self.std = (stat.to(device) for stat in channel_stats(data))
        self.erase = None
        if recipe.random_erasing * share > 0:
            self.erase = RandomErasing(recipe.random_erasing * share, mode="pixel", device=device)
        self.mixup = None
        if recipe.mixup > 0 or recipe.cutmix > 0:
            smooth = {"label_smoothing": recipe.label_smoothing, "num_classes": run.network.num_classes}
            self.mixup = Mixup(recipe.mixup, recipe.cutmix, prob=share, **smooth)

    def normalize(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True).float()
        return images.sub_(self.mean).div_(self.std)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self.normalize(images), labels.to(self.device, non_blocking=True)
        if self.erase is not None:
            images = self.erase(images)
        if self.mixup is not None:
            images, labels = self.mixup(images, labels)
        return images.contiguous(memory_format=torch.channels_last), labels


def loss(logits: Tensor, targets: Tensor, recipe: spec.RecipeSpec) -> Tensor:
    """Mean cross entropy: of labels (N,) with the recipe's smoothing, or of Mixup's distributions (N,K), smoothed."""
    smoothing = recipe.label_smoothing if targets.ndim == 1 else 0.0
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
