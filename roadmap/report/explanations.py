"""A table of explanations of a gap between two networks: predictions, results and verdicts.

The explanations are in a YAML file such as experiments/why.yaml. The rule of the verdicts is in
experiments/fashion_mnist.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from roadmap.analysis.gaps import CONTRIBUTES, EXPLAINS, OPEN, Effect, Gap, Network, measure_effect, verdict
from roadmap.analysis.settings import without_folders
from roadmap.analysis.statistics import Difference
from roadmap.analysis.table import Study
from roadmap.config.files import read_yaml
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import SpecError
from roadmap.report.columns import NO_VALUE, format_interval
from roadmap.report.formats import markdown

CHANGES = ("smaller", "larger")
TEXT_COLUMNS = {"explanation", "setting", "prediction: gap", "verdict"}
Studies = Sequence[Study]


@dataclass(frozen=True)
class Explanation:
    """An explanation of the gap, and the gap with the cause and without it."""

    because: str
    setting: str  # as a person writes it
    change: str  # of the gap under this setting: smaller, or larger if the setting adds the cause
    present: Gap
    removed: Gap


@dataclass(frozen=True)
class Explanations:
    """A gap under the standard setting, the names of its two networks, and explanations of it."""

    labels: tuple[str, str]
    standard: Gap
    entries: list[Explanation]


def read_explanations(path: Path) -> Explanations:
    """Read a file such as experiments/why.yaml. Raises SpecError that names the entry with a mistake."""
    content, steps = read_yaml(path), load_roadmap().steps
    try:
        labels = content["network"]["label"], content["other"]["label"]
        network, other = (frozenset(steps[content[name]["step"]].transforms) for name in ("network", "other"))
        entries = list(content["explanations"])
    except (KeyError, TypeError) as error:
        raise SpecError(f"{path}: needs network and other, each with step and label, and explanations") from error
    standard = _gap(network, other, "")
    found: list[Explanation] = []
    for entry in entries:
        if problem := _problem(entry, network):
            raise SpecError(f"{path}: {entry}: {problem}")
        setting, without, against = entry.get("setting", ""), entry.get("without", []), entry.get("against", "")
        gaps = _gap(network, other, against), _gap(network - set(without), other, setting)
        present, removed = reversed(gaps) if entry["change"] == "larger" else gaps
        shown = setting or f"without {load_roadmap().joined_labels(without)}"
        shown += f", against {against}" if against else ""
        found.append(Explanation(entry["because"], shown, entry["change"], present, removed))
    return Explanations(labels, standard, found)


def _problem(entry: object, network: frozenset[str]) -> str | None:
    """Return what is wrong with an entry of the file, None if nothing."""
    if not isinstance(entry, dict) or not entry.keys() <= {"because", "setting", "without", "change", "against"}:
        return "an entry has because, change, setting or without, and possibly against"
    if not isinstance(entry.get("because"), str):
        return "because must be the explanation"
    if entry.get("change") not in CHANGES:
        return f"change must be one of {', '.join(CHANGES)}"
    if ("setting" in entry) == ("without" in entry):
        return "needs setting or without, not both"
    if "without" in entry and not (entry["without"] and network >= set(entry["without"])):
        return "without must be a list of transforms of the network"
    return None


def _gap(network: frozenset[str], other: frozenset[str], setting: str) -> Gap:
    setting = without_folders(setting)  # as rows have it
    return Gap(Network(network, setting), Network(other, setting))


def predictions_table(path: Path) -> str:
    """Return the explanations in the file `path` as Markdown, with their settings and predictions."""
    entries = read_explanations(path).entries
    lines = [[explanation.because, explanation.setting, explanation.change] for explanation in entries]
    columns = ["explanation", "setting", "prediction: gap"]
    return markdown(pd.DataFrame(lines, columns=columns), [], TEXT_COLUMNS).strip()


def explanations_table(path: Path, held_out: Studies, test: Studies) -> str:
    """Return the explanations in the file `path` as Markdown, with their results on held-out images and the test set.

    The top-1 and the ratio of errors under the setting are those on the test set, if there are any. Raises SpecError if
    a study has a row that no explanation uses, and KeyError if a side has no row of the gap under the standard setting.
    """
    content = read_explanations(path)
    standard = content.standard
    used = {network for entry in content.entries for gap in (entry.present, entry.removed) for network in gap}
    for row in (row for study in (*held_out, *test) for row in study.rows):
        if Network(frozenset(row.transforms), row.setting) not in used.union(standard):
            raise SpecError(f"{path}: no explanation uses the row {'-'.join(row.transforms)} {row.setting}".rstrip())
    sides = [measure_effect(studies, standard, standard) for studies in (held_out, test)]
    network, other = content.labels
    lines = [_line(f"{network} minus {other}", "as in the study", "", sides, [side.gap for side in sides], "")]
    for entry in content.entries:
        effects = [_effect(studies, entry) for studies in (held_out, test)]
        verdicts = [None if effect is None else verdict(effect) for effect in effects]
        adds = entry.change == "larger"  # the setting adds the cause: its results are those with the cause
        shown = [_effect(studies, entry, adds) for studies in (held_out, test)] if adds else effects
        changes = [None if effect is None else effect.change for effect in shown]
        lines.append(_line(entry.because, entry.setting, entry.change, shown, changes, _final(*verdicts)))
    columns = ["explanation", "setting", "prediction: gap", f"{network}, {other} (%)", "ratio of errors"]
    columns += ["change, held-out", "change, test", "seeds", "verdict"]
    return markdown(pd.DataFrame(lines, columns=columns), [], TEXT_COLUMNS).strip()


def _effect(studies: Studies, explanation: Explanation, swap: bool = False) -> Effect | None:
    """Return the effect, None if a network of it has no completed run; with `swap` that of adding the cause."""
    gaps = explanation.present, explanation.removed
    try:
        return measure_effect(studies, *(reversed(gaps) if swap else gaps))
    except KeyError:
        return None


def _line(
    because: str,
    setting: str,
    prediction: str,
    effects: Sequence[Effect | None],
    changes: Sequence[Difference | None],
    conclusion: str,
) -> list[str]:
    """Return a line of the table, with the top-1 and the ratio of errors after the last of the `effects`."""
    known = [effect for effect in effects if effect is not None]
    top1 = "{:.2f}, {:.2f}".format(*known[-1].top1) if known else NO_VALUE
    ratio = f"{known[-1].ratios[1]:.2f}" if known else NO_VALUE
    seeds = ", ".join(NO_VALUE if effect is None else str(effect.num_seeds) for effect in effects)
    return [because, setting, prediction, top1, ratio, *map(_format, changes), seeds, conclusion]


def _final(held_out: str | None, test: str | None) -> str:
    """Return the verdict: confirmed only if the held-out images and the test set give the same one."""
    if test is None:
        return f"{held_out} (held-out only)" if held_out else "not tested"
    if held_out == test:
        return test if test == OPEN else f"{test}, confirmed"
    if {held_out, test} == {EXPLAINS, CONTRIBUTES}:
        return f"{CONTRIBUTES}, confirmed"
    return f"{test} (held-out: {held_out or 'not trained'})"


def _format(difference: Difference | None) -> str:
    if difference is None:
        return NO_VALUE
    return f"{difference.mean:+.2f} ({format_interval(difference.low, difference.high)})"
