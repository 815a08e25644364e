"""Simulation of the search for the best combination of transforms, against simpler searches at the same budget.

The response surfaces have known best combinations. No network is trained.
"""

from __future__ import annotations

import argparse
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from benchmarks.tables import print_header, print_row
from roadmap.analysis.racing import Candidate, Job, Race, Space, round_size
from roadmap.analysis.statistics import Array

EFFECT = 0.8  # standard deviation of the effects of transforms and of pairs, points of top-1
NOISES = (0.2, 0.4, 1.0)  # standard deviations over seeds, points of top-1
BUDGETS = (60, 100)  # runs
NEAR = 0.3  # points of top-1

Search = Callable[["Surface", int], Candidate]  # of a surface with a budget of runs


@dataclass(frozen=True)
class Surface:
    """The true top-1 of every combination, and results with noise; each belongs to a combination and a seed."""

    names: tuple[str, ...]
    effects: Array  # of each transform, points of top-1
    pairs: Array  # (transforms, transforms), of two transforms together; upper triangle
    noise: float  # standard deviation over seeds, points of top-1
    seed: int
    triples: Mapping[tuple[int, ...], float] = field(default_factory=dict)  # effects of three transforms together

    @classmethod
    def sample(
        cls, seed: int, num_transforms: int, noise: float, effect: float = EFFECT, num_triples: int = 0
    ) -> Surface:
        """Return a random surface: as many pairs as transforms, and `num_triples`, have an effect of their own.

        The race expects effects of transforms and of pairs, and none of triples.
        """
        rng = np.random.default_rng([seed, 0])
        effects, pairs = rng.normal(0, effect, num_transforms), np.zeros((num_transforms, num_transforms))
        first, second = np.triu_indices(num_transforms, 1)
        chosen = rng.choice(len(first), size=num_transforms, replace=False)
        pairs[first[chosen], second[chosen]] = rng.normal(0, effect, num_transforms)
        rng = np.random.default_rng([seed, 3])
        chosen = [tuple(rng.choice(num_transforms, size=3, replace=False).tolist()) for _ in range(num_triples)]
        triples = dict(zip(chosen, rng.normal(0, effect, num_triples).tolist(), strict=True))
        return cls(tuple(f"t{i}" for i in range(num_transforms)), effects, pairs, noise, seed, triples)

    @property
    def space(self) -> Space:
        """The space in which all combinations are possible."""
        return Space(self.names, frozenset(), frozenset(self.names), lambda candidate: True)

    def values(self, candidates: Sequence[Candidate]) -> Array:
        """Return the true top-1 of each candidate, percent."""
        chosen = np.array([[name in candidate for name in self.names] for candidate in candidates], float)
        triples = sum(effect * chosen[:, list(names)].prod(axis=1) for names, effect in self.triples.items())
        return cast(Array, 90 + chosen @ self.effects + np.einsum("ci,ij,cj->c", chosen, self.pairs, chosen) + triples)

    def best(self) -> float:
        """Return the highest true top-1 of all combinations."""
        subsets = itertools.product((False, True), repeat=len(self.names))
        return float(self.values([frozenset(itertools.compress(self.names, subset)) for subset in subsets]).max())

    def evaluate(self, jobs: Sequence[Job]) -> Mapping[Job, float]:
        """Return the result of each candidate and seed: the true top-1 with noise."""
        values = self.values([candidate for candidate, _ in jobs])
        return {job: value + self.noise * self._draw(*job) for job, value in zip(jobs, values, strict=True)}

    def _draw(self, candidate: Candidate, seed: int) -> float:
        return np.random.default_rng([self.seed, seed, zlib.crc32(repr(sorted(candidate)).encode())]).normal()

    def mean(self, candidate: Candidate, num_seeds: int) -> float:
        """Return the mean result of the first seeds."""
        return float(np.mean(list(self.evaluate([(candidate, seed) for seed in range(num_seeds)]).values())))


def race(surface: Surface, budget: int, num_parallel: int = 2) -> Candidate:
    """The search of `+study=search`."""
    space = surface.space
    search = Race(space, budget, surface.seed, round_size(budget, len(space.first_candidates()), num_parallel))
    search.run(surface.evaluate)
    return search.ranking()[0]


def race_64_at_once(surface: Surface, budget: int) -> Candidate:
    """The same on a machine that trains 64 runs at once."""
    return race(surface, budget, 64)


def one_pass_greedy(surface: Surface, budget: int) -> Candidate:
    """Add each transform in the order of the roadmap, keep it if it helps; all runs of the budget, divided equally."""
    num_seeds = budget // (len(surface.names) + 1)
    current = surface.space.base
    value = surface.mean(current, num_seeds)
    for name in surface.names:
        if (other := surface.mean(current | {name}, num_seeds)) > value:
            current, value = current | {name}, other
    return current


def forward_selection(surface: Surface, budget: int) -> Candidate:
    """Add the transform that helps most, one seed each, until none helps or the budget is spent."""
    current, num_runs = surface.space.base, 1
    value = surface.mean(current, 1)
    while left := [name for name in surface.names if name not in current]:
        if num_runs + len(left) > budget:
            break
        num_runs += len(left)
        means = [surface.mean(current | {name}, 1) for name in left]
        if max(means) <= value:
            break
        current, value = current | {left[int(np.argmax(means))]}, max(means)
    return current


def random_search(surface: Surface, budget: int, num_seeds: int = 1) -> Candidate:
    """Random combinations, the best mean wins."""
    rng = np.random.default_rng([surface.seed, 1])
    subsets = rng.random((budget // num_seeds, len(surface.names))) < 0.5
    candidates = [frozenset(itertools.compress(surface.names, subset)) for subset in subsets]
    return max(candidates, key=lambda candidate: surface.mean(candidate, num_seeds))


def random_search_3_seeds(surface: Surface, budget: int) -> Candidate:
    """Random combinations with three seeds each, the best mean wins."""
    return random_search(surface, budget, 3)


SEARCHES: dict[str, Search] = {
    "race": race,
    "race, 64 runs at once": race_64_at_once,
    "one-pass greedy": one_pass_greedy,
    "forward selection": forward_selection,
    "random, 1 seed": random_search,
    "random, 3 seeds": random_search_3_seeds,
}


def regrets(search: Search, surfaces: Sequence[Surface], budget: int) -> Array:
    """Return for each surface how far the found combination is below the best one, points of top-1."""
    found = [surface.values([search(surface, budget)])[0] for surface in surfaces]
    return np.array([surface.best() for surface in surfaces]) - np.array(found)


def share_found(regret: Array) -> float:
    """Return the share of surfaces on which the best combination was found."""
    return float(np.mean(regret < 1e-9))


def compare_searches(options: argparse.Namespace) -> None:
    """Print how often each search finds the best of 4,096 combinations of 12 transforms with interactions."""
    print_header(
        *("triples", "noise (points)", "runs", "search"),
        *(">best found", f">within {NEAR} points", ">mean distance (points)"),
    )
    cases = [*itertools.product((0,), NOISES, BUDGETS), *itertools.product((12,), (0.4,), BUDGETS)]
    for triples, noise, budget in cases:
        surfaces = [Surface.sample(seed, 12, noise, num_triples=triples) for seed in range(options.surfaces)]
        for name, search in SEARCHES.items():
            regret = regrets(search, surfaces, budget)
            cells = [f"{share_found(regret):.0%}", f"{np.mean(regret < NEAR):.0%}", f"{regret.mean():.2f}"]
            print_row([f"{triples}", f"{noise}", f"{budget}", name, *cells])
