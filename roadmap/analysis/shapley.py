"""What each transform is worth, whatever the order: Shapley values from the sampled orders of an attribution study."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from roadmap.analysis import statistics
from roadmap.analysis.table import Row, Study
from roadmap.config.steps import all_transforms, sort_transforms, without_unmet_needs

SHAPLEY_COLUMNS = ["transform", "label", "value", "low", "high", "n_orders", "n_seeds", "setting", "section"]


def shapley_values(study: Study) -> pd.DataFrame:
    """One line per transform and setting; the columns are COLUMNS, values in percent. Empty for other designs.

    An order with a network that is not completed is left out, with its opposite, and so are seeds that not all have.
    """
    lines = []
    for setting in dict.fromkeys(row.setting for row in study.rows):
        lines += _of_setting([row for row in study.rows if row.setting == setting], study.manifest.layout.orders)
    return pd.DataFrame(lines, columns=SHAPLEY_COLUMNS)


def _of_setting(rows: Sequence[Row], orders: Sequence[list[str]]) -> list[dict[str, object]]:
    accuracies = {
        frozenset(row.transforms): dict(zip((c["seed"] for c in row.done), row.top1, strict=True)) for row in rows
    }
    pairs = list(zip(orders[::2], orders[1::2], strict=True))
    whole = [pair for pair in pairs if all(accuracies.get(names) for order in pair for names in _prefixes(order))]
    if not whole:
        return []
    used = {names for pair in whole for order in pair for names in _prefixes(order)}
    seeds = sorted(set.intersection(*(set(accuracies[names]) for names in used)))
    if not seeds:
        return []
    gains = {name: np.zeros((len(seeds), len(whole))) for name in whole[0][0]}
    for column, pair in enumerate(whole):
        for order in pair:
            steps = _prefixes(order)
            for name, before, after in zip(order, steps, steps[1:], strict=False):
                gains[name][:, column] += [(accuracies[after][s] - accuracies[before][s]) / 2 for s in seeds]
    lines = []
    for name in sort_transforms(list(gains)):
        found, transform = statistics.shapley(gains[name]), all_transforms()[name]
        line = {"transform": name, "label": transform.label, "value": found.mean, "low": found.low, "high": found.high}
        line |= {"n_orders": 2 * len(whole), "n_seeds": len(seeds)}
        lines.append(line | {"setting": rows[0].setting, "section": transform.section})
    return lines


def _prefixes(order: Sequence[str]) -> list[frozenset[str]]:
    """The networks along an order; a transform has no effect before what it needs is there."""
    return [frozenset(without_unmet_needs(list(order[:count]))) for count in range(len(order) + 1)]
