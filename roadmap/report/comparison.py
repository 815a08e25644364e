"""The report that compares two studies."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from roadmap.analysis.comparison import compare_gains, comparison_sentence, study_gains
from roadmap.analysis.table import read_study, write_csv


def write_comparison(a: Path, b: Path, to: Path) -> str:
    """Write compare.csv, .md, .png and .svg to the folder `to`; the table and the paths, as text.

    Raises FileNotFoundError where a study has no records, or the two have no comparison in common.
    """
    from roadmap.report import figures
    from roadmap.report.columns import format_interval
    from roadmap.report.formats import markdown
    from roadmap.report.wording import study_summary

    studies = [read_study(a), read_study(b)]
    table = compare_gains(*map(study_gains, studies))
    if not len(table):
        raise FileNotFoundError(f"{a} and {b}: no step is compared with the same one in both")
    names = [f"{study.name} ({study_summary(study)})" for study in studies]
    shown = pd.DataFrame({"step": table["step"], "against": table["against"]})
    for side, name in zip("ab", ("first", "second"), strict=True):
        ends = zip(table[f"{side}_low"], table[f"{side}_high"], strict=True)
        shown[name] = [f"{value:+.2f}" for value in table[f"{side}_delta"]]
        shown[f"{name}: 95 %"] = [format_interval(*pair) for pair in ends]
        shown[f"{name}: verdict"] = table[f"{side}_verdict"]
    shown["together"] = table["say"]
    said = [
        f"First: {names[0]}. Second: {names[1]}. Gains in points of top-1.",
        comparison_sentence(table, "First", "second"),
    ]
    to.mkdir(parents=True, exist_ok=True)
    written = [to / f"compare.{kind}" for kind in ("csv", "md", "png", "svg")]
    write_csv(table, written[0])
    written[1].write_text(markdown(shown, said), encoding="utf-8")
    figures.draw_comparison(table, names, written[2:])
    paths = "\n".join(f"  {path}" for path in written)
    return f"\n{shown.to_string(index=False)}\n\n" + "\n".join(said) + f"\n\nreport:\n{paths}"
