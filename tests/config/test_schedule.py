"""Schedules: how a budget scales epochs, batch size and learning rate of a recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from roadmap.config.compose import compose
from roadmap.config.schedule import LARGEST_SHORT_RUN_FACTOR, Schedule, fit_to_dataset, make_schedule
from roadmap.config.schema import OptimizerFactors

IMAGENET = 1_281_167  # training images


def test_a_budget_scales_both_recipes() -> None:
    def scaled(step: str, **budget: Any) -> Schedule:
        spec = compose(f"+step={step}", "budget=paper")
        return make_schedule(spec.recipe, dataclasses.replace(spec.budget, epochs=30, batch_size=512, **budget), 50_000)

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
    full = make_schedule(spec.recipe, spec.budget, 128)
    assert full == make_schedule(spec.recipe, spec.budget, 50_000) and full.batch_size == 32
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


@pytest.mark.parametrize(
    ("num_train", "overrides", "iterations", "factor"),
    [
        (50_000, ["budget.epochs=15", "budget.batch_size=128"], 15 * 390, 16**1.5),
        (IMAGENET, ["budget.epochs=10", "budget.batch_size=256"], 10 * 5004, (93_600 / 50_040) ** 1.5),
        (IMAGENET, ["budget.epochs=300", "budget.batch_size=4096"], 93_600, 1),  # the paper's run
        (IMAGENET, ["budget.epochs=300", "budget.batch_size=1024"], 300 * 1251, 1),
        (50_000, ["budget=paper", "budget.epochs=2"], 2 * 12, 1),  # only quick has the factor
    ],
)
def test_the_rate_of_adamw_is_higher_in_short_runs(
    num_train: int, overrides: list[str], iterations: int, factor: float
) -> None:
    schedule = schedule_of(*overrides, num_train=num_train)
    assert schedule.epochs * (num_train // schedule.batch_size) == iterations
    assert schedule.lr_multiplier == pytest.approx(factor)
    assert schedule.lr == pytest.approx(4e-3 * schedule.batch_size / 4096 * factor)


def test_a_very_short_run_has_the_largest_factor() -> None:
    """The rate of SGD and a factor that the user sets do not depend on the number of iterations."""
    factors = {num_train: schedule_of(num_train=num_train).lr_multiplier for num_train in (64, 640, 64_000)}
    assert factors[64] == factors[640] == LARGEST_SHORT_RUN_FACTOR > factors[64_000] > 1
    assert schedule_of("recipe=baseline", num_train=640).lr_multiplier == 1
    assert schedule_of("budget.lr_multiplier.adamw=3", num_train=640).lr_multiplier == 3


def schedule_of(*overrides: str, num_train: int) -> Schedule:
    spec = compose("+step=gelu", *overrides)
    return make_schedule(spec.recipe, spec.budget, num_train)
