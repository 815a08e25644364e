"""Recipes and budgets: what the optimizer covers, how the schedule runs, what happens to a batch."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from typing import Any

import pytest
import torch

from roadmap.config.compose import compose
from roadmap.config.schedule import make_schedule
from roadmap.config.schema import RunSpec
from roadmap.config.steps import all_transforms
from roadmap.data.images import Batch
from roadmap.models.network import Network
from roadmap.training import recipe

MODERN = ("+step=separate_downsampling", "budget=paper")


def built(*words: str) -> tuple[RunSpec, Network, torch.optim.Optimizer]:
    spec = compose(*words)
    model = Network(spec.network)
    return spec, model, recipe.make_optimizer(model, spec.recipe, make_schedule(spec.recipe, spec.budget).lr)


def test_the_modern_recipe_is_table_5() -> None:
    spec = compose(*MODERN, "base=resnet50")
    r = spec.recipe
    assert (r.epochs, r.warmup_epochs, r.batch_size, r.lr, r.weight_decay) == (300, 20, 4096, 4e-3, 0.05)
    assert (r.optimizer.value, r.betas, r.schedule.value, r.min_lr) == ("adamw", [0.9, 0.999], "cosine", 1e-6)
    assert (r.rand_augment, r.mixup, r.cutmix, r.random_erasing) == ("rand-m9-mstd0.5-inc1", 0.8, 1.0, 0.25)
    assert (r.label_smoothing, r.interpolation, r.test_crop) == (0.1, "bicubic", 0.875)
    n = spec.network
    assert (n.drop_path, n.layer_scale, n.init.value) == (0.1, 1e-6, "trunc_normal")
    assert compose(*MODERN, "base=resnet200").network.drop_path == 0.5
    p = make_schedule(r, spec.budget)
    assert (p.epochs, p.batch_size, p.lr) == (300, 4096, 4e-3)


def test_the_baseline_recipe_is_torchvisions() -> None:
    spec = compose("+step=baseline", "budget=paper")
    r = spec.recipe
    assert (r.epochs, r.warmup_epochs, r.batch_size, r.lr, r.weight_decay) == (90, 0, 256, 0.1, 1e-4)
    assert (r.optimizer.value, r.momentum, r.schedule.value, r.decay_epochs, r.decay_rate) == (
        "sgd",
        0.9,
        "step",
        30,
        0.1,
    )
    assert (r.rand_augment, r.mixup, r.cutmix, r.random_erasing, r.label_smoothing) == (None, 0, 0, 0, 0)
    assert (spec.network.layer_scale, spec.network.drop_path, spec.network.init.value) == (None, 0, "kaiming")


def test_the_training_recipe_switches_nothing_but_the_recipe() -> None:
    before, after = compose("+step=baseline"), compose("+step=training_recipe")
    assert after.recipe == compose("recipe=modern").recipe
    same = ("depths", "width", "stem", "depthwise", "kernel_size", "norm", "activation")
    assert all(getattr(before.network, name) == getattr(after.network, name) for name in same)


@pytest.mark.parametrize("step", ["baseline", "training_recipe", "layer_norm", "separate_downsampling"])
def test_the_optimizer_covers_every_parameter_once(step: str) -> None:
    _, model, optimizer = built(f"+step={step}")
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters()}


def decayed(model: Network, optimizer: torch.optim.Optimizer) -> set[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for g in optimizer.param_groups if g["weight_decay"] > 0 for p in g["params"]}


@pytest.mark.parametrize("step", ["training_recipe", "separate_downsampling"])
def test_norms_biases_and_layer_scale_are_not_decayed(step: str) -> None:
    _, model, optimizer = built(f"+step={step}")
    weights = {name for name, p in model.named_parameters() if p.ndim > 1}
    assert decayed(model, optimizer) == weights
    spared = {name for name, _ in model.named_parameters()} - weights
    assert any("norm" in n for n in spared) and any("gamma" in n for n in spared) and "head.bias" in spared


def test_torchvisions_recipe_decays_everything_and_can_be_told_not_to() -> None:
    _, model, optimizer = built("+step=baseline")
    assert decayed(model, optimizer) == {name for name, _ in model.named_parameters()}
    assert optimizer.param_groups[0]["nesterov"] is False
    _, model, optimizer = built("+step=baseline", "recipe.decay_norms_and_biases=false")
    assert decayed(model, optimizer) == {name for name, p in model.named_parameters() if p.ndim > 1}


def learning_rates(*words: str, steps_per_epoch: int) -> list[float]:
    spec, _, optimizer = built(*words)
    todo = make_schedule(spec.recipe, spec.budget)
    schedule = recipe.make_lr_schedule(optimizer, spec.recipe, todo, steps_per_epoch)
    rates = []
    for step in range(todo.epochs * steps_per_epoch):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_cosine_with_warmup() -> None:
    rates = learning_rates("+step=gelu", "budget=paper", steps_per_epoch=2)
    assert rates[0] == 0 and max(rates) == pytest.approx(4e-3, rel=0.02)
    assert rates[:41] == pytest.approx([4e-3 * i / 40 for i in range(40)] + [rates[40]])  # 20 epochs, linear
    assert all(a > b for a, b in itertools.pairwise(rates[40:]))
    assert rates[300] == pytest.approx(2e-3, rel=0.01) and rates[-1] == pytest.approx(1e-6, rel=0.2)


def test_steps_every_thirty_epochs() -> None:
    rates = learning_rates("+step=baseline", "budget=paper", steps_per_epoch=1)
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30)


def test_a_budget_scales_both_recipes() -> None:
    def planned(step: str, *words: str) -> Any:
        spec = compose(f"+step={step}", "budget=paper", *words)
        return make_schedule(spec.recipe, spec.budget)

    words = ("budget.epochs=30", "budget.batch_size=512")
    modern, baseline = planned("gelu", *words), planned("baseline", *words)
    assert (modern.epochs, baseline.epochs) == (30, 9)  # 300 to 90
    assert (modern.lr, baseline.lr) == pytest.approx((4e-3 / 8, 0.2))  # linear in the batch size
    assert (modern.warmup_share, baseline.decay_share) == pytest.approx((20 / 300, 1 / 3))
    equal = (*words, "budget.equal_epochs=true")
    assert planned("gelu", *equal).epochs == planned("baseline", *equal).epochs == 30
    factors = (*words, "budget.lr_multiplier.adamw=3", "budget.lr_multiplier.sgd=5")
    assert planned("gelu", *factors).lr == pytest.approx(3 * modern.lr)
    assert planned("baseline", *factors).lr == pytest.approx(5 * baseline.lr)


@cache
def composed(*words: str) -> RunSpec:
    return compose("+step=gelu", *words)


def batch(*words: str, seed: int = 0, size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The normalized images of a random batch, the same augmented, and the targets."""
    spec = composed(*words)
    images = torch.randint(0, 256, (size, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(size) % 10
    augment = recipe.BatchAugment(dataclasses.replace(spec, seed=seed), torch.device("cpu"))
    mixed, targets = augment(Batch(images, labels, torch.arange(size), torch.arange(size)), 0, 1, size)
    return augment.normalize(images), mixed, targets


def test_mixup_and_cutmix_take_turns_and_smooth_the_labels() -> None:
    cut = mixed_up = 0
    for seed in range(20):
        plain, mixed, targets = batch("budget.regularization=1", "recipe.random_erasing=0", seed=seed)
        assert targets.shape == (64, 10) and targets.sum(1) == pytest.approx(torch.ones(64))
        assert targets.min() == pytest.approx(0.01)  # smoothing 0.1 over ten classes
        kept = (mixed == plain).flatten(1).float().mean()
        cut += bool(0.02 < kept < 1)  # a rectangle is exchanged, the rest untouched
        mixed_up += bool(kept <= 0.02)
    assert cut >= 4 and mixed_up >= 4


def test_regularization_is_a_share() -> None:
    off = ("budget.regularization=0",)
    plain, mixed, _ = batch(*off)
    assert torch.equal(plain, mixed)
    touched = [
        not torch.equal(*batch("budget.regularization=0.5", "recipe.random_erasing=0", seed=s)[:2]) for s in range(30)
    ]
    assert 7 <= sum(touched) <= 23


def test_random_erasing_erases_a_quarter_of_the_images() -> None:
    words = ("budget.regularization=1", "recipe.mixup=0", "recipe.cutmix=0")
    plain, erased, targets = batch(*words, size=1024)
    share = (plain != erased).flatten(1).any(1).float().mean()
    assert 0.2 < share < 0.3 and targets.ndim == 1


def test_the_loss_smooths_labels_once() -> None:
    spec = compose("+step=gelu")
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6)
    smooth = torch.full((6, 10), 0.01)
    smooth[range(6), labels] = 0.91
    assert recipe.training_loss(logits, labels, spec.recipe) == pytest.approx(
        float(recipe.training_loss(logits, smooth, spec.recipe))
    )


def test_transforms_know_their_recipe() -> None:
    assert all_transforms()["training_recipe"].sets == {"recipe": "modern"}
