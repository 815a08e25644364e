"""What a gap between two networks depends on: its change under another setting, or with other networks.

An explanation of a gap predicts that the gap gets smaller when its cause is removed. The change is a difference of
differences over the same seeds and test images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from roadmap.analysis.statistics import Array, Difference, difference
from roadmap.analysis.table import Study

EXPLAINS, CONTRIBUTES, NO_EXPLANATION = "explains at least half", "contributes", "explains less than half"
OPPOSITE, OPEN = "has the opposite effect", "open"
# The gap gets smaller, but not because the network gets better.
OTHER_WORSE, POINTS_ONLY = "only the other network gets worse", "only in points, not in the ratio of errors"


class Network(NamedTuple):
    """A network under a setting, as a row of a study has them."""

    transforms: frozenset[str]
    setting: str = ""


class Gap(NamedTuple):
    """The network whose accuracy is to be explained, and the network that it is compared with."""

    network: Network
    other: Network


def scores_of(studies: Iterable[Study], network: Network) -> Mapping[int, Array]:
    """Return by seed the score of a network on each test image, 0 or 100. Raises KeyError if no study has the row."""
    for study in studies:
        for row in study.rows:
            if (frozenset(row.transforms), row.setting) == network:
                return {record["seed"]: record["correct"] for record in row.completed}
    raise KeyError(f"no row of {sorted(network.transforms)} with the setting {network.setting!r}")


class Effect(NamedTuple):
    """What removing a cause does to a gap; differences in percentage points."""

    gap: Difference  # with the cause
    change: Difference  # of the gap without the cause; above zero: it gets smaller
    beyond_half: Difference  # the change minus half of the size of the gap
    own_change: float  # of the top-1 of the network
    ratios: tuple[float, float]  # error of the network divided by that of the other one: with the cause, without it
    top1: tuple[float, float]  # of the network and of the other one without the cause, percent
    num_seeds: int


def measure_effect(studies: Iterable[Study], present: Gap, removed: Gap) -> Effect:
    """Return what the removal of a cause does to a gap, over the seeds that all four networks have.

    `present` is the gap with the cause, `removed` the gap without it. Raises KeyError if a network has no row, or if
    they have no seed in common.
    """
    studies = list(studies)
    scores = [scores_of(studies, network) for network in (*present, *removed)]
    seeds = sorted(set.intersection(*(set(own) for own in scores)))
    if not seeds:
        raise KeyError("the networks have no seed in common")
    first, second, new_first, new_second = (np.stack([own[seed] for seed in seeds]) for own in scores)
    before, after = first - second, new_first - new_second
    errors = [100 - float(own.mean()) for own in (first, second, new_first, new_second)]
    return Effect(
        gap=difference(before),
        change=difference(after - before),
        beyond_half=difference(after - before / 2),
        own_change=errors[0] - errors[2],
        ratios=(_ratio(errors[0], errors[1]), _ratio(errors[2], errors[3])),
        top1=(100 - errors[2], 100 - errors[3]),
        num_seeds=len(seeds),
    )


def _ratio(first: float, second: float) -> float:
    return first / second if second else math.inf


def verdict(effect: Effect) -> str:
    """Return what the effect says about a gap below zero: the rule is in experiments/fashion_mnist.md."""
    if not effect.gap.high < 0 or math.isnan(effect.change.low):
        return OPEN
    if effect.change.high < 0:
        return OPPOSITE
    if effect.change.low > 0:
        if effect.own_change <= 0:
            return OTHER_WORSE
        if effect.ratios[1] >= effect.ratios[0]:
            return POINTS_ONLY
        return EXPLAINS if effect.beyond_half.low > 0 else CONTRIBUTES
    return NO_EXPLANATION if effect.beyond_half.high < 0 else OPEN
