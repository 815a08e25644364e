"""Recipes and budgets: parameters of the optimizer, learning-rate schedule, augmentation of a batch, loss."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch

from roadmap.config.compose import compose
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schedule import make_schedule
from roadmap.config.schema import RunSpec
from roadmap.data.images import Batch
from roadmap.models.network import Network
from roadmap.training import recipe

NUM_TRAIN = 1_281_167


@cache
def composed(*overrides: str) -> RunSpec:
    return compose(*overrides)


def build(*overrides: str) -> tuple[RunSpec, Network, torch.optim.Optimizer]:
    spec = composed(*overrides)
    model = Network(spec.network)
    return spec, model, recipe.make_optimizer(model, spec.recipe, make_schedule(spec.recipe, spec.budget, NUM_TRAIN).lr)


def test_the_step_training_recipe_changes_only_the_recipe() -> None:
    before, after = composed("+step=baseline"), composed("+step=training_recipe")
    assert after.recipe == composed("recipe=modern").recipe
    fields = ("depths", "width", "stem", "depthwise", "kernel_size", "norm", "activation")
    assert all(getattr(before.network, name) == getattr(after.network, name) for name in fields)


@pytest.mark.parametrize("step", ["baseline", "training_recipe", "layer_norm", "separate_downsampling"])
def test_the_optimizer_covers_every_parameter_once(step: str) -> None:
    _, model, optimizer = build(f"+step={step}")
    covered = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(covered) == len(set(covered))
    assert set(covered) == {id(p) for p in model.parameters()}


def decayed(model: Network, optimizer: torch.optim.Optimizer) -> set[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for g in optimizer.param_groups if g["weight_decay"] > 0 for p in g["params"]}


@pytest.mark.parametrize("step", ["training_recipe", "separate_downsampling"])
def test_norms_biases_and_layer_scale_are_not_decayed(step: str) -> None:
    _, model, optimizer = build(f"+step={step}")
    weights = {name for name, p in model.named_parameters() if p.ndim > 1}
    assert decayed(model, optimizer) == weights
    others = {name for name, _ in model.named_parameters()} - weights
    assert any("norm" in n for n in others) and any("gamma" in n for n in others) and "head.bias" in others


def test_torchvisions_recipe_decays_all_parameters_unless_switched_off() -> None:
    _, model, optimizer = build("+step=baseline")
    assert decayed(model, optimizer) == {name for name, _ in model.named_parameters()}
    assert optimizer.param_groups[0]["nesterov"] is False
    _, model, optimizer = build("+step=baseline", "recipe.decay_norms_and_biases=false")
    assert decayed(model, optimizer) == {name for name, p in model.named_parameters() if p.ndim > 1}


def learning_rates(*overrides: str, iterations_per_epoch: int) -> list[float]:
    spec = composed(*overrides)
    schedule = make_schedule(spec.recipe, spec.budget, NUM_TRAIN)
    iterations = range(schedule.epochs * iterations_per_epoch)
    return [recipe.learning_rate(spec.recipe, schedule, iterations_per_epoch, i) for i in iterations]


def test_cosine_with_warmup_is_that_of_the_official_code() -> None:
    """The formula of utils.py of facebookresearch/ConvNeXt, for 300 epochs of ImageNet in batches of 4,096 images."""
    per_epoch = 1_281_167 // 4096
    rates = np.array(learning_rates("+step=gelu", "budget=paper", iterations_per_epoch=per_epoch))
    warmup, total = 20 * per_epoch, 300 * per_epoch
    i = np.arange(total - warmup)
    cosine = 1e-6 + 0.5 * (4e-3 - 1e-6) * (1 + np.cos(np.pi * i / (total - warmup)))
    expected = np.concatenate([np.linspace(0, 4e-3, warmup), cosine])
    assert rates.shape == expected.shape and np.abs(rates - expected).max() < 1e-12
    assert rates[warmup - 1] == rates[warmup] == 4e-3


@pytest.mark.parametrize("num_iterations", [1, 2, 3, 20])
def test_short_runs_have_a_finite_rate_in_each_iteration(num_iterations: int) -> None:
    spec = composed("+step=gelu", "budget.epochs=1", "budget.equal_epochs=true")
    schedule = make_schedule(spec.recipe, spec.budget, NUM_TRAIN)
    rates = [recipe.learning_rate(spec.recipe, schedule, num_iterations, i) for i in range(num_iterations)]
    assert max(rates) == schedule.lr and min(rates) >= 0


def test_step_decays_follow_a_warmup() -> None:
    overrides = ("+step=baseline", "budget=paper", "recipe.warmup_epochs=5")
    rates = learning_rates(*overrides, iterations_per_epoch=2)
    assert rates[:10] == pytest.approx(np.linspace(0, 0.1, 10).tolist())
    assert rates[10:] == pytest.approx([0.1] * 50 + [0.01] * 60 + [0.001] * 60)


def test_step_decay_every_thirty_epochs() -> None:
    rates = learning_rates("+step=baseline", "budget=paper", iterations_per_epoch=1)
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30)


def augmented_batch(*overrides: str, seed: int = 0, size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the normalized images of a random batch, the same images augmented, and the targets."""
    spec = composed("+step=gelu", *overrides)
    images = torch.randint(0, 256, (size, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(size) % 10
    augment = recipe.BatchAugment(dataclasses.replace(spec, seed=seed), torch.device("cpu"))
    augmented, targets = augment(Batch(images, labels, torch.arange(size), torch.arange(size)), 0, 1, size)
    return augment.normalize(images), augmented, targets


def test_batches_get_mixup_or_cutmix_and_smoothed_labels() -> None:
    num_cutmix = num_mixup = 0
    for seed in range(20):
        plain, mixed, targets = augmented_batch("budget.regularization=1", "recipe.random_erasing=0", seed=seed)
        assert targets.shape == (64, 10) and targets.sum(1) == pytest.approx(torch.ones(64))
        assert targets.min() == pytest.approx(0.01)  # smoothing 0.1 over ten classes
        unchanged = (mixed == plain).flatten(1).float().mean()
        num_cutmix += bool(0.02 < unchanged < 1)  # a rectangle is exchanged, the rest is unchanged
        num_mixup += bool(unchanged <= 0.02)
    assert num_cutmix >= 4 and num_mixup >= 4


def test_regularization_is_the_share_of_batches_that_change() -> None:
    plain, augmented, _ = augmented_batch("budget.regularization=0")
    assert torch.equal(plain, augmented)
    overrides = ("budget.regularization=0.5", "recipe.random_erasing=0")
    changed = [not torch.equal(*augmented_batch(*overrides, seed=seed)[:2]) for seed in range(30)]
    assert 7 <= sum(changed) <= 23


def test_random_erasing_erases_a_quarter_of_the_images() -> None:
    overrides = ("budget.regularization=1", "recipe.mixup=0", "recipe.cutmix=0")
    plain, erased, targets = augmented_batch(*overrides, size=1024)
    share = (plain != erased).flatten(1).any(1).float().mean()
    assert 0.2 < share < 0.3 and targets.ndim == 1


def test_the_loss_smooths_labels_once() -> None:
    spec = composed("+step=gelu")
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6)
    smoothed = torch.full((6, 10), 0.01)
    smoothed[range(6), labels] = 0.91
    expected = float(recipe.training_loss(logits, smoothed, spec.recipe))
    assert recipe.training_loss(logits, labels, spec.recipe) == pytest.approx(expected)


def test_the_training_recipe_is_a_config_group() -> None:
    assert load_roadmap().transforms["training_recipe"].choices == {"recipe": "modern"}
