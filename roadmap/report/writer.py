"""The report of a study: tables, figure and page, from the records of its runs. Imports neither Hydra nor torch.

The paper's numbers are in columns of their own.
"""

from __future__ import annotations

from pathlib import Path

from roadmap.analysis.shapley import shapley_values
from roadmap.analysis.table import read_study, write_csv
from roadmap.report.columns import SHAPLEY, readable_table
from roadmap.report.formats import latex, markdown
from roadmap.report.sections import StructureOf
from roadmap.report.wording import (
    SHAPLEY_NOTE,
    agreement_sentences,
    comparison_sentences,
    failure_lines,
    joined_values,
    notes,
    setting_sentences,
    shapley_sentences,
)


def write_report(folder: Path, to: Path, structure_of: StructureOf | None = None) -> str:
    """Write the report of the study in `folder` to the folder `to`; return the tables, the notes and the paths as text.

    `structure_of` returns the structure of a network from the fields in a record's `config["network"]`, or None for a
    reference network; `roadmap.models.inspection.structure_of_config` does. The page draws the networks with it.
    Without it, the page has no diagrams.

    Raises SpecError if the study has no records.
    """
    from roadmap.report import figures, page

    study = read_study(folder)
    values = shapley_values(study)
    table, failures = readable_table(study.table), failure_lines(study)
    summary, *others = notes(study)
    lines = [
        summary,
        *shapley_sentences(study, values),
        *others,
        *setting_sentences(study),
        *agreement_sentences(study),
    ]
    title = f"{joined_values(study.records, 'data')} · base {joined_values(study.records, 'base')} · {study.name}"
    to.mkdir(parents=True, exist_ok=True)
    csv, md, tex, *images = (to / f"roadmap.{kind}" for kind in ("csv", "md", "tex", "png", "svg"))
    written = [csv, md, tex, *images, to / "index.html"]
    write_csv(study.table, csv)
    tables = [table]
    markdown_parts = [markdown(table, [*lines, *failures, *comparison_sentences(study)])]
    if len(values):
        written.append(to / "attribution.csv")
        write_csv(values, written[-1])
        tables.insert(0, readable_table(values, SHAPLEY))
        markdown_parts.insert(0, markdown(tables[0], [SHAPLEY_NOTE]))
        figures.draw_shapley(values, title, images)
    else:
        figures.draw_study(study, title, images)
    md.write_text("\n".join(markdown_parts), encoding="utf-8")
    tex.write_text(latex(table, [*lines, *failures]), encoding="utf-8")
    page.write_page(to / "index.html", title, study, values, lines, structure_of)
    parts = [*(shown.to_string(index=False) for shown in tables), "\n".join([*lines, *failures])]
    paths = "\n".join(f"  {path}" for path in written)
    return "\n" + "\n\n".join(parts) + f"\n\nreport:\n{paths}"
