"""The report that compares two studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from roadmap.analysis.comparison import compare_gains, comparison_sentence, study_gains
from roadmap.analysis.table import Study, read_study, write_csv
from roadmap.config.schema import SpecError
from roadmap.report.columns import format_interval
from roadmap.report.formats import markdown
from roadmap.report.search import WITHOUT, found_network, read_search, search_gains
from roadmap.report.terminal import render_table, terminal_width
from roadmap.report.wording import study_summary
from roadmap.report.writer import replaced_together

SIDES = ("First", "Second")
# Columns that do not fit the terminal are left out in this order. The first column is never left out.
DROP_ORDER = (
    *("second: 95 % interval", "first: 95 % interval", "compared with", "second: verdict", "first: verdict"),
    *("both", "second: gain", "first: gain"),
)


def write_comparison(a: Path, b: Path, to: Path, width: int | None = None) -> str:
    """Write compare.csv, .md, .png and .svg to the folder `to`; return the table and the paths as text.

    `width` is that of the returned table, by default that of the terminal. Raises SpecError if a study has no records,
    if the result of a search is damaged, or if the two studies have no comparison in common, and OSError like
    `write_report`.
    """
    from roadmap.report import figures

    studies = [read_study(a), read_study(b)]
    table, notes = compared_gains(studies, [a, b])
    if not len(table):
        raise SpecError(f"{a} and {b}: the studies have no comparison of the same two networks in common")
    names = [f"{study.name} ({study_summary(study)})" for study in studies]
    shown = readable_comparison(table, ("first", "second"))
    lines = [
        f"First study: {names[0]}. Second study: {names[1]}. Gains are in points of top-1.",
        *notes,
        *(f"{side} study: {line}" for side, study in zip(SIDES, studies, strict=True) for line in study.problems),
    ]
    text_headers = {"step", "compared with", "first: verdict", "second: verdict", "both"}
    with replaced_together(to) as new:
        written = [new / f"compare.{kind}" for kind in ("csv", "md", "png", "svg")]
        write_csv(table, written[0])
        written[1].write_text(markdown(shown, lines, text_headers), encoding="utf-8")
        figures.draw_comparison(table, names, written[2:])
    paths = "\n".join(f"  {to / path.name}" for path in written)
    hint = f"All columns: roadmap report {a} {b} --wide, or compare.csv."
    terminal_table = render_table(shown, width or terminal_width(), hint, text_headers, DROP_ORDER)
    return f"\n{terminal_table}\n\n" + "\n".join(lines) + f"\n\nreport:\n{paths}"


def compared_gains(studies: Sequence[Study], folders: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Return the gains that two studies have in common (COMPARISON_COLUMNS), and what they say together.

    Two searches have the gains of `search_gains` in common. Raises SpecError for a damaged result of a search.
    """
    results = [read_search(study, folder)[0] for study, folder in zip(studies, folders, strict=True)]
    searches = [result for result in results if result is not None]
    if len(searches) < len(studies):
        table = compare_gains(*map(study_gains, studies))
        return table, [comparison_sentence(table, "First study", "second study")]
    gains = [search_gains(study, result) for study, result in zip(studies, searches, strict=True)]
    table = compare_gains(*gains)
    of_transforms = table[table["against"] == WITHOUT]
    notes = [
        f"The {side.lower()} study found {found_network(result)}." for side, result in zip(SIDES, searches, strict=True)
    ]
    if len(of_transforms):
        notes.insert(0, comparison_sentence(of_transforms, "Transforms in the first search", "the second"))
    compared = frozenset[str]().union(*(key[0] for key in gains[0].keys() & gains[1].keys()))
    labels = {
        name: study.roadmap.transforms[name].label
        for study, result in zip(studies, searches, strict=True)
        for name in result["changes"]
    }
    if missing := ", ".join(label for name, label in labels.items() if name not in compared):
        notes.append(f"Not compared in at least one search, or only together with other transforms: {missing}.")
    return table, notes


def readable_comparison(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the table of `compared_gains` as text, with a name for each study in the headers."""
    shown = pd.DataFrame({"step": table["step"], "compared with": table["against"]})
    for side, name in zip("ab", names, strict=True):
        intervals = zip(table[f"{side}_low"], table[f"{side}_high"], strict=True)
        shown[f"{name}: gain"] = [f"{delta:+.2f}" for delta in table[f"{side}_delta"]]
        shown[f"{name}: 95 % interval"] = [format_interval(*interval) for interval in intervals]
        shown[f"{name}: verdict"] = table[f"{side}_verdict"]
    return shown.assign(both=table["say"])
