"""Intervals, tests and verdicts, checked on cases with known answers and on simulated studies.

The simulations have a short version, which finds gross errors, and a long version, which is marked slow.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from unittest.mock import Mock

import numpy as np
import pytest
from scipy import stats

from roadmap.analysis import statistics
from roadmap.analysis.statistics import Array, Comparison, compare, decide, difference, p_permutation


@pytest.fixture(autouse=True)
def quick_collection() -> Iterator[None]:
    """Freeze what exists: statsmodels collects garbage in each of Holm's corrections."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def verdicts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the number of seeds needed, which takes most of the time of `decide`."""
    monkeypatch.setattr(statistics, "seeds_needed", Mock(return_value=math.nan))


class Simulated:
    """Rows of a study. An image is right if the sum of difficulty, step, seed and chance is above zero."""

    IMAGES, DIFFICULTY, SEED, CHANCE = 300, 1.2, 0.06, 0.7

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.difficulty = generator.normal(1.5, self.DIFFICULTY, self.IMAGES)

    def row(self, seeds: int, step: float = 0.0, unevenness: float = 0.0) -> dict[int, Array]:
        """`step` is the mean effect of the step over images, `unevenness` its standard deviation over images."""
        center = self.difficulty + self.generator.normal(step, unevenness, self.IMAGES)
        shape = (seeds, self.IMAGES)
        seed_effect = self.generator.normal(0, self.SEED, (seeds, 1))
        latent = center + seed_effect + self.generator.normal(0, self.CHANCE, shape)
        return dict(enumerate(100.0 * (latent > 0)))

    @classmethod
    def expected(cls, step: float = 0.0, unevenness: float = 0.0) -> float:
        """Percent right over all possible seeds and images."""
        deviation = math.hypot(cls.DIFFICULTY, cls.SEED, cls.CHANCE, unevenness)
        return 100 * float(stats.norm.cdf((1.5 + step) / deviation))


@pytest.mark.parametrize(("seeds", "step", "unevenness"), [(3, 0.2, 0.4), (5, 0.0, 0.0), (10, 0.2, 0.5)])
@pytest.mark.parametrize(
    ("studies", "low", "high"), [(150, 0.90, 0.99), pytest.param(1000, 0.93, 0.97, marks=pytest.mark.slow)]
)
def test_the_interval_covers_the_truth(
    seeds: int, step: float, unevenness: float, studies: int, low: float, high: float
) -> None:
    """With an effect, equal or different for each image, and without one."""
    generator = np.random.default_rng(5)
    truth = Simulated.expected(step, unevenness) - Simulated.expected()
    hits = 0
    for _ in range(studies):
        study = Simulated(generator)
        comparison = compare(study.row(seeds, step, unevenness), study.row(seeds))
        hits += comparison.low <= truth <= comparison.high
    assert low <= hits / studies <= high


@pytest.mark.usefixtures("verdicts_only")
@pytest.mark.parametrize("unevenness", [0.0, 0.5])
@pytest.mark.parametrize("studies", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_study_without_effects_has_few_false_verdicts(unevenness: float, studies: int) -> None:
    """Each row is compared with the row before. A step that only changes which images are right is not a gain."""
    generator = np.random.default_rng(6)
    # `step` compensates for the accuracy that the unevenness alone costs.
    loss = Simulated.expected() - Simulated.expected(0.0, unevenness)
    step = 0.0 if loss == 0 else 1.5 * (math.hypot(1.2, 0.06, 0.7, unevenness) / math.hypot(1.2, 0.06, 0.7) - 1)
    assert Simulated.expected(step, unevenness) == pytest.approx(Simulated.expected())
    false = 0
    for _ in range(studies):
        study = Simulated(generator)
        rows = [study.row(8, step, unevenness) for _ in range(4)]
        verdicts = [c.verdict for c in decide([compare(after, before) for before, after in pairwise(rows)])]
        false += statistics.GAIN in verdicts or statistics.LOSS in verdicts
    if studies == 1000:
        assert 0 < false / studies <= 0.05
    else:
        assert false / studies <= 0.1


def test_an_effect_is_resolved_with_its_sign() -> None:
    generator = np.random.default_rng(7)
    verdicts = []
    for step in (0.5, -0.5) * 20:
        study = Simulated(generator)
        (comparison,) = decide([compare(study.row(8, step), study.row(8))])
        verdicts.append(comparison.verdict)
    assert verdicts == [statistics.GAIN, statistics.LOSS] * 20


def test_intervals_of_known_cases() -> None:
    assert statistics.t_interval([90.0, 91.0, 92.0]) == pytest.approx((91 - 2.484138, 91 + 2.484138))
    assert all(map(math.isnan, statistics.t_interval([90.0])))
    # Seeds alone: the bootstrap's error is that of the mean, and the interval is Student's.
    seeds = np.array([[1.0], [2.0], [3.0], [6.0]])
    estimate = difference(seeds)
    low, high = statistics.t_interval(seeds[:, 0].tolist())
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((3.0, low, high), abs=0.15)
    assert estimate.p == pytest.approx(stats.ttest_1samp(seeds[:, 0], 0).pvalue, rel=0.1)
    # Images alone: all seeds are equal, so only other images could give another difference.
    images = np.random.default_rng(0).choice([-100.0, 0.0, 100.0], 2000, p=[0.05, 0.85, 0.1])
    estimate = difference(np.tile(images, (5, 1)))
    error = images.std(ddof=1) / math.sqrt(2000)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    assert estimate.column_error == pytest.approx(error, rel=0.01)
    # The same difference everywhere.
    for value, p in ((0.0, 1.0), (5.0, 0.0), (-5.0, 0.0)):
        estimate = difference(np.full((5, 100), value))
        assert (estimate.mean, estimate.low, estimate.high, estimate.p) == (value, value, value, p)


@pytest.mark.parametrize("n", [2, 3])
def test_rows_have_at_least_the_variance_of_their_cells(n: int) -> None:
    """Seeds whose means agree by chance do not make the interval narrower than the noise of single images does."""
    m = 5
    noise = np.random.default_rng(0).normal(size=(n, m))
    noise -= noise.mean(0)
    noise -= noise.mean(1, keepdims=True)
    estimate = difference(1 + noise + 1e-9 * np.arange(n)[:, None])
    error = estimate.mean / stats.t.isf(estimate.p / 2, n - 1)
    variance = (noise**2).sum() / ((n - 1) * (m - 1))
    assert error == pytest.approx(math.sqrt(variance / (n * m)), rel=0.05)
    width = (estimate.high - estimate.low) / 2
    assert width / error == pytest.approx(stats.t.ppf(0.975, (n - 1) * (m - 1)), rel=1e-6)


def test_the_permutation_test_is_exact() -> None:
    assert statistics.p_permutation(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == 2 / 2**5
    assert statistics.p_permutation(np.array([1.0, -1.0])) == 1.0
    # By hand: of the eight sums of +-1 +-2 +-4, those with absolute value of at least 5 are 5, 7, -5 and -7.
    assert statistics.p_permutation(np.array([-1.0, 2.0, 4.0])) == 4 / 8
    comparison = compare({s: np.array([90.0 + s]) for s in range(6)}, {s: np.array([80.0]) for s in range(6)})
    assert comparison.smallest_p == comparison.p == 2 / 2**6


def make_comparison(p: float, n: int = 10, delta: float = 1.0, p_images: float | None = None) -> Comparison:
    return Comparison(n, delta, delta - 1, delta + 1, p, p if p_images is None else p_images, 2 / 2**n, 0.5, 0.0)


def test_holms_correction_over_the_study() -> None:
    p_values = [(0.03, 10, 1.0), (0.01, 10, 1.0), (0.02, 10, -1.0), (math.nan, 1, 1.0)]
    decided = decide([make_comparison(p, n, delta) for p, n, delta in p_values])
    assert [c.p_holm for c in decided[:3]] == pytest.approx([0.04, 0.03, 0.04])
    assert [c.verdict for c in decided] == ["gain", "gain", "loss", "descriptive"]
    assert [c.verdict for c in decide([make_comparison(0.03)] * 2)] == ["not resolved"] * 2
    # The choice of images explains the difference.
    assert decide([make_comparison(0.001, p_images=0.2)])[0].verdict == "not resolved"
    assert decide([make_comparison(0.001, n=4)])[0].verdict == "descriptive"


@pytest.mark.usefixtures("verdicts_only")
@pytest.mark.parametrize(
    ("delta", "image_error", "studies"),
    [
        (0.8, 0.0, 100),
        *(pytest.param(*case, 300, marks=pytest.mark.slow) for case in ((0.5, 0.0), (0.8, 0.0), (0.5, 0.15))),
    ],
)
def test_seeds_needed_resolve_four_of_five_studies(delta: float, image_error: float, studies: int) -> None:
    """With this number of seeds, four of five studies resolve the difference; with a third less, fewer do."""
    observed = Comparison(10, delta, 0, 1, 0.2, 0.2, 2 / 2**10, deviation=0.5, image_error=image_error)
    needed = int(seeds_needed(observed, family=1))
    generator = np.random.default_rng(1)

    def power(seeds: int) -> float:
        hits = 0
        for _ in range(studies):
            shift = delta + image_error * generator.normal()
            rows = shift + 0.5 * generator.normal(size=seeds)
            error = math.hypot(rows.std(ddof=1) / math.sqrt(seeds), image_error)
            p_images = 2 * float(stats.t.sf(abs(rows.mean()) / error, seeds - 1))
            simulated = replace(observed, n=seeds, delta=rows.mean(), p=p_permutation(rows), p_images=p_images)
            (comparison,) = decide([simulated])
            hits += comparison.verdict == statistics.GAIN
        return hits / studies

    assert power(needed) == pytest.approx(0.8, abs=0.1)
    assert power(max(5, needed * 2 // 3)) < power(needed)
    assert seeds_needed(observed, family=13) > needed


seeds_needed = statistics.seeds_needed  # also where `verdicts_only` replaces it in the module


def test_the_smallest_and_the_largest_number_of_seeds_needed() -> None:
    assert seeds_needed(make_comparison(0.2, delta=50.0), family=13) == 10  # 2 / 2 ** 10 <= 0.05 / 13
    assert seeds_needed(make_comparison(0.2, delta=0.0), family=1) == math.inf
    few_images = Comparison(10, 0.5, -1, 2, 0.2, 0.2, 0.002, 0.5, image_error=0.4)
    assert seeds_needed(few_images, family=1) == math.inf


def test_rows_with_few_seeds_in_common() -> None:
    a, b = {0: np.array([90.0]), 1: np.array([92.0])}, {1: np.array([91.0]), 2: np.array([80.0])}
    comparison = compare(a, b)
    assert (comparison.n, comparison.delta) == (1, 1.0) and math.isnan(comparison.low) and math.isnan(comparison.p)
    assert compare(a, {7: np.array([1.0])}).n == 0


def test_the_shapley_value_is_the_mean_of_the_gains() -> None:
    """The orders differ more than the seeds, and the interval covers both."""
    gains = np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])
    estimate = statistics.shapley(gains)
    low, high = statistics.t_interval([2.0, 3.0])  # of the means of the two columns
    assert estimate.mean == 2.5 and low < estimate.low < 2.5 < estimate.high < high
    assert math.isnan(statistics.shapley(gains[:, :1]).low)
