"""Both ends of the roadmap train as a plain loop around torchvision's ResNet-50 and timm's ConvNeXt-T.

The loops are written as the official scripts are: model, optimizer, parameter groups and learning rate are built
without this package. Both sides have the same initial weights, images and random draws, and must have the same losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from roadmap.config.choices import Device, Precision
from roadmap.config.compose import compose
from roadmap.data.augmentation import Mix
from roadmap.data.images import Batch
from roadmap.data.loaders import MemoryLoader
from roadmap.models import drop_path
from roadmap.models.weights import convert
from roadmap.training import recipe
from roadmap.training.device import choose_device
from roadmap.training.metrics import Metrics
from roadmap.training.recipe import BatchAugment
from roadmap.training.trainer import Trainer

BATCH_SIZE, NUM_CLASSES = 16, 10
IMAGES = (
    "base=resnet50", "data=digits", "data.image_size=32", "data.stem_stride=4", "data.in_chans=3",
    "data.small_images=true", "data.crop_padding=0", "data.flip=0", "data.mean=[0.4]", "data.std=[0.3]",
)  # fmt: skip
BUDGET = (
    "budget=paper", "budget.train_images=32", "budget.test_images=20", f"budget.batch_size={BATCH_SIZE}",
    "budget.evaluations=1", "budget.allow_chance=true", "precision=fp32", "device=cpu",
    "fast_kernels=false",  # the same kernels on both sides
)  # fmt: skip


class Recorded:
    """What a run of our trainer used: initial weights, batches, draws and losses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
        """Train, and record it."""
        self.batches: list[Batch] = []
        self.kept_branches: list[Tensor] = []  # (N,) bool, for each forward pass of a block with stochastic depth
        self.mixes: list[Tensor] = []  # (5,): kept, top, bottom, left, right
        self.losses: list[float] = []
        self._record(monkeypatch)
        spec = compose(*IMAGES, *BUDGET, *overrides)
        trainer = Trainer(spec, choose_device(Device.cpu, Precision.fp32), Metrics())
        self.weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        assert isinstance(trainer.train_batches, MemoryLoader)
        self.dataset = trainer.train_batches.images  # uint8 (N,3,H,W): crop, flip, RandAugment and erasing are off
        trainer.train()
        self.num_iterations = trainer.schedule.epochs * trainer.iterations_per_epoch
        assert len(self.losses) == len(self.batches) == self.num_iterations

    def _record(self, monkeypatch: pytest.MonkeyPatch) -> None:
        augment, draw_masks, draw, loss = BatchAugment.__call__, drop_path.draw_masks, Mix.draw, recipe.training_loss

        def spy_augment(own: BatchAugment, batch: Batch, *arguments: Any) -> Any:
            self.batches.append(batch)
            return augment(own, batch, *arguments)

        def spy_masks(model: nn.Module, *arguments: Any) -> None:
            draw_masks(model, *arguments)
            layers = [module for module in model.modules() if isinstance(module, drop_path.DropPath)]
            self.kept_branches += [layer.factor > 0 for layer in layers if layer.factor is not None]

        def spy_draw(own: Mix, *arguments: Any) -> Tensor:
            drawn = draw(own, *arguments)
            self.mixes.append(drawn[:, 0])
            return drawn

        def spy_loss(*arguments: Any) -> Tensor:
            value = loss(*arguments)
            self.losses.append(float(value.detach()))
            return value

        def normalize(own: BatchAugment, images: Tensor) -> Tensor:
            return (images.to(torch.get_default_dtype()) - own.mean) / own.std

        monkeypatch.setattr(BatchAugment, "__call__", spy_augment)
        monkeypatch.setattr(BatchAugment, "normalize", normalize)
        monkeypatch.setattr(drop_path, "draw_masks", spy_masks)
        monkeypatch.setattr(Mix, "draw", spy_draw)
        monkeypatch.setattr(recipe, "training_loss", spy_loss)

    def images(self, iteration: int) -> Tensor:
        """Return the normalized images of an iteration, float32 (N,3,H,W)."""
        images = (self.dataset[self.batches[iteration].indices].to(torch.get_default_dtype()) / 255 - 0.4) / 0.3
        return images.contiguous(memory_format=torch.channels_last)


def plain_losses(
    recorded: Recorded,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rates: Callable[[int], float],
    loss_of: Callable[[int], Tensor],
) -> list[float]:
    """Return the loss of each iteration of a plain training loop."""
    losses = []
    model.to(memory_format=torch.channels_last).train()
    for iteration in range(recorded.num_iterations):
        for group in optimizer.param_groups:
            group["lr"] = rates(iteration)
        loss = loss_of(iteration)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute in float64. With 16 images per batch, a rounding in float32 changes gradients of ResNet-50 by 1 %."""
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # of the logits, before the loss
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
def test_the_baseline_trains_as_torchvisions_resnet50(monkeypatch: pytest.MonkeyPatch) -> None:
    """As references/classification/train.py of torchvision: SGD over all parameters, a step decay every 30 of 90
    epochs, here after each of 3 iterations.

    Three, because the differences between two such trainings grow 50 times and more with each iteration. The weight
    decay is 10 instead of 1e-4, so that three iterations show which parameters it applies to."""
    overrides = ("+step=baseline", "budget.epochs=10", f"budget.train_images={BATCH_SIZE}", "recipe.weight_decay=10")
    recorded = Recorded(monkeypatch, *overrides, "budget.lr_multiplier.sgd=0.1")
    model = torchvision.models.resnet50(num_classes=NUM_CLASSES)
    model.load_state_dict(convert(recorded.weights, step="baseline", reverse=True))
    peak = 0.1 * 0.1 * BATCH_SIZE / 256
    optimizer = torch.optim.SGD(model.parameters(), lr=peak, momentum=0.9, weight_decay=10)

    def loss_of(iteration: int) -> Tensor:
        return F.cross_entropy(model(recorded.images(iteration)), recorded.batches[iteration].labels)

    losses = plain_losses(recorded, model, optimizer, lambda iteration: peak * 0.1**iteration, loss_of)
    assert recorded.num_iterations == 3 and abs(losses[0] - losses[1]) > 0.05
    assert recorded.losses == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize(
    "mixed", [pytest.param(False, id="plain", marks=pytest.mark.slow), pytest.param(True, id="with Mixup and CutMix")]
)
def test_convnext_trains_as_timms_convnext_tiny(mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As main.py, engine.py and optim_factory.py of facebookresearch/ConvNeXt: AdamW without weight decay of norms,
    biases and layer scale, warm-up and cosine for each iteration, stochastic depth, label smoothing, Mixup, CutMix.

    A layer scale of 0.5 instead of 1e-6 lets the branches of the blocks decide the losses from the start. A weight
    decay of 5 instead of 0.05 lets 30 iterations show which parameters it applies to."""
    share = "budget.regularization=1" if mixed else "budget.regularization=0"
    off = ("recipe.rand_augment=null", "recipe.random_erasing=0", "network.layer_scale=0.5", "network.drop_path=0.3")
    overrides = (
        "+step=separate_downsampling",
        "recipe.weight_decay=5",
        "budget.epochs=15",
        "budget.lr_multiplier.adamw=32",
        share,
        *off,
    )
    recorded = Recorded(monkeypatch, *overrides)
    model = timm.create_model("convnext_tiny", num_classes=NUM_CLASSES, drop_path_rate=0.3, ls_init_value=0.5)
    model.load_state_dict(convert(recorded.weights, step="separate_downsampling", reverse=True))
    kept = iter(recorded.kept_branches)

    def inject(x: Tensor, rate: float = 0.0, *_: Any) -> Tensor:
        return x * next(kept)[:, None, None, None] / (1 - rate)

    monkeypatch.setattr("timm.layers.drop.drop_path", inject)
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        (others if parameter.ndim == 1 else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": 5}, {"params": others, "weight_decay": 0.0}]
    peak, total = 32 * 4e-3 * BATCH_SIZE / 4096, recorded.num_iterations
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.999), eps=1e-8)
    warmup = round(20 / 300 * total)
    steps = np.arange(total - warmup) / (total - warmup)
    cosine = 1e-6 + 0.5 * (peak - 1e-6) * (1 + np.cos(np.pi * steps))
    rates = np.concatenate([np.linspace(0, peak, warmup), cosine]).tolist()

    def loss_of(iteration: int) -> Tensor:
        partner = torch.arange(BATCH_SIZE) ^ 1
        images, labels, lam = recorded.images(iteration), recorded.batches[iteration].labels, 1.0
        if mixed:
            remaining, top, bottom, left, right = recorded.mixes[iteration].tolist()
            if remaining == 0:  # CutMix
                box = (..., slice(int(top), int(bottom)), slice(int(left), int(right)))
                images[box] = images[partner][box]
                lam = 1 - (bottom - top) * (right - left) / images[0, 0].numel()
            else:
                lam = remaining
                images = images * lam + images[partner] * (1 - lam)
        # timm's function takes the labels of mixed images from the reversed batch.
        targets = mixup_target(labels, NUM_CLASSES, 1.0, smoothing=0.1)
        targets = targets * lam + targets[partner] * (1 - lam)
        return SoftTargetCrossEntropy()(model(images), targets)

    losses = plain_losses(recorded, model, optimizer, rates.__getitem__, loss_of)
    assert total == 30 and warmup == 2 and next(kept, None) is None
    assert abs(losses[-1] - losses[0]) > 0.1
    if mixed:
        assert {float(mix[0]) == 0 for mix in recorded.mixes} == {True, False}  # both CutMix and Mixup
    assert recorded.losses == pytest.approx(losses, rel=1e-4)
