"""Search for the best combination of a roadmap's transforms: a race of candidates over a growing number of seeds.

The search begins at both ends: with the base and each transform added to it, and with the last step and each transform
removed from it. Then, in rounds, it trains candidates with one more seed, or new candidates that are one change (a
transform added, removed or swapped for another) away from those in the race. A candidate that is clearly worse than the
best one leaves the race; the idea is that of F-race (Birattari et al., GECCO 2002). Which candidates a round trains is
drawn by Thompson sampling from a Bayesian regression on single transforms and pairs of them, so that each result also
informs about other candidates.

The module knows no networks: a function returns the results of candidates, so that simulations can test the search.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats
from sklearn.linear_model import BayesianRidge
from threadpoolctl import threadpool_limits

from roadmap.analysis.statistics import Array
from roadmap.config.roadmaps import with_needs, without_unmet_needs

Candidate = frozenset[str]
Job = tuple[Candidate, int]  # a candidate and a seed
Evaluate = Callable[[Sequence[Job]], Mapping[Job, float]]  # top-1 in percent; without the jobs that failed

BATCH = 4  # runs of a round, at least
LEAST_ROUNDS = 12  # after the first candidates: a round decides by the results of those before it
MOST_SEEDS = 10  # of a candidate
DROP_LEVEL = 0.05  # of the one-sided test with which a candidate leaves the race
NUM_PARENTS = 8  # candidates in the race, those with the best estimates, whose neighbours may be tried
FINAL_SHARE = 0.25  # of the budget, for more seeds of the candidates in the race
PAIR_SCALE = 0.5  # effects of pairs are expected to be smaller than those of single transforms
LEAST_DEVIATION = 0.01  # over seeds, points of top-1


class NoResultError(Exception):
    """No candidate of a race has a result."""


@dataclass(frozen=True)
class Space:
    """The combinations of transforms among which a search looks for the best one."""

    names: tuple[str, ...]  # the transforms that may be left out, in the order of the roadmap
    base: Candidate  # the start of the search, with none of `names`
    full: Candidate  # the last step
    is_possible: Callable[[Candidate], bool]  # whether a network can be built and is within the bound on its cost
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)  # transforms that a transform needs

    def with_(self, candidate: Candidate, name: str) -> Candidate:
        """Return the candidate with a transform, and with those that it needs."""
        return candidate | frozenset(with_needs([name], self.needs))

    def without(self, candidate: Candidate, name: str) -> Candidate:
        """Return the candidate without a transform, and without those that need it."""
        return frozenset(without_unmet_needs(sorted(candidate - {name}), self.needs))

    def change(self, candidate: Candidate, name: str) -> Candidate:
        """Return the candidate without the transform if it has it, else with it."""
        return self.without(candidate, name) if name in candidate else self.with_(candidate, name)

    def neighbours(self, candidate: Candidate) -> list[Candidate]:
        """Return the possible candidates with one transform more or less, or with one swapped for another."""
        inside = [name for name in self.names if name in candidate]
        outside = [name for name in self.names if name not in candidate]
        found = [self.change(candidate, name) for name in (*outside, *inside)]
        swaps = itertools.product(inside, outside)
        found += [
            self.with_(self.without(candidate, old), new) for old, new in swaps if old not in self.needs.get(new, ())
        ]
        return [other for other in dict.fromkeys(found) if other != candidate and self.is_possible(other)]

    def first_candidates(self) -> list[Candidate]:
        """Return both ends and their neighbours: the base with one transform more, the last step with one less."""
        forward = [self.with_(self.base, name) for name in self.names]
        backward = [self.without(self.full, name) for name in self.names]
        found = dict.fromkeys([self.base, self.full, *forward, *backward])
        return [candidate for candidate in found if self.is_possible(candidate)]

    def features(self, candidates: Sequence[Candidate]) -> Array:
        """Return the features of the regression, (candidates, transforms + pairs of transforms)."""
        single = 2.0 * np.array([[name in candidate for name in self.names] for candidate in candidates]) - 1
        first, second = np.triu_indices(len(self.names), 1)
        return np.hstack([single, PAIR_SCALE * single[:, first] * single[:, second]])


class Model:
    """What the results say about any candidate: a regression on transforms and pairs, and the candidate's own mean."""

    def __init__(self, space: Space, results: Mapping[Candidate, Mapping[int, float]]) -> None:
        self.space, self.results = space, results
        counts = np.array([len(values) for values in results.values()])
        means = np.array([np.mean(list(values.values())) for values in results.values()])
        features = space.features(list(results))
        self.center, self.scale = float(means.mean()), float(means.std()) or 1.0
        self.regression = BayesianRidge()
        self.regression.fit(features, (means - self.center) / self.scale, sample_weight=counts.astype(float))
        residuals = means - self._predict(features, self.regression.coef_)
        self.deviation = _deviation(results, residuals)
        # The variance that neither the regression nor the seeds explain.
        noise = float(np.mean(self.deviation**2 / counts))
        self.lack = max(float(np.mean(residuals**2)) - noise, (0.1 * self.deviation) ** 2)

    def _predict(self, features: Array, weights: Array) -> Array:
        return np.asarray(self.center + self.scale * (features @ weights + self.regression.intercept_))

    def estimates(self, candidates: Sequence[Candidate]) -> Array:
        """Return the estimate of each candidate, percent: a mean of its results and the regression.

        The more seeds a candidate has, the more its own results count.
        """
        own, share = self._own_results(candidates)
        return share * own + (1 - share) * self._predict(self.space.features(candidates), self.regression.coef_)

    def draws(self, candidates: Sequence[Candidate], count: int, rng: np.random.Generator) -> Array:
        """Return `count` draws of the true value of each candidate, (count, candidates)."""
        own, share = self._own_results(candidates)
        weights = rng.multivariate_normal(self.regression.coef_, self.regression.sigma_, count, method="cholesky")
        predicted = self._predict(weights, self.space.features(candidates).T)
        noise = np.sqrt(self.lack * (1 - share)) * rng.standard_normal((count, len(candidates)))
        return np.asarray(share * own + (1 - share) * predicted + noise)

    def _own_results(self, candidates: Sequence[Candidate]) -> tuple[Array, Array]:
        """Return the mean of each candidate (0 without results), and its weight against the regression, 0 to 1."""
        values = [list(self.results.get(candidate, {}).values()) for candidate in candidates]
        precision = np.array([len(own) for own in values]) / self.deviation**2
        means = np.array([np.mean(own) if own else 0.0 for own in values])
        return means, precision / (precision + 1 / self.lack)


def _deviation(results: Mapping[Candidate, Mapping[int, float]], residuals: Array) -> float:
    """Return the standard deviation over seeds, pooled over candidates; that of the residuals counts as one seed."""
    groups = [np.array(list(values.values())) for values in results.values() if len(values) > 1]
    freedom = 1 + sum(len(group) - 1 for group in groups)
    squares = float(np.mean(residuals**2)) + sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return max(math.sqrt(squares / freedom), LEAST_DEVIATION)


@dataclass
class Race:
    """A search: its results so far, and the candidates that are still in the race."""

    space: Space
    budget: int  # runs
    seed: int = 0  # of the random draws
    batch: int = BATCH  # runs of a round; see `round_size`
    results: dict[Candidate, dict[int, float]] = field(default_factory=dict)  # top-1 by seed
    dropped: set[Candidate] = field(default_factory=set)  # clearly worse, or without the result of a run
    failed: set[Candidate] = field(default_factory=set)  # those of them without the result of a run
    num_runs: int = 0

    def run(self, evaluate: Evaluate) -> None:
        """Search until the budget is spent, or until every candidate in the race has MOST_SEEDS seeds.

        The same results give the same search. Raises NoResultError if no run completed.
        """
        rng = np.random.default_rng(self.seed)
        with threadpool_limits(1, "blas"):  # its matrices are small, and sums do not depend on the number of cores
            self._train([(candidate, 0) for candidate in self.space.first_candidates()], evaluate)
            while jobs := self._next_jobs(rng):
                self._train(jobs, evaluate)
                self._drop()

    def ranking(self) -> list[Candidate]:
        """Return the candidates that are still in the race, the best estimate first."""
        candidates = [candidate for candidate in self.results if candidate not in self.dropped]
        if not candidates:
            return []
        estimates = Model(self.space, self.results).estimates(candidates)
        return [candidates[i] for i in np.argsort(-estimates, kind="stable")]

    def _next_jobs(self, rng: np.random.Generator) -> list[Job]:
        num_left, ranking = self.budget - self.num_runs, self.ranking()
        if not ranking:
            raise NoResultError("no candidate has a result")
        pool = [candidate for candidate in ranking if len(self.results[candidate]) < MOST_SEEDS]
        if num_left > FINAL_SHARE * self.budget:
            near = (other for candidate in ranking[:NUM_PARENTS] for other in self.space.neighbours(candidate))
            pool += dict.fromkeys(other for other in near if other not in self.results and other not in self.dropped)
        if not pool or num_left < 1:
            return []
        best = np.argmax(Model(self.space, self.results).draws(pool, 10 * self.batch, rng), axis=1)
        chosen = dict.fromkeys(pool[int(i)] for i in best)
        return [(candidate, self._next_seed(candidate)) for candidate in list(chosen)[: min(self.batch, num_left)]]

    def _next_seed(self, candidate: Candidate) -> int:
        return max(self.results.get(candidate, {-1: 0.0})) + 1

    def _train(self, jobs: Sequence[Job], evaluate: Evaluate) -> None:
        jobs = jobs[: self.budget - self.num_runs]
        self.num_runs += len(jobs)
        found = evaluate(jobs)
        for candidate, seed in jobs:
            if (candidate, seed) in found:
                self.results.setdefault(candidate, {})[seed] = found[candidate, seed]
            else:
                self.dropped.add(candidate)
                self.failed.add(candidate)

    def _drop(self) -> None:
        """Remove the candidates that are clearly worse than the best one.

        A t-test with the pooled deviation over the seeds that both have: a rule for spending the budget, no claim.
        """
        ranking = self.ranking()
        if not ranking:
            return
        best = self.results[ranking[0]]
        freedom = sum(len(values) - 1 for values in self.results.values())
        deviation = Model(self.space, self.results).deviation
        for candidate in ranking[1:]:
            seeds = best.keys() & self.results[candidate].keys()
            if seeds and freedom > 0:
                difference = np.mean([self.results[candidate][seed] - best[seed] for seed in seeds])
                error = deviation * math.sqrt(2 / len(seeds))
                if stats.t.cdf(difference / error, freedom) < DROP_LEVEL:
                    self.dropped.add(candidate)


def round_size(budget: int, num_first: int, num_parallel: int) -> int:
    """Return the runs of each round: as many as train at once, if the budget is large enough for LEAST_ROUNDS of them
    after the first candidates."""
    return max(BATCH, min(num_parallel, (budget - num_first) // LEAST_ROUNDS))


def steps_to(winner: Candidate, race: Race) -> list[list[str]]:
    """Return the winner's transforms as ordered steps: at each place the one with the best estimate.

    Where no single transform makes a possible network, the rest is one step.
    """
    space, model = race.space, Model(race.space, race.results)
    current: Candidate = space.base
    steps: list[list[str]] = []
    while left := [name for name in space.names if name in winner - current]:
        following = [space.with_(current, name) for name in left]
        following = [other for other in following if other <= winner and space.is_possible(other)] or [winner]
        best = following[int(np.argmax(model.estimates(following)))]
        steps.append([name for name in space.names if name in best - current])
        current = best
    return steps
