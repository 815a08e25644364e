"""Agreement of a study's gains with the published gains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from roadmap.analysis.statistics import (
    CONFIDENCE,
    LEVEL,
    NO_INTERVAL,
    RESAMPLES,
    Array,
    Interval,
    adjust_holm,
    as_array,
)
from roadmap.config.reference import ReferenceTable

ORDERS = 2**17  # number of orders of the steps sampled for one p


@dataclass(frozen=True)
class Agreement:
    """Agreement with published gains: signs over the steps that they resolve, order over all of their steps."""

    steps: int  # number of steps that the published numbers resolve and the study has
    same_sign: int  # how many of them have the published sign
    sign_low: float  # 95 % interval of the share of same signs, over seeds
    sign_high: float
    all_steps: int  # number of steps with a published gain that the study has
    tau: float  # Kendall's tau of their gains
    tau_low: float  # 95 % interval, over seeds
    tau_high: float
    tau_p: float  # see `order_p`


def agreement(accuracies: Mapping[str, Array], reference: ReferenceTable) -> Agreement | None:
    """Return the agreement of gains along a roadmap with the published ones.

    `accuracies` has the accuracy of each seed by step. A gain is the difference to the step before, for steps where
    both are in `accuracies`. Intervals come from a bootstrap over the seeds of each step, scaled by n / (n - 1). Return
    None if there are fewer than three gains.
    """
    printed, previous = reference.gains, reference.previous_steps
    steps = [step for step in printed if step in accuracies and previous[step] in accuracies]
    if len(steps) < 3:
        return None
    paper_gains = as_array([printed[step] for step in steps])
    resolved_steps = resolved_by_reference(reference)
    resolved = np.array([step in resolved_steps for step in steps])

    def gains(means: Mapping[str, float]) -> Array:
        return as_array([means[step] - means[previous[step]] for step in steps]).round(9)

    def scores(study_gains: Array) -> tuple[float, float]:
        same_sign = np.sign(study_gains[resolved]) == np.sign(paper_gains[resolved])
        tau = stats.kendalltau(study_gains, paper_gains).statistic if np.ptp(study_gains) > 0 else 0.0
        return float(same_sign.mean()) if resolved.any() else math.nan, float(tau)

    def resampled_mean(values: Array) -> float:
        scale = math.sqrt(len(values) / (len(values) - 1))
        return float(values.mean() + scale * (generator.choice(values, len(values)).mean() - values.mean()))

    study_gains = gains({step: values.mean() for step, values in accuracies.items()})
    share, tau = scores(study_gains)
    sign_interval, tau_interval, generator = NO_INTERVAL, NO_INTERVAL, np.random.default_rng(0)
    if all(len(values) > 1 for values in accuracies.values()):
        resamples = ({s: resampled_mean(values) for s, values in accuracies.items()} for _ in range(RESAMPLES // 2))
        resampled_scores = [scores(gains(means)) for means in resamples]
        sign_interval, tau_interval = (_quantiles(column) for column in zip(*resampled_scores, strict=True))
    count = int(resolved.sum())
    same = round(share * count) if count else 0
    tau_p = order_p(study_gains, paper_gains)
    return Agreement(count, same, *sign_interval, len(steps), tau, *tau_interval, tau_p)


def _quantiles(values: Sequence[float]) -> Interval:
    """Return the 95 % interval of resampled values."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def order_p(one: Array, other: Array) -> float:
    """Return the two-sided p of Kendall's tau between two arrays of equal length.

    It is the share of orders, among all of them or ORDERS sampled ones, whose tau is at least as far from zero.
    SciPy's `kendalltau` has only an approximation if values tie.
    """
    first, second = np.triu_indices(len(one), 1)
    signs = np.sign(other[first] - other[second])

    def distance(values: Array, axis: int = -1) -> Array:
        return np.abs(np.sign(values[..., first] - values[..., second]) @ signs)

    options: dict[str, Any] = {"permutation_type": "pairings", "alternative": "greater", "vectorized": True}
    options |= {"n_resamples": ORDERS - 1, "batch": 2**12, "rng": np.random.default_rng(0)}
    return float(stats.permutation_test((one,), distance, **options).pvalue)


def resolved_by_reference(reference: ReferenceTable) -> frozenset[str]:
    """Return the steps whose gain exceeds the noise by the published numbers themselves.

    Welch's test on the published means, standard deviations and numbers of seeds, with Holm's correction over the
    adjacent rows.
    """
    names: list[str] = []
    p_values: list[float] = []
    for before, after in reference.adjacent:
        one, other = ((row.top1, row.top1_std, row.num_seeds) for row in (after, before))
        if None not in (*one, *other):
            names.append(after.step)
            p_values.append(float(stats.ttest_ind_from_stats(*one, *other, equal_var=False).pvalue))
    return frozenset(name for name, p in zip(names, adjust_holm(p_values), strict=True) if p <= LEVEL)
