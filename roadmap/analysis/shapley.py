"""Shapley values of the transforms, from the sampled orders of an attribution study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from roadmap.analysis import statistics
from roadmap.analysis.statistics import Array
from roadmap.analysis.table import Row, Study
from roadmap.config.roadmaps import Roadmap

VALUE_COLUMNS = ["value", "low", "high", "start_value", "start_low", "start_high"]
SHAPLEY_COLUMNS = ["transform", "label", *VALUE_COLUMNS, "n_orders", "n_seeds", "setting", "section"]


def shapley_values(study: Study) -> pd.DataFrame:
    """Return one line for each transform and setting, with the columns SHAPLEY_COLUMNS; values in percentage points.

    The value of a transform is the mean of its gains over the orders, `start_value` that of the gains in networks with
    the transforms of the roadmap's start, for the other transforms. The table is empty for other designs. An order with
    a network that is not completed is left out together with its reverse, and so is a seed that not all networks have.
    """
    lines: list[dict[str, object]] = []
    for setting in dict.fromkeys(row.setting for row in study.rows):
        rows = [row for row in study.rows if row.setting == setting]
        layout = study.manifest.layout
        lines += _values_of_setting(rows, layout.orders, study.roadmap.with_more_needs(layout.needs))
    return pd.DataFrame(lines, columns=SHAPLEY_COLUMNS)


def _values_of_setting(rows: Sequence[Row], orders: Sequence[list[str]], roadmap: Roadmap) -> list[dict[str, object]]:
    accuracies = {
        frozenset(row.transforms): dict(zip((record["seed"] for record in row.completed), row.top1, strict=True))
        for row in rows
    }
    if not {name for order in orders for name in order} <= roadmap.transforms.keys():
        return []  # a transform of the study no longer exists
    prefixes_of = partial(_prefixes, roadmap=roadmap)
    pairs = zip(orders[::2], orders[1::2], strict=True)  # an order and its reverse
    used = [pair for pair in pairs if all(accuracies.get(names) for order in pair for names in prefixes_of(order))]
    if not used:
        return []
    networks = {names for pair in used for order in pair for names in prefixes_of(order)}
    seeds = sorted(set.intersection(*(set(accuracies[names]) for names in networks)))
    if not seeds:
        return []
    start = set(roadmap.steps[roadmap.file.start].transforms)
    # For each transform and pair: its gains in the two orders, arrays (seeds,); and those in networks with the start.
    gains: dict[str, list[list[Array]]] = {name: [[] for _ in used] for name in used[0][0]}
    start_gains: dict[str, list[list[Array]]] = {name: [[] for _ in used] for name in gains}
    for column, pair in enumerate(used):
        for order in pair:
            prefixes = prefixes_of(order)
            for name, before, after in zip(order, prefixes, prefixes[1:], strict=False):
                gain = np.array([accuracies[after][seed] - accuracies[before][seed] for seed in seeds])
                gains[name][column].append(gain)
                if start and start <= before:
                    start_gains[name][column].append(gain)
    lines: list[dict[str, object]] = []
    for name in roadmap.sort(gains):
        transform = roadmap.transforms[name]
        values = (*_value_with_interval(gains[name]), *_value_with_interval(start_gains[name]))
        line: dict[str, object] = {"transform": name, "label": transform.label}
        line |= dict(zip(VALUE_COLUMNS, values, strict=True))
        line |= {"n_orders": 2 * len(used), "n_seeds": len(seeds)}
        lines.append(line | {"setting": rows[0].setting, "section": roadmap.section_of(name)})
    return lines


def _value_with_interval(gains_of_pairs: Sequence[Sequence[Array]]) -> tuple[float, float, float]:
    """Return the mean and the 95 % interval of the mean gains of the pairs. A gain has a value for each seed."""
    means = [np.mean(gains, axis=0) for gains in gains_of_pairs if gains]
    if not means:
        return math.nan, math.nan, math.nan
    estimate = statistics.shapley(np.stack(means, axis=1))
    return estimate.mean, estimate.low, estimate.high


def _prefixes(order: Sequence[str], roadmap: Roadmap) -> list[frozenset[str]]:
    """Return the networks along an order. A transform has no effect until the transforms that it needs are present."""
    return [frozenset(roadmap.without_unmet_needs(list(order[:count]))) for count in range(len(order) + 1)]
