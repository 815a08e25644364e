"""What the numbers can carry: intervals, paired comparisons with verdicts, attribution, agreement with the paper.

Arrays in, numbers out; accuracies and differences in percent. A cell of a difference is one seed on one test image:
right after and wrong before is 100, the other way round -100.
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
LEVEL = 1 - CONFIDENCE  # of all false verdicts of a study together
POWER = 0.8  # with which `seeds_needed` would resolve the difference seen
FEWEST = 5  # with fewer seeds a table describes and claims nothing
RESAMPLES = 2000  # of a bootstrap
STUDIES = 400  # simulated for one power
MOST_SEEDS = 10**4  # a need above is told as infinite
PERMUTATIONS = 2**14  # up to 14 seeds all sign flips are tried; above, so many
GAIN, LOSS, NOT_RESOLVED, DESCRIPTIVE = "gain", "loss", "not resolved", "descriptive"

Array: TypeAlias = npt.NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]
TINY = 1e-300  # in the place of a zero below a fraction line
NO_INTERVAL: Interval = (math.nan, math.nan)


@dataclass(frozen=True)
class Comparison:
    """One row against another, in percent."""

    n: int  # seeds that both have
    delta: float
    low: float  # interval, see `difference`
    high: float
    p: float  # exact paired permutation test over the seeds
    p_images: float  # of the interval: seeds and test images drawn anew; not a number without single images
    smallest_p: float  # that `p` can be at this n
    deviation: float  # of the difference between seeds
    image_error: float  # standard error that no number of seeds takes away: of the test images
    p_holm: float = math.nan
    p_images_holm: float = math.nan
    verdict: str = NOT_RESOLVED
    seeds_needed: float = math.nan  # infinite where only more test images would help


def as_array(values: Sequence[float]) -> Array:
    return np.asarray(values, dtype=float)


def t_interval(values: Sequence[float]) -> Interval:
    """The 95 % interval of the mean by Student's t; not a number for fewer than two values."""
    mine = as_array(values)
    if len(mine) < 2:
        return NO_INTERVAL
    error = mine.std(ddof=1) / math.sqrt(len(mine))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(mine) - 1) * error
    return float(mine.mean() - half), float(mine.mean() + half)


@dataclass(frozen=True)
class Difference:
    mean: float
    low: float
    high: float
    p: float
    column_error: float  # the part of the standard error that is the columns'


def difference(cells: Array, seed: int = 0) -> Difference:
    """The mean of `cells` (seeds, images), and its 95 % interval for other seeds and other images.

    Two-way bootstrap: seeds (row means) and images (column means) are drawn anew together, RESAMPLES times. Row means
    carry the noise of single cells already, so the columns' share of it is taken out of theirs; without this it would
    count two or three times (Owen 2007, "The pigeonhole bootstrap"). Both are scaled for their number, n / (n - 1),
    and the rows' spread is at least that noise, which few rows may miss by chance and which many cells make known.
    The interval is Student's t with the bootstrap's standard error and Welch-Satterthwaite's degrees of freedom. One
    column (no correctness at hand) leaves the seeds alone; one row gives no interval. p is the more cautious one of
    n - 1 degrees of freedom.
    """
    n, m = cells.shape
    mean = float(cells.mean())
    if n < 2:
        return Difference(mean, *NO_INTERVAL, math.nan, math.nan)
    rows, columns = cells.mean(1), cells.mean(0)
    generator = np.random.default_rng(seed)
    row_variance, column_variance = float(rows.var(ddof=1)), float(columns.var(ddof=1)) if m > 1 else 0.0
    noise = ((cells - rows[:, None] - columns + mean) ** 2).sum() / ((n - 1) * (m - 1)) if m > 1 else 0.0
    least = noise / m
    drawn = (rows - mean)[generator.integers(n, size=(RESAMPLES, n))].mean(1)
    drawn *= math.sqrt(max(row_variance, least) / max(rows.var(), TINY))
    row_part, column_part = float(drawn.var()), 0.0
    if column_variance > 0:
        own = max(0.0, 1 - noise / n / column_variance)
        values, counts = np.unique(columns - mean, return_counts=True)  # few: an image is right for so many seeds
        picks = generator.multinomial(m, counts / m, size=RESAMPLES)
        drawn = drawn + picks @ values / m * math.sqrt(own * m / (m - 1))
        column_part = column_variance * own / m
    error = float(drawn.std())
    if error == 0:
        return Difference(mean, mean, mean, float(mean == 0), 0.0)
    seed_freedom = n - 1 if row_variance > least else (n - 1) * (m - 1)
    freedom = (row_part + column_part) ** 2 / (row_part**2 / seed_freedom + column_part**2 / max(m - 1, 1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    return Difference(mean, mean - half, mean + half, p, math.sqrt(column_part))


def compare(after: Mapping[int, Array], before: Mapping[int, Array]) -> Comparison:
    """Two rows over the seeds that both have; seed -> what it scored on each test image, in percent: 0 or 100.

    Where the correctness of single images is not at hand, one number a seed, its accuracy.
    """
    seeds = sorted(after.keys() & before.keys())
    if not seeds:
        nan = math.nan
        return Comparison(0, nan, nan, nan, nan, nan, nan, nan, nan)
    cells = np.stack([after[seed] - before[seed] for seed in seeds])
    found, rows, n = difference(cells), cells.mean(1), len(seeds)
    exact = p_permutation(rows) if n > 1 else math.nan
    deviation = float(rows.std(ddof=1)) if n > 1 else math.nan
    least = math.nan if n < 2 else 2 / 2**n if 2**n <= PERMUTATIONS else 2 / (PERMUTATIONS + 1)
    of_images = found.p if cells.shape[1] > 1 else math.nan
    ends = found.mean, found.low, found.high
    return Comparison(n, *ends, exact, of_images, least, deviation, found.column_error)


def p_permutation(differences: Array) -> float:
    """Two-sided p of the paired test: were the two rows the same, each seed's difference could have either sign."""
    found = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def decide(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one study with their verdicts.

    `gain` or `loss` where both tests say so after Holm's correction over the study: the exact one over the seeds, and
    the one of the interval, without which a lucky choice of test images would count as a gain. A study's chance of any
    false verdict is at most 5 %.
    """
    p_seeds, p_images = (_holm([getattr(c, name) for c in comparisons]) for name in ("p", "p_images"))
    family = sum(not math.isnan(c.p) for c in comparisons)
    decided = []
    for comparison, seeds, images in zip(comparisons, p_seeds, p_images, strict=True):
        verdict = NOT_RESOLVED if comparison.n >= FEWEST else DESCRIPTIVE if comparison.n else ""
        if verdict == NOT_RESOLVED and seeds <= LEVEL and images <= LEVEL:
            verdict = GAIN if comparison.delta > 0 else LOSS
        needed = seeds_needed(comparison, family)
        decided.append(replace(comparison, p_holm=seeds, p_images_holm=images, verdict=verdict, seeds_needed=needed))
    return decided


def _holm(p: list[float]) -> list[float]:
    from statsmodels.stats.multitest import multipletests

    adjusted = np.array(p)
    known = ~np.isnan(adjusted)
    if known.any():
        adjusted[known] = multipletests(adjusted[known], method="holm")[1]
    return adjusted.tolist()


def seeds_needed(comparison: Comparison, family: int) -> float:
    """Seeds with which a true difference of the size seen would get its verdict in four of five studies, among `family`
    comparisons at Holm's strictest level; infinite where more seeds alone would not do."""
    if math.isnan(comparison.p):
        return math.nan
    if comparison.delta == 0 or _power(comparison, MOST_SEEDS, LEVEL / family) < POWER:
        return math.inf
    counts = range(2, MOST_SEEDS)
    return counts[bisect_left(counts, POWER, key=lambda n: _power(comparison, n, LEVEL / family))]


def _power(seen: Comparison, n: int, level: float) -> float:
    """The share of simulated studies of `n` seeds, each with other test images, in which both tests reach `level`."""
    if 2 / 2 ** min(n, 60) > level:
        return 0.0
    generator = np.random.default_rng(0)
    shift = abs(seen.delta) + seen.image_error * generator.standard_normal(STUDIES)
    if 2**n <= PERMUTATIONS:
        seeds = shift + seen.deviation * generator.standard_normal((n, STUDIES))
        means, spread = seeds.mean(0), seeds.std(0, ddof=1)
        # Half of all sign flips: the other half are their opposites, of the same size.
        signs = 1 - 2 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1)
        as_large = np.abs(signs @ seeds) >= n * np.abs(means) - 1e-9
        by_seeds = as_large.mean(0) <= level
    else:  # Student's test, which the permutations come to
        means = shift + seen.deviation / math.sqrt(n) * generator.standard_normal(STUDIES)
        spread = seen.deviation * np.sqrt(generator.chisquare(n - 1, STUDIES) / (n - 1))
        by_seeds = 2 * stats.t.sf(np.abs(means) / np.maximum(spread / math.sqrt(n), TINY), n - 1) <= level
    error = np.maximum(np.hypot(spread / math.sqrt(n), seen.image_error), TINY)
    return float((by_seeds & (2 * stats.t.sf(means / error, n - 1) <= level)).mean())


def shapley(gains: Array) -> Difference:
    """What a transform is worth whatever the order: the mean of its gains (seeds, pairs of opposite orders), with the
    interval for other seeds and other orders; one pair gives none."""
    found = difference(gains)
    return found if gains.shape[1] > 1 else replace(found, low=math.nan, high=math.nan)
