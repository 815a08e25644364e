"""Two studies side by side, as of two datasets or two budgets: do their conclusions agree, step by step?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
from scipy import stats

from roadmap.analysis.statistics import DESCRIPTIVE, GAIN, LOSS, Comparison
from roadmap.analysis.table import Study

COMPARISON_COLUMNS = [
    "step",
    "against",
    "a_delta",
    "a_low",
    "a_high",
    "a_verdict",
    "b_delta",
    "b_low",
    "b_high",
    "b_verdict",
    "say",
]


class Gain(NamedTuple):
    label: str
    against: str
    found: Comparison


Key = tuple[frozenset[str], frozenset[str], str]  # transforms of the row, of the one that it is compared with; setting


def study_gains(study: Study, setting: str | None = None) -> dict[Key, Gain]:
    """What each row of the study gained over the row that it is compared with; of one setting, told apart by it no
    more."""
    found = {}
    for row, other, comparison in zip(study.rows, study.against, study.comparisons, strict=True):
        if comparison is not None and other is not None and setting in (None, row.setting):
            before = study.rows[other]
            key = frozenset(row.transforms), frozenset(before.transforms), row.setting if setting is None else ""
            found[key] = Gain(row.label, before.label, comparison)
    return found


def compare_gains(a: Mapping[Key, Gain], b: Mapping[Key, Gain]) -> pd.DataFrame:
    """One line for each comparison that both have; the columns are COLUMNS, gains in percent."""
    lines = []
    for name in a:
        if name in b and not math.isnan(a[name].found.delta) and not math.isnan(b[name].found.delta):
            line: dict[str, object] = {
                "step": a[name].label,
                "against": a[name].against,
                "say": joint_verdict(a[name].found, b[name].found),
            }
            for side, found in (("a", a[name].found), ("b", b[name].found)):
                line |= {f"{side}_delta": found.delta, f"{side}_low": found.low, f"{side}_high": found.high}
                line[f"{side}_verdict"] = found.verdict
            lines.append(line)
    return pd.DataFrame(lines, columns=COMPARISON_COLUMNS)


def joint_verdict(a: Comparison, b: Comparison) -> str:
    """What two comparisons say together; only resolved ones can agree or contradict each other."""
    resolved = [found.verdict in (GAIN, LOSS) for found in (a, b)]
    if all(resolved):
        return "agree" if a.verdict == b.verdict else "contradict"
    same = "same sign" if a.delta * b.delta > 0 else "no difference" if a.delta * b.delta == 0 else "opposite signs"
    if any(resolved):
        return f"resolved in {'the first' if resolved[0] else 'the second'} only, {same}"
    return f"{'descriptive' if DESCRIPTIVE in (a.verdict, b.verdict) else 'resolved in neither'}, {same}"


def comparison_sentence(table: pd.DataFrame, a: str, b: str) -> str:
    same = int((table["a_delta"] * table["b_delta"] > 0).sum())
    both = int(table["say"].isin(["agree", "contradict"]).sum())
    text = f"{a} and {b}: {same} of {len(table)} gains have the same sign"
    if len(table) > 2:
        text += f", Kendall's tau {stats.kendalltau(table['a_delta'], table['b_delta']).statistic:.2f}"
    if both:
        return f"{text}; of {both} that both resolve, {int((table['say'] == 'agree').sum())} agree."
    return f"{text}; none is resolved in both."
