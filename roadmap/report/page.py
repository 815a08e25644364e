"""The page of a study: one HTML file that loads nothing else. Imports neither Hydra nor torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from roadmap.analysis.table import Records, Study
from roadmap.records.record import COMPLETED
from roadmap.report import diagrams, page_plots
from roadmap.report.columns import COLUMNS, RUNS, SHAPLEY, Column, Line, lines_of, used_columns
from roadmap.report.examples import ThumbnailsOf
from roadmap.report.pairs import make_pairs
from roadmap.report.sections import Section, StructureOf, make_sections, page_number, page_text, read_structures

ROADMAP_CAPTION = (
    "Each bar is one network. It has one change more than the network that it builds on. The numbers are in the table"
    " below."
)
DESIGN_CAPTION = "Each bar is one network, with or without the change in its name. The numbers are in the table below."
SHAPLEY_CAPTION = "Each bar is the mean gain of one change over the sampled orders of all changes."


def write_page(
    path: Path,
    title: str,
    study: Study,
    shapley: pd.DataFrame,
    notes: list[str],
    structure_of: StructureOf | None = None,
    thumbnails_of: ThumbnailsOf | None = None,
) -> None:
    """Write the page of `study` to `path`.

    `shapley` has the Shapley values of an attribution study, and is empty for other studies. The first note says what
    was run. `structure_of` and `thumbnails_of`: see `roadmap.report.writer.write_report`.
    """
    lines, shapley_lines = lines_of(study.table), lines_of(shapley)
    structures = read_structures(study, structure_of)
    sections = make_sections(study, lines, structures)
    labels = [section.label for section in sections]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.j2").render(
        title=title,
        notes=notes,
        figure=page_plots.shapley_figure(shapley, study.roadmap, _describe_shapley(shapley_lines))
        if shapley_lines
        else page_plots.study_figure(study, _describe_figure(lines)),
        caption=_caption(study, shapley_lines),
        columns=used_columns(COLUMNS, lines),
        shapley_columns=used_columns(SHAPLEY, shapley_lines),
        shapley_lines=shapley_lines,
        run_columns=RUNS,
        statuses=sorted({line["status"] for line in lines}),
        sections=sections,
        has_diagrams=structure_of is not None,
        pairs=make_pairs(study, lines, labels, structures, thumbnails_of, page_text),
        cost_plots=list(_cost_plots(study.table, sections)),
        not_completed=[(section, run) for section in sections for run in section.runs if run["status"] != COMPLETED],
        num_runs=len(study.records),
        run_commands=list(dict.fromkeys(record["command"] for record in study.records)),
        study_commands=study.manifest.commands,
        environment=_environment(study.records),
        diagram_width=f"{diagrams.WIDTH:g}",
        text_x=f"{diagrams.TEXT_X:g}",
        cell=page_text,
        sort_value=_sort_value,
        number=page_number,
    )
    path.write_text(text, encoding="utf-8")


def _caption(study: Study, shapley_lines: list[Line]) -> str:
    if shapley_lines:
        return SHAPLEY_CAPTION
    return ROADMAP_CAPTION if study.manifest.is_path else DESIGN_CAPTION


def _sort_value(column: Column, line: Line) -> str:
    """Return the value by which the page's script sorts; empty if there is none."""
    value = column.value(line)
    return "" if value is None else str(value).replace("inf", "Infinity")  # the number's name in JavaScript


def _describe_figure(lines: list[Line]) -> str:
    values = (line["status"] if pd.isna(line["top1_mean"]) else f"{line['top1_mean']:.2f}" for line in lines)
    texts = (f"{line['label']} {value}" for line, value in zip(lines, values, strict=True))
    return f"Bar chart of top-1 accuracy in percent, with GMACs beside it: {'; '.join(texts)}."


def _describe_shapley(lines: list[Line]) -> str:
    texts = (f"{line['label']} {page_number('{:+.2f}', line['value'])}" for line in lines)
    return f"Bar chart of the Shapley value of each step in points of top-1: {'; '.join(texts)}."


class CostPlot(NamedTuple):
    """Accuracy against one cost."""

    title: str
    plot: Markup
    front: list[tuple[Section, str]]  # rows on the Pareto front, each with its cost


def _cost_plots(table: pd.DataFrame, sections: list[Section]) -> Iterable[CostPlot]:
    is_small = table["gmacs"].max() < 1
    costs = (
        ("gmacs", "MMACs per image" if is_small else "GMACs per image", 1e3 if is_small else 1.0, "less"),
        ("params", "params (M)", 1e-6, "less"),
        ("images_per_second", "images/s in training", 1.0, "more"),
    )
    for key, label, scale, better in costs:
        cost, top1 = table[key].astype(float) * scale, table["top1_mean"]
        points = pd.DataFrame({"cost": cost, "top1": top1}).dropna()
        if points.empty:
            continue
        front = page_plots.pareto_front(cost if better == "less" else -cost, top1)
        texts = {i: page_number("{:,.4g}", cost[i]) for i in front}
        names = "; ".join(f"{sections[i].label}, {text}, {top1[i]:.2f} %" for i, text in texts.items())
        description = f"Top-1 against {label}; {better} is better; {len(points)} networks. Pareto front: {names}."
        plot = page_plots.cost_plot(points, front, label, key.replace("_", "-"), description)
        yield CostPlot(label, plot, [(sections[i], text) for i, text in texts.items()])


def _environment(records: Records) -> list[tuple[str, str]]:
    """Return commit, machine, device and versions: each value once, with its number of runs if there are several."""
    facts: dict[str, Counter[str]] = {"git commit": Counter(_describe_commit(record["git"]) for record in records)}
    for record in records:
        host, device = record["host"], record.get("device") or {}
        values = {"machine": f"{host['cpu']}, {host['cores']} cores, {host['platform']}"}
        values |= {"device": _describe_device(device)} if device else {}
        for name, value in (values | record["versions"]).items():
            facts.setdefault(name, Counter())[value] += 1
    return [(name, _join_counts(values)) for name, values in facts.items()]


def _join_counts(values: Counter[str]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({count} runs)" for value, count in sorted(values.items()))


def _describe_commit(git: dict[str, Any]) -> str:
    if not git["commit"]:
        return "no git checkout"
    return str(git["commit"]) + (" with uncommitted changes" if git["dirty"] else "")


def _describe_device(device: dict[str, Any]) -> str:
    counts = [f"{key}: {device[key]}" for key in ("threads", "processes") if device.get(key) is not None]
    return ", ".join([str(device["name"]), str(device["precision"]), *counts])
