"""Every setting of the paper's Table 5, and of torchvision's original recipe, read off the objects that train."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import timm.data.auto_augment
import torch
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from roadmap.config.choices import Device, Precision
from roadmap.config.compose import compose
from roadmap.data import datasets
from roadmap.data.images import Batch
from roadmap.data.loaders import WorkerLoader
from roadmap.models.drop_path import DropPath
from roadmap.models.layers import LayerScale
from roadmap.models.network import Network
from roadmap.training import recipe
from roadmap.training.device import choose_device
from roadmap.training.metrics import Metrics
from roadmap.training.trainer import Trainer

IMAGENET = 1_281_167  # training images


class Images(datasets.ImageArray):
    """As many images as ImageNet has, all of them black."""

    def __init__(self, count: int) -> None:
        super().__init__(np.zeros((1, 256, 256, 3), np.uint8), np.zeros(count, np.int64))

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(0)


@pytest.fixture
def trainer_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Trainer]:
    """Trainers of ImageNet at the paper's budget."""
    splits = datasets.Splits(Images(IMAGENET), Images(50_000))
    monkeypatch.setattr(datasets, "load", Mock(return_value=splits))
    for number in range(2000):
        (tmp_path / ("train" if number < 1000 else "val") / f"class {number % 1000}").mkdir(parents=True)

    def build(*overrides: str) -> Trainer:
        data = ("data=imagenet", f"data.root={tmp_path}", "data.workers=0", "accumulate=1")
        spec = compose("base=resnet50", *data, "budget=paper", "device=cpu", *overrides)
        return Trainer(spec, choose_device(Device.cpu, Precision.fp32), Metrics())

    return build


def rates_of(trainer: Trainer, iterations: list[int]) -> list[float]:
    """Return the learning rate that the optimizer has for all parameters in iterations of the whole run."""
    monitored = []
    forward = trainer.wrap_model()
    trainer.norm_groups.layers = []  # no batch, no statistics
    trainer.split.parts = []
    for iteration in iterations:
        trainer.epoch, trainer.iteration = divmod(iteration, trainer.iterations_per_epoch)
        trainer.train_iteration(forward, iter(()))
        (rate,) = {group["lr"] for group in trainer.optimizer.param_groups}
        monitored.append(rate)
    return monitored


def decays_of(trainer: Trainer) -> dict[str, float]:
    """Return the weight decay of each parameter."""
    groups = trainer.optimizer.param_groups
    decay_of_id = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    return {name: decay_of_id.pop(id(parameter)) for name, parameter in trainer.model.named_parameters()}


def image_transforms(trainer: Trainer) -> tuple[list[Any], list[Any]]:
    """Return the transforms of the training and the test images, which the loaders apply."""
    assert isinstance(trainer.train_batches, WorkerLoader)
    transform: Any = trainer.train_batches.source.transform
    return transform.transforms, trainer.test_batches.dataset.transform.transforms


def check_crops(trainer: Trainer, interpolation: InterpolationMode) -> None:
    (crop, flip, *_), (resize, centre_crop, *_) = image_transforms(trainer)
    assert isinstance(crop, RandomResizedCropAndInterpolation) and isinstance(flip, transforms.RandomHorizontalFlip)
    assert crop.size == (224, 224) and crop.scale == (0.08, 1.0) and crop.ratio == (3 / 4, 4 / 3) and flip.p == 0.5
    assert crop.interpolation == resize.interpolation == interpolation
    assert resize.size == 256 and tuple(centre_crop.size) == (224, 224)
    for stat, values in ((trainer.augment.mean, [0.485, 0.456, 0.406]), (trainer.augment.std, [0.229, 0.224, 0.225])):
        torch.testing.assert_close(stat.flatten(), 255 * torch.tensor(values))


def check_batches(trainer: Trainer, batch_size: int, norm_batch_size: int) -> None:
    assert isinstance(trainer.train_batches, WorkerLoader)
    trainer.train_batches.sampler.epoch = 0
    assert {len(batch) for batch in trainer.train_batches.loader.batch_sampler} == {batch_size}  # type: ignore[arg-type]
    assert trainer.iterations_per_epoch == IMAGENET // batch_size
    trainer.wrap_model()
    count = batch_size // norm_batch_size
    assert trainer.split.norm_groups(trainer.split.parts[0]) == [(number, norm_batch_size) for number in range(count)]
    num_batch_norms = sum(isinstance(module, nn.BatchNorm2d) for module in trainer.model.modules())
    assert len(trainer.norm_groups.layers) == num_batch_norms


def test_table_5_trains_convnext(trainer_of: Callable[..., Trainer]) -> None:
    trainer = trainer_of("+step=separate_downsampling", "+ingredient=[ema]")
    optimizer, augment, per_epoch = trainer.optimizer, trainer.augment, IMAGENET // 4096
    # Optimizer, momentum, weight decay. No layer-wise decay of the learning rate: `rates_of` finds one rate for all.
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(*group["betas"], group["eps"], group["amsgrad"]) for group in optimizer.param_groups} == {
        (0.9, 0.999, 1e-8, False)
    }
    for name, decay in decays_of(trainer).items():
        assert decay == (0.05 if trainer.model.get_parameter(name).ndim > 1 else 0), name
    # Initial weights: truncated normal. The head has no scale of its own.
    for module in trainer.model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight, bias = module.weight.detach(), module.bias
            assert bias is not None and not bias.any()
            deviations = 6 / math.sqrt(2 * weight.numel())
            assert float(weight.std()) == pytest.approx(0.02, rel=deviations)
            assert abs(float(weight.mean())) < 6 * 0.02 / math.sqrt(weight.numel())
    gammas = [module.gamma for module in trainer.model.modules() if isinstance(module, LayerScale)]
    assert len(gammas) == 18 and all(bool((gamma == 1e-6).all()) for gamma in gammas)
    rates = [module.rate for module in trainer.model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.1 * block / 17 for block in range(1, 18)])
    # Augmentation and loss.
    check_crops(trainer, InterpolationMode.BICUBIC)
    (_, _, rand_augment, _), _ = image_transforms(trainer)
    assert isinstance(rand_augment, timm.data.auto_augment.RandAugment) and rand_augment.num_layers == 2
    assert {op.name for op in rand_augment.ops} == set(timm.data.auto_augment._RAND_INCREASING_TRANSFORMS)
    assert {(op.magnitude, op.magnitude_std, op.prob) for op in rand_augment.ops} == {(9, 0.5, 0.5)}
    mix = augment.mix
    assert mix is not None and augment.erasing == 0.25
    assert (mix.mixup, mix.cutmix, mix.probability, mix.elementwise, mix.group_size) == (0.8, 1.0, 1.0, False, 128)
    batch = Batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2).long(), torch.arange(2), torch.arange(2))
    _, targets = augment(batch, 0, 0, 2)
    torch.testing.assert_close(targets, torch.full((2, 1000), 1e-4).index_fill(1, torch.tensor(0), 0.9001))
    logits = torch.randn(2, 1000)
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(recipe.training_loss(logits, targets, trainer.spec.recipe), expected)
    # Moving average, batch size, epochs and learning rate.
    assert trainer.ema is not None and trainer.ema.decay == 0.9999
    check_batches(trainer, 4096, 128)
    assert trainer.schedule.epochs == 300
    last, peak = 300 * per_epoch - 1, 20 * per_epoch
    found = rates_of(trainer, [0, (peak - 1) // 3, peak - 1, peak, (peak + last + 1) // 2, last])
    warming, middle = 4e-3 * ((peak - 1) // 3) / (peak - 1), (4e-3 + 1e-6) / 2
    assert found == pytest.approx([0, warming, 4e-3, 4e-3, middle, 1e-6], rel=1e-4, abs=1e-9)


def test_table_5_normalizes_128_images_together(trainer_of: Callable[..., Trainer]) -> None:
    """ResNet with the enhanced recipe; its official runs do not synchronize BatchNorm."""
    trainer = trainer_of("+step=training_recipe")
    check_batches(trainer, 4096, 128)
    assert len(trainer.norm_groups.layers) == 53 and trainer.ema is None


def test_torchvisions_recipe_trains_the_baseline(trainer_of: Callable[..., Trainer]) -> None:
    """Batch size, rate and schedule of references/classification: 8 GPUs with 32 images each."""
    trainer = trainer_of("+step=baseline")
    optimizer, augment, per_epoch = trainer.optimizer, trainer.augment, IMAGENET // 256
    assert isinstance(optimizer, torch.optim.SGD)
    options = {(group["momentum"], group["dampening"], group["nesterov"]) for group in optimizer.param_groups}
    assert options == {(0.9, 0, False)} and set(decays_of(trainer).values()) == {1e-4}
    for module in trainer.model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        assert not isinstance(module, DropPath | LayerScale)
    check_crops(trainer, InterpolationMode.BILINEAR)
    assert len(image_transforms(trainer)[0]) == 3  # crop, flip, conversion to a tensor
    assert augment.mix is None and augment.erasing == 0 and trainer.ema is None
    labels, logits = torch.tensor([3, 5]), torch.randn(2, 1000)
    loss = recipe.training_loss(logits, labels, trainer.spec.recipe)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, labels))
    check_batches(trainer, 256, 32)
    assert trainer.schedule.epochs == 90 and len(trainer.norm_groups.layers) == 53
    found = rates_of(trainer, [epoch * per_epoch + offset for epoch in (0, 30, 60, 90) for offset in (-1, 0)][1:-1])
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_the_larger_regime_has_the_stochastic_depth_of_convnext_b() -> None:
    with torch.device("meta"):
        model = Network(compose("+step=separate_downsampling", "base=resnet200").network)
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.5 * block / 35 for block in range(1, 36)])
