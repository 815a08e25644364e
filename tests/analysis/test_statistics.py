"""Intervals, tests and verdicts, against cases with known answers and simulated studies."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from scipy import stats

from roadmap.analysis import published, statistics
from roadmap.analysis.agreement import agreement, order_p, resolved_by_paper
from roadmap.analysis.statistics import Array, Comparison, compare, decide, difference, p_permutation

SIMULATIONS = 1000


@pytest.fixture(autouse=True)
def quick_collection() -> Iterator[None]:
    """statsmodels collects garbage in each of Holm's corrections; what is there already need not be looked at again."""
    gc.freeze()
    yield
    gc.unfreeze()


class Simulated:
    """Rows of a study: an image is right where difficulty, step, seed and chance together are above zero."""

    IMAGES, DIFFICULTY, SEED, CHANCE = 300, 1.2, 0.06, 0.7

    def __init__(self, generator: np.random.Generator) -> None:
        self.draw = generator
        self.difficulty = generator.normal(1.5, self.DIFFICULTY, self.IMAGES)

    def row(self, seeds: int, step: float = 0.0, unevenness: float = 0.0) -> dict[int, Array]:
        """`step` is the mean over images of what the step adds, `unevenness` its deviation from image to image."""
        center = self.difficulty + self.draw.normal(step, unevenness, self.IMAGES)
        shape = (seeds, self.IMAGES)
        latent = center + self.draw.normal(0, self.SEED, (seeds, 1)) + self.draw.normal(0, self.CHANCE, shape)
        return dict(enumerate(100.0 * (latent > 0)))

    @classmethod
    def expected(cls, step: float = 0.0, unevenness: float = 0.0) -> float:
        """Percent right, over all seeds and images that there could be."""
        spread = math.hypot(cls.DIFFICULTY, cls.SEED, cls.CHANCE, unevenness)
        return 100 * float(stats.norm.cdf((1.5 + step) / spread))


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "step", "unevenness"), [(3, 0.2, 0.4), (5, 0.0, 0.0), (10, 0.2, 0.5)])
def test_the_interval_covers_the_truth(seeds: int, step: float, unevenness: float) -> None:
    """With a planted effect, even or different from image to image, and with none."""
    generator = np.random.default_rng(5)
    truth = Simulated.expected(step, unevenness) - Simulated.expected()
    hits = 0
    for _ in range(SIMULATIONS):
        study = Simulated(generator)
        found = compare(study.row(seeds, step, unevenness), study.row(seeds))
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / SIMULATIONS <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("unevenness", [0.0, 0.5])
def test_a_study_without_effects_has_few_false_verdicts(unevenness: float) -> None:
    """Each of its comparisons is with the row before; a step that only changes which images are right is no gain."""
    generator = np.random.default_rng(6)
    fall = Simulated.expected() - Simulated.expected(0.0, unevenness)  # what unevenness alone costs, in expectation
    step = 0.0 if fall == 0 else 1.5 * (math.hypot(1.2, 0.06, 0.7, unevenness) / math.hypot(1.2, 0.06, 0.7) - 1)
    assert Simulated.expected(step, unevenness) == pytest.approx(Simulated.expected())
    false = 0
    for _ in range(SIMULATIONS):
        study = Simulated(generator)
        rows = [study.row(8, step, unevenness) for _ in range(4)]
        verdicts = [c.verdict for c in decide([compare(after, before) for before, after in pairwise(rows)])]
        false += statistics.GAIN in verdicts or statistics.LOSS in verdicts
    assert 0 < false / SIMULATIONS <= 0.05


def test_a_planted_effect_is_found_and_its_direction() -> None:
    generator = np.random.default_rng(7)
    verdicts = []
    for step in (0.5, -0.5) * 20:
        study = Simulated(generator)
        (found,) = decide([compare(study.row(8, step), study.row(8))])
        verdicts.append(found.verdict)
    assert verdicts.count(statistics.GAIN) == verdicts.count(statistics.LOSS) == 20
    assert verdicts == [statistics.GAIN, statistics.LOSS] * 20


def test_intervals_of_known_cases() -> None:
    assert statistics.t_interval([90.0, 91.0, 92.0]) == pytest.approx((91 - 2.484138, 91 + 2.484138))
    assert all(map(math.isnan, statistics.t_interval([90.0])))
    # Seeds alone: the bootstrap's error is that of the mean, and the interval Student's.
    seeds = np.array([[1.0], [2.0], [3.0], [6.0]])
    found = difference(seeds)
    low, high = statistics.t_interval(seeds[:, 0].tolist())
    assert (found.mean, found.low, found.high) == pytest.approx((3.0, low, high), abs=0.15)
    assert found.p == pytest.approx(stats.ttest_1samp(seeds[:, 0], 0).pvalue, rel=0.1)
    # Images alone: all seeds are the same, so that only other images could give another difference.
    images = np.random.default_rng(0).choice([-100.0, 0.0, 100.0], 2000, p=[0.05, 0.85, 0.1])
    found = difference(np.tile(images, (5, 1)))
    error = images.std(ddof=1) / math.sqrt(2000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    assert found.column_error == pytest.approx(error, rel=0.01)
    # Nothing differs.
    found = difference(np.zeros((5, 100)))
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_permutation_test_is_exact() -> None:
    assert statistics.p_permutation(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == 2 / 2**5
    assert statistics.p_permutation(np.array([1.0, -1.0])) == 1.0
    # By hand: sums of +-1 +-2 +-4 that are at least 5 in size are 5, 7 and their opposites, of eight.
    assert statistics.p_permutation(np.array([-1.0, 2.0, 4.0])) == 4 / 8
    found = compare({s: np.array([90.0 + s]) for s in range(6)}, {s: np.array([80.0]) for s in range(6)})
    assert found.smallest_p == found.p == 2 / 2**6


def comparison(p: float, n: int = 10, delta: float = 1.0, p_images: float | None = None) -> Comparison:
    return Comparison(n, delta, delta - 1, delta + 1, p, p if p_images is None else p_images, 2 / 2**n, 0.5, 0.0)


def test_holm_over_the_study() -> None:
    found = decide([comparison(0.03), comparison(0.01), comparison(0.02, delta=-1.0), comparison(math.nan, n=1)])
    assert [c.p_holm for c in found[:3]] == pytest.approx([0.04, 0.03, 0.04])
    assert [c.verdict for c in found] == ["gain", "gain", "loss", "descriptive"]
    weaker = decide([comparison(0.03), comparison(0.03)])
    assert [c.verdict for c in weaker] == ["not resolved"] * 2
    assert decide([comparison(0.001, p_images=0.2)])[0].verdict == "not resolved"  # a choice of images explains it
    assert decide([comparison(0.001, n=4)])[0].verdict == "descriptive"


@pytest.mark.parametrize(("delta", "image_error"), [(0.5, 0.0), (0.8, 0.0), (0.5, 0.15)])
def test_seeds_needed(delta: float, image_error: float) -> None:
    """With so many, four of five studies resolve the difference, and with a third less fewer do."""
    seen = Comparison(10, delta, 0, 1, 0.2, 0.2, 2 / 2**10, deviation=0.5, image_error=image_error)
    needed = int(statistics.seeds_needed(seen, family=1))
    generator = np.random.default_rng(1)

    def resolved(seeds: int) -> float:
        hits = 0
        for _ in range(300):
            shift = delta + image_error * generator.normal()
            rows = shift + 0.5 * generator.normal(size=seeds)
            error = math.hypot(rows.std(ddof=1) / math.sqrt(seeds), image_error)
            p_images = 2 * float(stats.t.sf(abs(rows.mean()) / error, seeds - 1))
            (found,) = decide([replace(seen, n=seeds, delta=rows.mean(), p=p_permutation(rows), p_images=p_images)])
            hits += found.verdict == statistics.GAIN
        return hits / 300

    assert resolved(needed) == pytest.approx(0.8, abs=0.1)
    assert resolved(max(5, needed * 2 // 3)) < resolved(needed)
    assert statistics.seeds_needed(seen, family=13) > needed


def test_seeds_needed_at_the_ends() -> None:
    assert statistics.seeds_needed(comparison(0.2, delta=50.0), family=13) == 10  # 2 / 2 ** 10 <= 0.05 / 13
    assert statistics.seeds_needed(comparison(0.2, delta=0.0), family=1) == math.inf
    few_images = Comparison(10, 0.5, -1, 2, 0.2, 0.2, 0.002, 0.5, image_error=0.4)
    assert statistics.seeds_needed(few_images, family=1) == math.inf


def test_rows_of_other_seeds_and_of_one_seed() -> None:
    a, b = {0: np.array([90.0]), 1: np.array([92.0])}, {1: np.array([91.0]), 2: np.array([80.0])}
    found = compare(a, b)
    assert (found.n, found.delta) == (1, 1.0) and math.isnan(found.low) and math.isnan(found.p)
    assert compare(a, {7: np.array([1.0])}).n == 0


def test_what_the_paper_itself_resolves() -> None:
    """Welch and Holm on Table 10's printed means and deviations; Table 11 prints no deviations."""
    unresolved = {"patchify_stem", "gelu", "fewer_norms", "layer_norm"}
    assert resolved_by_paper(10) == published.gains(10).keys() - unresolved - {"training_recipe"}
    assert resolved_by_paper(11) == set()
    assert published.gains(10)["training_recipe"] == pytest.approx(2.69)


def test_p_of_an_order_counts_the_orders() -> None:
    """Against counting all orders by hand: no ties, ties on one side and on both; SciPy's exact p without ties."""
    for one in ([3, 1, 2, 5, 4, 6], [3, 1, 1, 5, 4, 6]):
        for other in ([1, 2, 3, 4, 5, 6], [1, 2, 2, 4, 5, 6], [6, 5, 5, 2, 2, 1]):
            mine, theirs = np.array(one, float), np.array(other, float)
            taus = [abs(stats.kendalltau(order, theirs).statistic) for order in permutations(mine)]
            expected = np.mean(np.array(taus) >= abs(stats.kendalltau(mine, theirs).statistic) - 1e-9)
            assert order_p(mine, theirs) == pytest.approx(expected)
    order = np.arange(13.0)
    for turned in (7, 8):  # too many orders to try all of them
        mine = np.concatenate([order[:turned][::-1], order[turned:]])
        expected = stats.kendalltau(mine, order, method="exact").pvalue
        assert 0.01 < expected < 0.5 and order_p(mine, order) == pytest.approx(expected, abs=0.006)


def test_agreement_with_the_paper() -> None:
    printed = {row.step: row.top1 for row in published.published_rows(10) if row.adopted}
    same = agreement({step: np.full(5, top1) for step, top1 in printed.items()}, 10)
    assert same is not None and (same.steps, same.same_sign, same.all_steps) == (8, 8, 13)
    assert (same.tau, same.tau_low, same.tau_high, same.sign_low) == pytest.approx((1.0, 1.0, 1.0, 1.0))
    other = agreement({step: np.full(5, -top1) for step, top1 in printed.items()}, 10)
    assert other is not None and other.same_sign == 0 and other.tau == pytest.approx(-1.0)
    assert same.tau_p == other.tau_p < 1e-5
    flat = agreement({step: np.full(5, 50.0) for step in printed}, 10)
    assert flat is not None and (flat.tau, flat.same_sign, flat.tau_p) == (0.0, 0, 1.0)
    assert agreement({"layer_norm": np.ones(5), "gelu": np.ones(5), "baseline": np.ones(5)}, 10) is None
    one_seed = agreement({step: np.array([top1]) for step, top1 in printed.items()}, 10)
    assert one_seed is not None and one_seed.tau == pytest.approx(1.0) and math.isnan(one_seed.tau_low)


def test_the_interval_of_the_agreement_is_as_wide_as_taus_spread() -> None:
    """Neighbouring gains share a row, so that they are no independent draws."""
    printed = {row.step: row.top1 for row in published.published_rows(10) if row.adopted}
    generator = np.random.default_rng(0)
    taus, widths = [], []
    for _ in range(40):
        found = agreement({s: top1 + generator.normal(0, 1, 5) for s, top1 in printed.items()}, 10)
        assert found is not None
        taus.append(found.tau)
        widths.append(found.tau_high - found.tau_low)
    assert np.mean(widths) == pytest.approx(3.92 * np.std(taus), rel=0.35)


def test_shapley_of_a_known_game() -> None:
    """Two of three seeds more, and orders that differ: the mean is the mean, the interval covers both."""
    gains = np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])
    found = statistics.shapley(gains)
    low, high = statistics.t_interval([2.0, 3.0])  # of the two columns, the wider source
    assert found.mean == 2.5 and low < found.low < 2.5 < found.high < high
    assert math.isnan(statistics.shapley(gains[:, :1]).low)
