"""Changes of a gap between two networks, and what they say about its cause."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from roadmap.analysis.gaps import (
    CONTRIBUTES,
    EXPLAINS,
    NO_EXPLANATION,
    OPEN,
    Gap,
    Network,
    change_of_gap,
    measure_gap,
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
    gap, change = measure_gap([found], STANDARD), change_of_gap([found], STANDARD, LONG)
    assert gap.mean == pytest.approx(-4, abs=1.2) and gap.low < gap.mean < gap.high < 0
    assert change.mean == pytest.approx(3, abs=1.6) and 0 < change.low < change.mean < change.high
    means = {network: np.mean([s.mean() for s in scores_of([found], network).values()]) for network in values}
    assert gap.mean == pytest.approx(means[STANDARD.network] - means[STANDARD.other])
    assert change.mean == pytest.approx(means[LONG.network] - means[LONG.other] - gap.mean)


def test_only_common_seeds_count_and_rows_may_be_in_several_studies() -> None:
    short = study({STANDARD.network: 86.0, STANDARD.other: 90.0}, range(5))
    long = study({LONG.network: 91.0, LONG.other: 92.0}, range(3, 8))
    change = change_of_gap([short, long], STANDARD, LONG)
    expected = []
    for seed in (3, 4):
        scores = {network: scores_of([short, long], network)[seed].mean() for network in (*STANDARD, *LONG)}
        after = scores[LONG.network] - scores[LONG.other]
        expected.append(after - (scores[STANDARD.network] - scores[STANDARD.other]))
    assert change.mean == pytest.approx(np.mean(expected))


def test_a_row_that_no_study_has_is_named() -> None:
    with pytest.raises(KeyError, match=r"no row of \['gelu', 'training_recipe'\] with the setting 'seed=3'"):
        scores_of([study({STANDARD.network: 90.0})], Network(CONVNEXT, "seed=3"))


@pytest.mark.parametrize(
    ("low", "mean", "high", "expected"),
    [
        (0.2, 0.6, 1.0, EXPLAINS),
        (0.1, 0.4, 0.7, CONTRIBUTES),
        (-0.3, 0.0, 0.3, NO_EXPLANATION),
        (-0.9, -0.5, -0.1, NO_EXPLANATION),
        (-0.3, 0.2, 0.7, OPEN),
        (math.nan, 0.6, math.nan, OPEN),
    ],
)
def test_the_verdict_follows_from_the_interval_and_half_of_the_gap(
    low: float, mean: float, high: float, expected: str
) -> None:
    assert verdict(Difference(mean, low, high, 0.5, 0.1), gap=-1.0) == expected


def test_without_a_gap_there_is_nothing_to_explain() -> None:
    assert verdict(Difference(0.6, 0.2, 1.0, 0.01, 0.1), gap=0.5) == OPEN
