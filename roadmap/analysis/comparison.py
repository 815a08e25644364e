"""Comparison of two studies, for example of two datasets or two budgets: do their conclusions agree, step by step?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
from scipy import stats

from roadmap.analysis.statistics import DESCRIPTIVE, GAIN, LOSS, Comparison
from roadmap.analysis.table import Study

COMPARISON_COLUMNS = [
    "step", "against",
    "a_delta", "a_low", "a_high", "a_verdict",
    "b_delta", "b_low", "b_high", "b_verdict",
    "say",
]  # fmt: skip


class Gain(NamedTuple):
    """The comparison of one row of a study with another row of it."""

    label: str
    against: str  # label of the other row
    comparison: Comparison


# Transforms of the row, transforms of the other row, setting; of a search as `roadmap.report.search.search_gains` says.
GainKey = tuple[frozenset[str], frozenset[str], str]


def study_gains(study: Study, setting: str | None = None) -> dict[GainKey, Gain]:
    """Return the gain of each row of the study over the row that it is compared with.

    With `setting`, return only the rows of this setting, and leave the setting out of the keys.
    """
    gains = {}
    for row, other, comparison in zip(study.rows, study.against, study.comparisons, strict=True):
        if comparison is not None and other is not None and setting in (None, row.setting):
            before = study.rows[other]
            key = frozenset(row.transforms), frozenset(before.transforms), row.setting if setting is None else ""
            gains[key] = Gain(row.label, before.label, comparison)
    return gains


def compare_gains(a: Mapping[GainKey, Gain], b: Mapping[GainKey, Gain]) -> pd.DataFrame:
    """Return one line for each gain that both have, with the columns COMPARISON_COLUMNS; gains in percentage points."""
    lines = []
    for key in a:
        if key in b and not math.isnan(a[key].comparison.delta) and not math.isnan(b[key].comparison.delta):
            line: dict[str, object] = {"step": a[key].label, "against": a[key].against}
            line["say"] = joint_verdict(a[key].comparison, b[key].comparison)
            for side, gains in (("a", a), ("b", b)):
                gain = gains[key].comparison
                line |= {f"{side}_delta": gain.delta, f"{side}_low": gain.low, f"{side}_high": gain.high}
                line[f"{side}_verdict"] = gain.verdict
            lines.append(line)
    return pd.DataFrame(lines, columns=COMPARISON_COLUMNS)


def joint_verdict(a: Comparison, b: Comparison) -> str:
    """Return what two comparisons say together. Only resolved comparisons can agree or contradict each other."""
    resolved = [comparison.verdict in (GAIN, LOSS) for comparison in (a, b)]
    if all(resolved):
        return "agree" if a.verdict == b.verdict else "contradict"
    same = "same sign" if a.delta * b.delta > 0 else "no difference" if a.delta * b.delta == 0 else "opposite signs"
    if any(resolved):
        return f"resolved in {'the first' if resolved[0] else 'the second'} only, {same}"
    return f"{'descriptive' if DESCRIPTIVE in (a.verdict, b.verdict) else 'resolved in neither'}, {same}"


def comparison_sentence(table: pd.DataFrame, a: str, b: str) -> str:
    """Return a summary of `compare_gains`; `a` and `b` are the names of the two sides."""
    same = int((table["a_delta"] * table["b_delta"] > 0).sum())
    both = int(table["say"].isin(["agree", "contradict"]).sum())
    text = f"{a} compared with {b}: {same} of {len(table)} gains have the same sign"
    if len(table) > 2:
        text += f", Kendall's tau is {stats.kendalltau(table['a_delta'], table['b_delta']).statistic:.2f}"
    if both:
        agree = int((table["say"] == "agree").sum())
        return f"{text}. Gains resolved in both: {both}, of which {agree} agree."
    return f"{text}. No gain is resolved in both."
