"""Benchmark of planning: composing the networks of a study, against Hydra's own composition of each."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.tables import median, print_header, print_row, ratios
from roadmap.config.compose import compose, compose_config
from roadmap.config.network_composer import NetworkComposer
from roadmap.config.roadmaps import load_roadmap

NUM_NETWORKS, NUM_HYDRA = 1000, 30  # Hydra composes fewer of them, because it is slow


def measure_composition(options: argparse.Namespace) -> None:
    """Print the seconds that a thousand random networks take, and those that Hydra would take, from a part of them."""
    roadmap = load_roadmap()
    names = [name for name in roadmap.steps["grn"].transforms if name != "move_up_depthwise"]
    generator = np.random.default_rng(0)
    subsets = [generator.permutation(names)[: generator.integers(1, len(names))] for _ in range(NUM_NETWORKS)]
    networks = [[f"+transform=[{','.join(subset)}]", "data=digits", "seed=0"] for subset in subsets]

    def composed_here() -> float:
        composer = NetworkComposer(lambda overrides: compose_config(*overrides), roadmap)
        return _seconds(composer.compose, networks)

    def composed_by_hydra() -> float:
        return _seconds(lambda overrides: compose(*overrides), networks[:NUM_HYDRA]) * NUM_NETWORKS / NUM_HYDRA

    print_header("networks", ">Hydra", ">ours", "ratio")
    times = [(options.measure(composed_by_hydra), options.measure(composed_here)) for _ in range(options.repeats)]
    hydra, ours = zip(*times, strict=True)
    print_row([f"{NUM_NETWORKS:,}", f"{median(hydra):,.0f} s", f"{median(ours):,.1f} s", ratios(hydra, ours)])


def _seconds(compose_one: Callable[[list[str]], Any], networks: Sequence[list[str]]) -> float:
    started = time.perf_counter()
    for overrides in networks:
        compose_one(overrides)
    return time.perf_counter() - started
