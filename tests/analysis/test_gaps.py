"""Changes of a gap between two networks, and what they say about its cause."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from roadmap.analysis.gaps import (
    CONTRIBUTES,
    EXPLAINS,
    NO_EXPLANATION,
    OPEN,
    OPPOSITE,
    OTHER_WORSE,
    POINTS_ONLY,
    Effect,
    Gap,
    Network,
    measure_effect,
    scores_of,
    verdict,
)
from roadmap.analysis.statistics import Difference
from roadmap.analysis.table import Study

RESNET, CONVNEXT = frozenset({"training_recipe"}), frozenset({"training_recipe", "gelu"})
STANDARD = Gap(Network(CONVNEXT), Network(RESNET))
LONG = Gap(Network(CONVNEXT, "budget.epochs=64"), Network(RESNET, "budget.epochs=64"))


def study(accuracies: dict[Network, float], seeds: range = range(5), num_images: int = 4000) -> Study:
    """Return a study with rows of these accuracies (percent); each seed has its own draws."""
    rows: list[Any] = []
    for i, (network, accuracy) in enumerate(accuracies.items()):
        records = [
            {"seed": s, "correct": 100.0 * (np.random.default_rng([i, s]).random(num_images) < accuracy / 100)}
            for s in seeds
        ]
        rows.append(SimpleNamespace(transforms=list(network.transforms), setting=network.setting, completed=records))
    return cast(Study, SimpleNamespace(rows=rows))


def test_the_gap_and_its_change_are_differences_over_the_same_seeds() -> None:
    values = {STANDARD.network: 86.0, STANDARD.other: 90.0, LONG.network: 91.0, LONG.other: 92.0}
    found = study(values)
    effect = measure_effect([found], STANDARD, LONG)
    gap, change = effect.gap, effect.change
    assert gap.mean == pytest.approx(-4, abs=1.2) and gap.low < gap.mean < gap.high < 0
    assert change.mean == pytest.approx(3, abs=1.6) and 0 < change.low < change.mean < change.high
    means = {network: mean_of(scores_of([found], network).values()) for network in values}
    assert gap.mean == pytest.approx(means[STANDARD.network] - means[STANDARD.other])
    assert change.mean == pytest.approx(means[LONG.network] - means[LONG.other] - gap.mean)
    assert effect.beyond_half.mean == pytest.approx(change.mean + gap.mean / 2)
    assert effect.own_change == pytest.approx(means[LONG.network] - means[STANDARD.network])
    assert effect.top1 == pytest.approx((means[LONG.network], means[LONG.other])) and effect.num_seeds == 5
    ratios = [(100 - means[first]) / (100 - means[second]) for first, second in (STANDARD, LONG)]
    assert effect.ratios == pytest.approx(tuple(ratios))


def mean_of(scores: Iterable[np.ndarray]) -> float:
    return float(np.mean([own.mean() for own in scores]))


def test_only_common_seeds_count_and_rows_may_be_in_several_studies() -> None:
    short = study({STANDARD.network: 86.0, STANDARD.other: 90.0}, range(5))
    long = study({LONG.network: 91.0, LONG.other: 92.0}, range(3, 8))
    effect = measure_effect([short, long], STANDARD, LONG)
    expected = []
    for seed in (3, 4):
        scores = {network: scores_of([short, long], network)[seed].mean() for network in (*STANDARD, *LONG)}
        after = scores[LONG.network] - scores[LONG.other]
        expected.append(after - (scores[STANDARD.network] - scores[STANDARD.other]))
    assert effect.change.mean == pytest.approx(np.mean(expected)) and effect.num_seeds == 2
    with pytest.raises(KeyError, match="no seed in common"):
        measure_effect([short, study({LONG.network: 91.0, LONG.other: 92.0}, range(5, 8))], STANDARD, LONG)


def test_a_row_that_no_study_has_is_named() -> None:
    with pytest.raises(KeyError, match=r"no row of \['gelu', 'training_recipe'\] with the setting 'seed=3'"):
        scores_of([study({STANDARD.network: 90.0})], Network(CONVNEXT, "seed=3"))


def make_effect(change: tuple[float, float], beyond_half: tuple[float, float]) -> Effect:
    """Return an effect on a gap of -1; the tuples are the ends of intervals."""
    gap, change_, beyond = (
        Difference((low + high) / 2, low, high, 0.5, 0.1) for low, high in ((-1.2, -0.8), change, beyond_half)
    )
    return Effect(gap, change_, beyond, own_change=0.5, ratios=(1.1, 1.0), top1=(90.0, 91.0), num_seeds=5)


@pytest.mark.parametrize(
    ("change", "beyond_half", "expected"),
    [
        ((0.6, 1.0), (0.1, 0.5), EXPLAINS),
        ((0.1, 1.0), (-0.4, 0.5), CONTRIBUTES),
        ((0.1, 0.4), (-0.4, -0.1), CONTRIBUTES),
        ((-0.3, 0.3), (-0.8, -0.2), NO_EXPLANATION),
        ((-0.9, -0.1), (-1.4, -0.6), OPPOSITE),
        ((-0.3, 0.7), (-0.8, 0.2), OPEN),
        ((math.nan, math.nan), (math.nan, math.nan), OPEN),
    ],
)
def test_the_verdict_follows_from_the_intervals(
    change: tuple[float, float], beyond_half: tuple[float, float], expected: str
) -> None:
    assert verdict(make_effect(change, beyond_half)) == expected


def test_a_smaller_gap_explains_nothing_if_the_network_does_not_get_better() -> None:
    effect = make_effect((0.6, 1.0), (0.1, 0.5))
    assert verdict(effect._replace(own_change=-0.1)) == OTHER_WORSE
    assert verdict(effect._replace(ratios=(1.1, 1.1))) == POINTS_ONLY


def test_without_a_gap_there_is_nothing_to_explain() -> None:
    uncertain = Difference(-0.5, -1.1, 0.1, 0.1, 0.1)
    assert verdict(make_effect((0.6, 1.0), (0.1, 0.5))._replace(gap=uncertain)) == OPEN
