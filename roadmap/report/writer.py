"""The report of a study: tables, figure and page, from the records of its runs. Imports neither Hydra nor torch.

The paper's numbers are in columns of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from roadmap.analysis.shapley import shapley_values
from roadmap.analysis.table import read_study, write_csv
from roadmap.config.schema import SpecError
from roadmap.records.manifest import command_line
from roadmap.report.columns import SHAPLEY, readable_table
from roadmap.report.examples import ThumbnailsOf
from roadmap.report.formats import latex, markdown
from roadmap.report.search import read_search, write_found, write_search
from roadmap.report.sections import StructureOf
from roadmap.report.terminal import render_table, terminal_width
from roadmap.report.wording import (
    agreement_sentences,
    comparison_sentences,
    failure_lines,
    joined_values,
    notes,
    setting_sentences,
    shapley_sentences,
)

HINT = "All columns: roadmap report {} --wide, or roadmap.csv."


def write_report(
    folder: Path,
    to: Path,
    structure_of: StructureOf | None = None,
    runs: Mapping[str, Sequence[str]] | None = None,
    width: int | None = None,
    roadmap: str | None = None,
    thumbnails_of: ThumbnailsOf | None = None,
) -> str:
    """Write the report of the study in `folder` to the folder `to`; return the tables, the notes and the paths as text.

    `structure_of` returns the structure of a network from the fields in a record's `config["network"]`, or None for a
    reference network; `roadmap.models.inspection.structure_of_config` does. The page draws the networks with it.
    Without it, the page has no diagrams. `thumbnails_of` returns pictures of images;
    `roadmap.evaluation.thumbnails.read_thumbnails` does. Without it, the page names the images by their positions. With
    `runs` and `roadmap` (see `read_study`) the report covers only these runs. `width` is the width of the returned
    tables, by default that of the terminal.

    Raises SpecError if the study has no records, and OSError with the path `to` if the report cannot be written; then
    the files of an earlier report are not changed.
    """
    from roadmap.report import figures, page

    study = read_study(folder, runs, roadmap)
    if runs is not None:  # the other commands of the study did not ask for these runs
        study = replace(study, manifest=replace(study.manifest, commands=[command_line()]))
    values = shapley_values(study)
    table, failures = readable_table(study.table), failure_lines(study)
    try:
        search, search_lines = read_search(study, folder)
    except SpecError as error:
        search, search_lines = None, list[str]()
        study = replace(study, problems=[*study.problems, str(error)])
    summary, *others = notes(study)
    shapley_lines = shapley_sentences(study, values)
    other_lines = [*others, *setting_sentences(study), *agreement_sentences(study)]
    lines = [summary, *search_lines, *shapley_lines, *other_lines]
    title = f"{joined_values(study.records, 'data')} · base {joined_values(study.records, 'base')} · {study.name}"
    tables = [table]
    last_lines = [*failures, *comparison_sentences(study)]
    markdown_parts = [markdown(table, [*lines, *last_lines])]
    if len(values):
        tables.insert(0, readable_table(values, SHAPLEY))
        markdown_parts = [markdown(tables[0], shapley_lines), markdown(table, [summary, *other_lines, *last_lines])]
    with replaced_together(to) as new:
        csv, md, tex, *images = (new / f"roadmap.{kind}" for kind in ("csv", "md", "tex", "png", "svg"))
        written = [csv, md, tex, *images, new / "index.html"]
        write_csv(study.table, csv)
        if len(values):
            written.append(new / "attribution.csv")
            write_csv(values, written[-1])
            figures.draw_shapley(values, study.roadmap, title, images)
        else:
            figures.draw_study(study, title, images)
        if search is not None:
            written += write_search(search, title, new)
        md.write_text("\n".join(markdown_parts), encoding="utf-8")
        tex.write_text(latex(table, [*lines, *failures]), encoding="utf-8")
        page.write_page(new / "index.html", title, study, values, lines, structure_of, thumbnails_of)
    files = [to / path.name for path in written] + ([write_found(search, to)] if search is not None else [])
    width, hint = width or terminal_width(), HINT.format(folder)
    shown = [render_table(table, width, hint) for table in tables]
    paths = "\n".join(f"  {path}" for path in files)
    return "\n" + "\n\n".join([*shown, "\n".join([*lines, *failures])]) + f"\n\nreport:\n{paths}"


@contextmanager
def replaced_together(to: Path) -> Iterator[Path]:
    """Yield an empty folder. At the end its files replace those in the folder `to`, unless an error was raised.

    Raises OSError with the path `to`.
    """
    try:
        to.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=to, prefix=".report-") as new:
            yield Path(new)
            for path in sorted(Path(new).iterdir()):
                path.replace(to / path.name)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(to)) from error
