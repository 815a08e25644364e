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

EXPLAINS, CONTRIBUTES, NO_EXPLANATION, OPEN = "explains the gap", "contributes", "does not explain it", "open"


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


def gap_cells(studies: Iterable[Study], gap: Gap) -> Mapping[int, Array]:
    """Return by seed the difference of scores on each test image."""
    studies = list(studies)
    first, second = (scores_of(studies, network) for network in gap)
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def measure_gap(studies: Iterable[Study], gap: Gap) -> Difference:
    """Return the gap in percentage points, with its interval over seeds and test images."""
    return difference(np.stack(list(gap_cells(studies, gap).values())))


def change_of_gap(studies: Iterable[Study], standard: Gap, changed: Gap) -> Difference:
    """Return by how many percentage points the gap is higher in `changed`, over the seeds that both have."""
    studies = list(studies)
    before, after = (gap_cells(studies, gap) for gap in (standard, changed))
    return difference(np.stack([after[seed] - before[seed] for seed in sorted(before.keys() & after.keys())]))


def verdict(effect: Difference, gap: float) -> str:
    """Return what the effect of removing a cause says about a gap below zero (percentage points).

    `effect` is positive if the gap gets smaller, as the explanation predicts.
    """
    half = -gap / 2
    if not half > 0 or math.isnan(effect.low):
        return OPEN
    if effect.low > 0:
        return EXPLAINS if effect.mean >= half else CONTRIBUTES
    return NO_EXPLANATION if effect.high < half else OPEN
