"""The report of a study: tables, picture and page, from what its runs left behind. Needs neither Hydra nor torch.

    python -m roadmap.report experiments/STUDY [--to reports/STUDY]
    python -m roadmap.report experiments/A experiments/B     # do their conclusions agree?

What the paper says stands in columns of its own.
"""

from __future__ import annotations

from pathlib import Path

from roadmap.analysis.shapley import shapley_values
from roadmap.analysis.table import read_study, write_csv
from roadmap.report.columns import readable_shapley, readable_table
from roadmap.report.formats import latex, markdown
from roadmap.report.wording import (
    SHAPLEY_NOTE,
    _all,
    agreement_sentences,
    comparison_sentences,
    failure_lines,
    notes,
    setting_sentences,
    shapley_sentences,
)


def write_report(folder: Path, to: Path) -> str:
    """Write the report of the study in `folder` to the folder `to`; the table and the paths, as text.

    Raises FileNotFoundError where the study has no records.
    """
    from roadmap.report import figures, page

    study = read_study(folder)
    worth = shapley_values(study)
    shown, bad = readable_table(study.table), failure_lines(study)
    said = [*shapley_sentences(study, worth), *notes(study), *setting_sentences(study), *agreement_sentences(study)]
    to.mkdir(parents=True, exist_ok=True)
    written = [to / f"roadmap.{kind}" for kind in ("csv", "md", "tex", "png", "svg")]
    written.append(to / "index.html")
    write_csv(study.table, written[0])
    texts = [markdown(shown, [*said, *bad, *comparison_sentences(study)])]
    title = f"{_all(study.records, 'data')} · base {_all(study.records, 'base')} · {study.name}"
    if len(worth):
        written.append(to / "attribution.csv")
        write_csv(worth, written[-1])
        shown_worth = readable_shapley(worth)
        texts.insert(0, markdown(shown_worth, [SHAPLEY_NOTE]))
        figures.draw_shapley(worth, title, written[3:5])
    else:
        figures.draw_study(study, title, written[3:5])
    written[1].write_text("\n".join(texts), encoding="utf-8")
    written[2].write_text(latex(shown, [*said, *bad]), encoding="utf-8")
    page.write_page(written[5], title, study, worth, said)
    paths = "\n".join(f"  {path}" for path in written)
    tables = ([shown_worth.to_string(index=False)] if len(worth) else []) + [shown.to_string(index=False)]
    text = "\n\n".join(tables) + "\n\n" + "\n".join([*said, *bad])
    return f"\n{text}\n\nreport:\n{paths}"
