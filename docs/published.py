"""The tables of published studies as Markdown, for `docs/fill.py`: from records, nothing is trained."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import mean

import pandas as pd

from roadmap.analysis.shapley import shapley_values
from roadmap.analysis.statistics import GAIN, LOSS
from roadmap.analysis.table import Study, read_study
from roadmap.report.columns import SHAPLEY, format_value, readable_table
from roadmap.report.explanations import explanations_table
from roadmap.report.formats import markdown
from roadmap.report.search import read_search
from roadmap.report.wording import agreement_sentences, failure_lines, unchanged_lines

EXPLANATIONS = Path(__file__).parent.parent / "experiments/why.yaml"
_FORMS = {"change": "{:+.2f}"}


def results(folder: Path, names: str) -> list[str]:
    """Return the table and the notes of published studies as paragraphs.

    `names` is a study, two studies of parts joined by a plus, a benchmark NAME whose table is in NAME.md, `why` for the
    table of explanations, `STUDY:summary` for the most important rows of a roadmap, or `STUDY:top1` for the top-1 of
    each step at each setting.
    """
    name, _, form = names.partition(":")
    if (folder / f"{name}.md").is_file():
        return [(folder / f"{name}.md").read_text(encoding="utf-8").strip()]
    if name == "why":
        held_out, test = (read_study(folder / study) for study in ("why_held_out", "why"))
        return [explanations_table(EXPLANATIONS, [held_out], [test]), *failure_lines(held_out), *failure_lines(test)]
    studies = [read_study(folder / study) for study in name.split("+")]
    notes = [line for study in studies for line in (*unchanged_lines(study), *failure_lines(study))]
    first = studies[0]
    if form == "summary":
        return [table_of_steps(first, summary(first), with_other=True)]
    if form == "top1":
        return [table_of_top1(first), *notes]
    values = shapley_values(first)
    if len(values):
        return [markdown(readable_table(values, SHAPLEY), []).strip(), *notes]
    result, sentences = read_search(first, folder / name)
    if result is not None:
        return [table_of_steps(first, first.table), *sentences, *notes]
    if first.manifest.design != "grid":
        return [table_of_parts(pd.concat([study.table for study in studies], ignore_index=True)), *notes]
    if len({row.setting for row in first.rows}) > 1:
        return [table_of_settings(first), *notes]
    return [table_of_steps(first, first.table), *agreement_sentences(first), loss_and_accuracy(first), *notes]


def summary(study: Study) -> pd.DataFrame:
    """Return the rows that are resolved, the first row, and the two ends that designs compare."""
    file = study.roadmap.file
    ends = {next(iter(file.steps)), file.start, file.full}
    return study.table[study.table["verdict"].isin((GAIN, LOSS)) | study.table["step"].isin(ends)]


def table_of_steps(study: Study, table: pd.DataFrame, with_other: bool = False) -> str:
    """Return rows of the study's table as Markdown, with multiply-adds and, if known, the gains in the paper."""
    wanted = ("step", "top-1 (%)", "gain", "95 % interval", "p (Holm)", "verdict")  # no p in a descriptive study
    shown = readable_table(table).filter(wanted)
    printed = study.table.set_index("label")["paper_top1"]
    paper_gains = table["paper_top1"] - table["against"].map(printed)
    if paper_gains.notna().any():
        shown["gain in the paper"] = [format_value("{:+.2f}", gain) for gain in paper_gains]
    shown["MMACs"] = [f"{1000 * gmacs:.2f}" for gmacs in table["gmacs"]]
    if with_other:  # the row above is not always the one
        shown.insert(2, "compared with", table["against"].tolist())
    return markdown(shown, []).strip()


def table_of_settings(study: Study) -> str:
    """Return the gains of a roadmap at several settings as Markdown, one line for each step."""
    shown = readable_table(study.table)
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for row, other, line in zip(study.rows, study.against, shown.to_dict("records"), strict=True):
        step, column = row.label.removesuffix(row.setting).strip(), row.setting or "as in the study"
        if other is None:
            cells[f"{step}: top-1 (%)"][column] = line["top-1 (%)"]
        else:
            cells[step][column] = f"{line['gain']} ({line['95 % interval']})"
    table = pd.DataFrame.from_dict(cells, orient="index").rename_axis("step").reset_index().fillna("")
    return markdown(table, []).strip()


def table_of_top1(study: Study) -> str:
    """Return the mean top-1 of each step at each setting as Markdown, with the change if there are two settings."""
    cells: dict[str, dict[str, float]] = defaultdict(dict)
    for row in study.rows:
        cells[row.label.removesuffix(row.setting).strip()][row.setting.removeprefix("budget.")] = mean(
            row.top1 or [math.nan]
        )
    table = pd.DataFrame.from_dict(cells, orient="index")
    if table.shape[1] == 2:
        table["change"] = table.iloc[:, 1] - table.iloc[:, 0]
    shown = pd.DataFrame(
        {name: table[name].map(partial(format_value, _FORMS.get(str(name), "{:.2f}"))) for name in table.columns}
    )
    return markdown(shown.rename_axis("step").reset_index(), []).strip()


def table_of_parts(table: pd.DataFrame) -> str:
    """Return the rows of studies that add parts and leave them out as Markdown, one line for each part."""
    cells: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for row in readable_table(table).to_dict("records"):
        change, part = row["step"].split(" ", 1)  # as "with AdamW", "without AdamW", "nothing added"
        if change == "nothing":
            cells["nothing: top-1 (%)"][part] = row["top-1 (%)"], ""
        else:
            cells[part]["added" if change == "with" else "left out"] = row["gain"], row["95 % interval"]
    lines = [(part, *sides.get("added", ("", "")), *sides.get("left out", ("", ""))) for part, sides in cells.items()]
    columns = ["step", "added", "95 % interval", "left out", "95 % interval"]
    return markdown(pd.DataFrame(lines, columns=columns), []).strip()


def loss_and_accuracy(study: Study) -> str:
    """Return how often, of two networks, the one with the lower training loss is the more accurate one."""
    points = []
    for row in study.rows:
        if "training_recipe" in row.transforms and row.completed:  # losses of different recipes cannot be compared
            loss = mean(record["curve"][-1]["train_loss"] for record in row.completed)
            points.append((loss, mean(row.top1)))
    pairs = list(combinations(sorted(points), 2))
    agreeing = sum(first[1] > second[1] for first, second in pairs)
    return (
        f"Of two networks with the enhanced recipe, the one with the lower training loss in the last epoch is the more"
        f" accurate one in {agreeing} of {len(pairs)} pairs."
    )
