"""A table of explanations of a gap between two networks: predictions, results and verdicts.

The explanations are in a YAML file such as experiments/why.yaml. The rule of the verdicts is in
experiments/fashion_mnist.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from roadmap.analysis.gaps import Gap, Network, change_of_gap, measure_gap, verdict
from roadmap.analysis.settings import without_folders
from roadmap.analysis.statistics import Difference
from roadmap.analysis.table import Study
from roadmap.config.files import read_yaml
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import SpecError
from roadmap.report.columns import format_interval
from roadmap.report.formats import markdown

CHANGES = ("smaller", "larger")
COLUMNS = ["explanation", "setting", "prediction: gap", "change, held-out", "change, test", "verdict"]
TEXT_COLUMNS = {"explanation", "setting", "prediction: gap", "verdict"}


@dataclass(frozen=True)
class Explanation:
    """An explanation of the gap, the gap under its setting, and whether it predicts a smaller or a larger one."""

    because: str
    setting: str  # as a person writes it
    gap: Gap
    change: str


def read_explanations(path: Path) -> tuple[Gap, list[Explanation]]:
    """Return the gap under the standard setting and its explanations. Raises SpecError for a damaged file."""
    content, steps = read_yaml(path), load_roadmap().steps
    network, other = (frozenset(steps[content[name]].transforms) for name in ("network", "other"))
    explanations = []
    for entry in content["explanations"]:
        setting, without = entry.get("setting", ""), entry.get("without", [])
        if entry["change"] not in CHANGES or not network >= set(without):
            raise SpecError(f"{path}: {entry['because']}: change must be one of {CHANGES}, without of the network")
        row_setting = without_folders(setting)
        gap = Gap(Network(network - set(without), row_setting), Network(other, row_setting))
        shown = setting or f"without {load_roadmap().joined_labels(without)}"
        explanations.append(Explanation(entry["because"], shown, gap, entry["change"]))
    return Gap(Network(network), Network(other)), explanations


def predictions_table(path: Path) -> str:
    """Return the explanations in the file `path` as Markdown, with their settings and predictions."""
    lines = [
        [explanation.because, explanation.setting, explanation.change] for explanation in read_explanations(path)[1]
    ]
    return markdown(pd.DataFrame(lines, columns=COLUMNS[:3]), [], TEXT_COLUMNS).strip()


def explanations_table(path: Path, held_out: Sequence[Study], test: Sequence[Study]) -> str:
    """Return the explanations in the file `path` as Markdown, with their results on held-out images and the test set.

    Raises KeyError if a side has no row of the gap under the standard setting.
    """
    standard, explanations = read_explanations(path)
    sides = (held_out, test)
    before = [measure_gap(studies, standard) for studies in sides]
    first = ["ConvNeXt minus ResNet", "as in the study", "", *(_format(gap) for gap in before), ""]
    lines = [first]
    for explanation in explanations:
        changes = [_change(studies, standard, explanation.gap) for studies in sides]
        verdicts = [
            None if change is None else verdict(_in_direction(change, explanation.change), gap.mean)
            for change, gap in zip(changes, before, strict=True)
        ]
        cells = [explanation.because, explanation.setting, explanation.change]
        lines.append([*cells, *map(_format, changes), _final(*verdicts)])
    return markdown(pd.DataFrame(lines, columns=COLUMNS), [], TEXT_COLUMNS).strip()


def _change(studies: Sequence[Study], standard: Gap, changed: Gap) -> Difference | None:
    """Return the change of the gap, None if a network of it was not trained."""
    try:
        return change_of_gap(studies, standard, changed)
    except KeyError:
        return None


def _in_direction(change: Difference, predicted: str) -> Difference:
    """Return the effect, positive if the change is the predicted one; a gap below zero is smaller if it rises."""
    if predicted == "smaller":
        return change
    return replace(change, mean=-change.mean, low=-change.high, high=-change.low)


def _final(held_out: str | None, test: str | None) -> str:
    """Return the verdict: confirmed only if the held-out images and the test set give the same one."""
    if test is None:
        return f"{held_out} (held-out only)" if held_out else "not tested"
    return f"{test}, confirmed" if held_out == test else f"{test} (held-out: {held_out or 'not trained'})"


def _format(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    return f"{difference.mean:+.2f} ({format_interval(difference.low, difference.high)})"
