"""Agreement of a study with the published numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from roadmap.analysis import published
from roadmap.analysis.statistics import CONFIDENCE, LEVEL, NO_INTERVAL, RESAMPLES, Array, _holm, as_array

ORDERS = 2**17  # of steps, drawn for one p


@dataclass(frozen=True)
class Agreement:
    """With the paper: its own resolved steps, and all of its steps."""

    steps: int  # resolved in the paper and at hand here
    same_sign: int
    sign_low: float  # 95 % interval of the share of same signs, over seeds
    sign_high: float
    all_steps: int
    tau: float  # Kendall's, of the gains
    tau_low: float
    tau_high: float
    tau_p: float  # see `order_p`


def agreement(accuracies: Mapping[str, Array], table: int) -> Agreement | None:
    """Of the gains along the paper's path with those that its Table 10 or 11 prints; step -> accuracy of each seed.

    A gain is that over the step before, where both are at hand. Intervals by bootstrap over the seeds of each step,
    scaled for their number. None with fewer than three gains.
    """
    printed, before = published.gains(table), published.before(table)
    steps = [step for step in printed if step in accuracies and before[step] in accuracies]
    if len(steps) < 3:
        return None
    theirs = as_array([printed[step] for step in steps])
    marked = np.array([step in resolved_by_paper(table) for step in steps])

    def gained(means: Mapping[str, float]) -> Array:
        return as_array([means[step] - means[before[step]] for step in steps]).round(9)

    def scores(mine: Array) -> tuple[float, float]:
        same = np.sign(mine[marked]) == np.sign(theirs[marked])
        tau = stats.kendalltau(mine, theirs).statistic if np.ptp(mine) > 0 else 0.0
        return float(same.mean()) if marked.any() else math.nan, float(tau)

    def another(values: Array) -> float:
        scale = math.sqrt(len(values) / (len(values) - 1))
        return float(values.mean() + scale * (generator.choice(values, len(values)).mean() - values.mean()))

    mine = gained({step: values.mean() for step, values in accuracies.items()})
    share, tau = scores(mine)
    sign, taus, generator = NO_INTERVAL, NO_INTERVAL, np.random.default_rng(0)
    if all(len(values) > 1 for values in accuracies.values()):
        others = ({s: another(values) for s, values in accuracies.items()} for _ in range(RESAMPLES // 2))
        drawn = [scores(gained(means)) for means in others]
        ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        sign, taus = (tuple(np.quantile(column, ends)) for column in zip(*drawn, strict=True))
    count = int(marked.sum())
    return Agreement(count, round(share * count) if count else 0, *sign, len(steps), tau, *taus, order_p(mine, theirs))


def order_p(one: Array, other: Array) -> float:
    """Two-sided p of Kendall's tau: the share of orders, of all or of 2^17 drawn, that agree or disagree as much.
    (Where values tie, SciPy's `kendalltau` has it only approximately.)"""
    first, second = np.triu_indices(len(one), 1)
    signs = np.sign(other[first] - other[second])

    def as_one(values: Array, axis: int = -1) -> Array:
        return np.abs(np.sign(values[..., first] - values[..., second]) @ signs)

    how: dict[str, Any] = {"permutation_type": "pairings", "alternative": "greater", "vectorized": True}
    how |= {"n_resamples": ORDERS - 1, "batch": 2**12, "rng": np.random.default_rng(0)}
    return float(stats.permutation_test((one,), as_one, **how).pvalue)


def resolved_by_paper(table: int) -> set[str]:
    """Steps whose gain is beyond noise in the paper's own numbers: Welch's test on the printed means and deviations of
    three seeds, Holm over the adjacent rows of the path."""
    rows = [row for row in published.published_rows(table) if row.adopted]
    names, p = [], []
    for before, after in pairwise(rows):
        if before.top1_std is not None and after.top1_std is not None:
            one = (after.top1, after.top1_std, published.SEEDS)
            other = (before.top1, before.top1_std, published.SEEDS)
            names.append(after.step)
            p.append(float(stats.ttest_ind_from_stats(*one, *other, equal_var=False).pvalue))
    return {name for name, adjusted in zip(names, _holm(p), strict=True) if adjusted <= LEVEL}
