"""Schedules: how a budget scales epochs, batch size and learning rate of a recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from roadmap.config.compose import compose
from roadmap.config.schedule import Schedule, make_schedule
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
