"""Intervals, paired comparisons with verdicts, number of seeds needed, intervals of Shapley values.

The functions take arrays and return numbers. Accuracies and differences are in percent. A cell of a difference belongs
to one seed and one test image: 100 if only the first network is right, -100 if only the second one is right, else 0.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE  # probability of any false verdict in a study
POWER = 0.8  # probability with which `seeds_needed` seeds resolve the observed difference
MIN_SEEDS = 5  # a comparison of fewer seeds is descriptive
RESAMPLES = 2000  # of a bootstrap
SIMULATED_STUDIES = 400  # for one value of the power
MAX_SEEDS = 10**4  # `seeds_needed` above this is reported as infinite
PERMUTATIONS = 2**14  # with up to 14 seeds, all sign flips; with more, this number of sampled ones
GAIN, LOSS, NOT_RESOLVED, DESCRIPTIVE = "gain", "loss", "not resolved", "descriptive"

Array: TypeAlias = npt.NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]
TINY = 1e-300  # instead of zero in a denominator
NO_INTERVAL: Interval = (math.nan, math.nan)


@dataclass(frozen=True)
class Comparison:
    """One row compared with another row, in percentage points."""

    n: int  # number of seeds that both rows have
    delta: float  # mean difference
    low: float  # 95 % interval, see `difference`
    high: float
    p: float  # exact paired permutation test over the seeds
    p_images: float  # bootstrap over seeds and test images; NaN without the correctness of single images
    smallest_p: float  # smallest possible `p` with n seeds
    deviation: float  # standard deviation of the difference over seeds
    image_error: float  # standard error due to the choice of test images; more seeds do not reduce it
    p_holm: float = math.nan
    p_images_holm: float = math.nan
    verdict: str = NOT_RESOLVED
    seeds_needed: float = math.nan  # infinite if more seeds alone would not resolve the difference


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval."""

    mean: float
    low: float
    high: float
    p: float
    column_error: float  # part of the standard error that is due to the columns (test images)


def as_array(values: Sequence[float]) -> Array:
    """Return the values as an array of floats."""
    return np.asarray(values, dtype=float)


def t_interval(values: Sequence[float]) -> Interval:
    """Return the 95 % interval of the mean by Student's t; NaN for fewer than two values."""
    array = as_array(values)
    if len(array) < 2:
        return NO_INTERVAL
    error = array.std(ddof=1) / math.sqrt(len(array))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(array) - 1) * error
    return float(array.mean() - half), float(array.mean() + half)


def difference(cells: Array, seed: int = 0) -> Difference:
    """Return the mean of `cells` (seeds, images) and its 95 % interval for other seeds and other images.

    Two-way bootstrap: seeds (row means) and images (column means) are resampled together, RESAMPLES times. The row
    means already contain the noise of single cells, so this noise is subtracted from the variance of the columns;
    otherwise it would count two or three times (Owen 2007, "The pigeonhole bootstrap"). Both are scaled by n / (n - 1).
    The variance of the rows is at least that of the cell noise: few rows can be below it by chance, and many cells
    estimate it well. The interval is Student's t with the bootstrap's standard error and Welch-Satterthwaite degrees of
    freedom. With one column (no correctness of single images) only the seeds are resampled; with one row there is no
    interval. p uses n - 1 degrees of freedom, which is the more conservative choice.
    """
    n, m = cells.shape
    mean = float(cells.mean())
    if n < 2:
        return Difference(mean, *NO_INTERVAL, math.nan, math.nan)
    rows, columns = cells.mean(1), cells.mean(0)
    generator = np.random.default_rng(seed)
    row_variance, column_variance = float(rows.var(ddof=1)), float(columns.var(ddof=1)) if m > 1 else 0.0
    noise = ((cells - rows[:, None] - columns + mean) ** 2).sum() / ((n - 1) * (m - 1)) if m > 1 else 0.0
    min_row_variance = noise / m
    means = (rows - mean)[generator.integers(n, size=(RESAMPLES, n))].mean(1)
    means *= math.sqrt(max(row_variance, min_row_variance) / max(rows.var(), TINY))
    row_part, column_part = float(means.var()), 0.0
    if column_variance > 0:
        column_share = max(0.0, 1 - noise / n / column_variance)
        # Few distinct values: the number of seeds that are right on an image.
        values, counts = np.unique(columns - mean, return_counts=True)
        picks = generator.multinomial(m, counts / m, size=RESAMPLES)
        means = means + picks @ values / m * math.sqrt(column_share * m / (m - 1))
        column_part = column_variance * column_share / m
    error = float(means.std())
    if error == 0:
        return Difference(mean, mean, mean, float(mean == 0), 0.0)
    row_freedom = n - 1 if row_variance > min_row_variance else (n - 1) * (m - 1)
    freedom = (row_part + column_part) ** 2 / (row_part**2 / row_freedom + column_part**2 / max(m - 1, 1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    return Difference(mean, mean - half, mean + half, p, math.sqrt(column_part))


def compare(after: Mapping[int, Array], before: Mapping[int, Array]) -> Comparison:
    """Compare two rows over the seeds that both have.

    Each maps a seed to its score on each test image, 0 or 100 (percent). Without the correctness of single images, it
    maps a seed to an array of one number, the accuracy.
    """
    seeds = sorted(after.keys() & before.keys())
    if not seeds:
        nan = math.nan
        return Comparison(0, nan, nan, nan, nan, nan, nan, nan, nan)
    cells = np.stack([after[seed] - before[seed] for seed in seeds])
    estimate, rows, n = difference(cells), cells.mean(1), len(seeds)
    p = p_permutation(rows) if n > 1 else math.nan
    deviation = float(rows.std(ddof=1)) if n > 1 else math.nan
    smallest_p = math.nan if n < 2 else 2 / 2**n if 2**n <= PERMUTATIONS else 2 / (PERMUTATIONS + 1)
    p_images = estimate.p if cells.shape[1] > 1 else math.nan
    interval = estimate.mean, estimate.low, estimate.high
    return Comparison(n, *interval, p, p_images, smallest_p, deviation, estimate.column_error)


def p_permutation(differences: Array) -> float:
    """Return the two-sided p of the paired permutation test.

    If the two rows were the same, the difference of each seed could have either sign.
    """

    def mean_difference(x: Array, y: Array, axis: int) -> Array:
        return np.asarray(np.mean(x - y, axis=axis))

    result = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def decide(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons of one study with their verdicts.

    The verdict is `gain` or `loss` if two tests say so after Holm's correction over the study: the exact test over the
    seeds, and the test of the interval. Without the second test, a lucky choice of test images would count as a gain.
    The probability that a study has any false verdict is at most 5 %.
    """
    p_seeds, p_images = (adjust_holm([getattr(c, name) for c in comparisons]) for name in ("p", "p_images"))
    family = sum(not math.isnan(c.p) for c in comparisons)
    decided = []
    for comparison, seeds, images in zip(comparisons, p_seeds, p_images, strict=True):
        verdict = NOT_RESOLVED if comparison.n >= MIN_SEEDS else DESCRIPTIVE if comparison.n else ""
        if verdict == NOT_RESOLVED and seeds <= LEVEL and images <= LEVEL:
            verdict = GAIN if comparison.delta > 0 else LOSS
        needed = seeds_needed(comparison, family)
        decided.append(replace(comparison, p_holm=seeds, p_images_holm=images, verdict=verdict, seeds_needed=needed))
    return decided


def describe(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons of a study that supports no claim: differences and intervals without p."""
    return [
        replace(c, p=math.nan, p_images=math.nan, smallest_p=math.nan, verdict=DESCRIPTIVE if c.n else "")
        for c in comparisons
    ]


def adjust_holm(p_values: list[float]) -> list[float]:
    """Return the p values after Holm's correction. NaN stays NaN and is not counted."""
    from statsmodels.stats.multitest import multipletests

    adjusted = np.array(p_values)
    known = ~np.isnan(adjusted)
    if known.any():
        adjusted[known] = multipletests(adjusted[known], method="holm")[1]
    return adjusted.tolist()


def seeds_needed(comparison: Comparison, family: int) -> float:
    """Return the number of seeds with which four of five studies would resolve a difference of the observed size.

    `family` is the number of comparisons of the study; the level is Holm's strictest one. The result is infinite if
    more than MAX_SEEDS are needed, for example because more seeds do not reduce the error due to the test images.
    """
    if math.isnan(comparison.p):
        return math.nan
    if comparison.delta == 0 or _power(comparison, MAX_SEEDS, LEVEL / family) < POWER:
        return math.inf
    counts = range(2, MAX_SEEDS)
    return counts[bisect_left(counts, POWER, key=lambda n: _power(comparison, n, LEVEL / family))]


def _power(observed: Comparison, n: int, level: float) -> float:
    """Return the share of simulated studies of `n` seeds in which both tests reach `level`.

    Each simulated study has other test images.
    """
    if 2 / 2 ** min(n, 60) > level:
        return 0.0
    generator = np.random.default_rng(0)
    shift = abs(observed.delta) + observed.image_error * generator.standard_normal(SIMULATED_STUDIES)
    if 2**n <= PERMUTATIONS:
        seeds = shift + observed.deviation * generator.standard_normal((n, SIMULATED_STUDIES))
        means, deviation = seeds.mean(0), seeds.std(0, ddof=1)
        # Half of all sign flips: the other half are their negatives, with the same absolute mean.
        signs = 1 - 2 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1)
        at_least = np.abs(signs @ seeds) >= n * np.abs(means) - 1e-9
        by_seeds = at_least.mean(0) <= level
    else:  # Student's test, the limit of the permutation test for many seeds
        means = shift + observed.deviation / math.sqrt(n) * generator.standard_normal(SIMULATED_STUDIES)
        deviation = observed.deviation * np.sqrt(generator.chisquare(n - 1, SIMULATED_STUDIES) / (n - 1))
        by_seeds = 2 * stats.t.sf(np.abs(means) / np.maximum(deviation / math.sqrt(n), TINY), n - 1) <= level
    error = np.maximum(np.hypot(deviation / math.sqrt(n), observed.image_error), TINY)
    return float((by_seeds & (2 * stats.t.sf(means / error, n - 1) <= level)).mean())


def shapley(gains: Array) -> Difference:
    """Return the Shapley value of a transform: the mean of its gains (seeds, pairs of an order and its reverse).

    The 95 % interval is for other seeds and other orders; a single pair gives no interval.
    """
    estimate = difference(gains)
    return estimate if gains.shape[1] > 1 else replace(estimate, low=math.nan, high=math.nan)
