"""Two studies side by side, as of two datasets or two budgets: do their conclusions agree, step by step?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from scipy import stats

from roadmap.results import Study, read_study, write_csv
from roadmap.statistics import DESCRIPTIVE, GAIN, LOSS, Comparison

COLUMNS = [
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


def gains(study: Study, setting: str | None = None) -> dict[Key, Gain]:
    """What each row of the study gained over the row that it is compared with; of one setting, told apart by it no
    more."""
    found = {}
    for row, other, comparison in zip(study.rows, study.against, study.comparisons, strict=True):
        if comparison is not None and other is not None and setting in (None, row.setting):
            before = study.rows[other]
            key = frozenset(row.transforms), frozenset(before.transforms), row.setting if setting is None else ""
            found[key] = Gain(row.label, before.label, comparison)
    return found


def beside(a: Mapping[Key, Gain], b: Mapping[Key, Gain]) -> pd.DataFrame:
    """One line for each comparison that both have; the columns are COLUMNS, gains in percent."""
    lines = []
    for name in a:
        if name in b and not math.isnan(a[name].found.delta) and not math.isnan(b[name].found.delta):
            line: dict[str, object] = {
                "step": a[name].label,
                "against": a[name].against,
                "say": verdict(a[name].found, b[name].found),
            }
            for side, found in (("a", a[name].found), ("b", b[name].found)):
                line |= {f"{side}_delta": found.delta, f"{side}_low": found.low, f"{side}_high": found.high}
                line[f"{side}_verdict"] = found.verdict
            lines.append(line)
    return pd.DataFrame(lines, columns=COLUMNS)


def verdict(a: Comparison, b: Comparison) -> str:
    """What two comparisons say together; only resolved ones can agree or contradict each other."""
    resolved = [found.verdict in (GAIN, LOSS) for found in (a, b)]
    if all(resolved):
        return "agree" if a.verdict == b.verdict else "contradict"
    same = "same sign" if a.delta * b.delta > 0 else "no difference" if a.delta * b.delta == 0 else "opposite signs"
    if any(resolved):
        return f"resolved in {'the first' if resolved[0] else 'the second'} only, {same}"
    return f"{'descriptive' if DESCRIPTIVE in (a.verdict, b.verdict) else 'resolved in neither'}, {same}"


def in_words(table: pd.DataFrame, a: str, b: str) -> str:
    same = int((table["a_delta"] * table["b_delta"] > 0).sum())
    both = int(table["say"].isin(["agree", "contradict"]).sum())
    text = f"{a} and {b}: {same} of {len(table)} gains have the same sign"
    if len(table) > 2:
        text += f", Kendall's tau {stats.kendalltau(table['a_delta'], table['b_delta']).statistic:.2f}"
    if both:
        return f"{text}; of {both} that both resolve, {int((table['say'] == 'agree').sum())} agree."
    return f"{text}; none is resolved in both."


def write(a: Path, b: Path, to: Path) -> str:
    """Write compare.csv, .md, .png and .svg to the folder `to`; the table and the paths, as text.

    Raises FileNotFoundError where a study has no records, or the two have no comparison in common.
    """
    from roadmap import picture, report

    studies = [read_study(a), read_study(b)]
    table = beside(*map(gains, studies))
    if not len(table):
        raise FileNotFoundError(f"{a} and {b}: no step is compared with the same one in both")
    names = [f"{study.name} ({report.what(study)})" for study in studies]
    shown = pd.DataFrame({"step": table["step"], "against": table["against"]})
    for side, name in zip("ab", ("first", "second"), strict=True):
        ends = zip(table[f"{side}_low"], table[f"{side}_high"], strict=True)
        shown[name] = [f"{value:+.2f}" for value in table[f"{side}_delta"]]
        shown[f"{name}: 95 %"] = [report.interval(*pair) for pair in ends]
        shown[f"{name}: verdict"] = table[f"{side}_verdict"]
    shown["together"] = table["say"]
    said = [f"First: {names[0]}. Second: {names[1]}. Gains in points of top-1.", in_words(table, "First", "second")]
    to.mkdir(parents=True, exist_ok=True)
    written = [to / f"compare.{kind}" for kind in ("csv", "md", "png", "svg")]
    write_csv(table, written[0])
    written[1].write_text(report.markdown(shown, said), encoding="utf-8")
    picture.draw_beside(table, names, written[2:])
    paths = "\n".join(f"  {path}" for path in written)
    return f"\n{shown.to_string(index=False)}\n\n" + "\n".join(said) + f"\n\nreport:\n{paths}"
