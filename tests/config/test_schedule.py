"""Schedules: how a budget scales epochs, batch size and learning rate of a recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from roadmap.config.compose import compose
from roadmap.config.schedule import Schedule, fit_to_dataset, make_schedule
from roadmap.config.schema import OptimizerFactors


def test_a_budget_scales_both_recipes() -> None:
    def scaled(step: str, **budget: Any) -> Schedule:
        spec = compose(f"+step={step}", "budget=paper")
        return make_schedule(spec.recipe, dataclasses.replace(spec.budget, epochs=30, batch_size=512, **budget))

    modern, baseline = scaled("gelu"), scaled("baseline")
    assert (modern.epochs, baseline.epochs) == (30, 9)  # 300 to 90
    assert (modern.lr, baseline.lr) == pytest.approx((4e-3 / 8, 0.2))  # linear in the batch size
    assert (modern.warmup_share, baseline.decay_share) == pytest.approx((20 / 300, 1 / 3))
    assert scaled("gelu", equal_epochs=True).epochs == scaled("baseline", equal_epochs=True).epochs == 30
    factors = OptimizerFactors(sgd=5, adamw=3)
    assert scaled("gelu", lr_multiplier=factors).lr == pytest.approx(3 * modern.lr)
    assert scaled("baseline", lr_multiplier=factors).lr == pytest.approx(5 * baseline.lr)


def test_smoke_is_reduced_to_the_size_of_a_small_dataset() -> None:
    spec = compose("+step=gelu", "budget=smoke")
    full = make_schedule(spec.recipe, spec.budget)
    assert full == make_schedule(spec.recipe, spec.budget, 128) and full.batch_size == 32
    small = make_schedule(spec.recipe, spec.budget, 19)
    assert small.batch_size == 18 and small.lr == pytest.approx(full.lr * 18 / 32)  # even, for Mixup
    assert [fit_to_dataset(spec.budget, name, 20) for name in ("train_images", "test_images", "batch_size")] == [20] * 3
    assert fit_to_dataset(spec.budget, "train_images", 1000) == 128


@pytest.mark.parametrize(
    ("overrides", "batch_size", "train_images"),
    [
        (["budget=smoke", "budget.batch_size=24", "budget.train_images=100"], 24, 100),
        (["budget.batch_size=32", "budget.train_images=128"], 32, 128),  # budget=quick
        (["budget=smoke", "budget.batch_size=null", "budget.train_images=null"], 4096, None),
    ],
)
def test_numbers_of_the_user_are_not_reduced(overrides: list[str], batch_size: int, train_images: int | None) -> None:
    spec = compose("+step=gelu", *overrides)
    assert make_schedule(spec.recipe, spec.budget, 20).batch_size == batch_size
    assert fit_to_dataset(spec.budget, "train_images", 20) == train_images
