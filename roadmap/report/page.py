"""The page of a study: one HTML file to read, with nothing to load. Needs neither Hydra nor torch."""

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
from roadmap.report.columns import readable_shapley
from roadmap.report.page_columns import PAGE_COLUMNS, Line, format_number
from roadmap.report.sections import Section, make_section


def write_page(path: Path, title: str, study: Study, worth: pd.DataFrame, said: list[str]) -> None:
    """Write the page of `study` to `path`; `worth` are the Shapley values of an attribution, else empty.

    `said` is what a reader has to know, in sentences; the first says what was run.
    """
    table, records = study.table, study.records
    lines: list[Line] = table.to_dict("records")
    sections = [make_section(i, lines, study) for i in range(len(lines))]
    columns = [column for column in PAGE_COLUMNS if any(column.text(line) for line in lines)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.j2").render(
        title=title,
        said=said,
        road=page_plots.shapley_figure(worth, _worth_in_words(worth))
        if len(worth)
        else page_plots.study_figure(study, _road_in_words(lines)),
        caption=CAPTIONS.get("worth" if len(worth) else study.manifest.design, CAPTIONS["star"]),
        worth=[] if worth.empty else readable_shapley(worth).to_dict("split"),
        columns=columns,
        lines=list(zip(sections, lines, strict=True)),
        statuses=sorted({line["status"] for line in lines}),
        sections=sections,
        trades=list(_trades(table, sections)),
        unfinished=[(section, run) for section in sections for run in section.runs if run["status"] != COMPLETED],
        num_runs=len(records),
        commands=list(dict.fromkeys(content["command"] for content in records)),
        study=study.manifest.commands,
        made_with=_made_with(records),
        sketch_width=f"{diagrams.WIDTH:g}",
        words_at=f"{diagrams.WORDS:g}",
        number=format_number,
    )
    path.write_text(text, encoding="utf-8")


def _road_in_words(lines: list[Line]) -> str:
    words = (f"{line['label']} {format_number('{:.2f}', line['top1_mean']) or line['status']}" for line in lines)
    return f"Bars of top-1 accuracy in percent, a line of GMACs beside them: {'; '.join(words)}."


def _worth_in_words(worth: pd.DataFrame) -> str:
    words = (f"{line.label} {format_number('{:+.2f}', line.value)}" for line in worth.itertuples())
    return f"Bars of what each step is worth in points of top-1, whatever the order: {'; '.join(words)}."


CAPTIONS = {
    "grid": "From top to bottom, each bar is a network with one change more than the one that it builds on. The numbers"
    " are in the table below.",
    "star": "Each bar is a network with, or without, the change that it is named by. The numbers are in the table"
    " below.",
    "worth": "Each bar is the mean gain of a change over the sampled orders of all changes.",
}


class Trade(NamedTuple):
    """Accuracy against one cost."""

    title: str
    plot: Markup
    points: list[tuple[Section, str]]  # those on the front, each with its cost


def _trades(table: pd.DataFrame, sections: list[Section]) -> Iterable[Trade]:
    small = table["gmacs"].max() < 1
    kinds = (
        ("gmacs", "MMACs per image" if small else "GMACs per image", 1e3 if small else 1.0, "fewer"),
        ("params", "parameters (M)", 1e-6, "fewer"),
        ("images_per_second", "images/s in training", 1.0, "more"),
    )
    for key, label, scale, better in kinds:
        cost, top1 = table[key].astype(float) * scale, table["top1_mean"]
        points = pd.DataFrame({"cost": cost, "top1": top1}).dropna()
        if points.empty:
            continue
        front = page_plots.pareto(cost if better == "fewer" else -cost, top1)
        values = [format_number("{:,.4g}", cost[i]) for i in front]
        names = "; ".join(
            f"{sections[i].label}, {value}, {top1[i]:.2f} %" for i, value in zip(front, values, strict=True)
        )
        words = f"Top-1 against {label}, {better} is better, {len(points)} networks. On the Pareto front: {names}."
        plot = page_plots.against_cost(points, front, label, key.replace("_", "-"), words)
        yield Trade(label, plot, [(sections[i], value) for i, value in zip(front, values, strict=True)])


def _made_with(records: Records) -> list[tuple[str, str]]:
    """Commit, versions and machines, each value once, with its number of runs where there are several."""
    facts: dict[str, Counter[str]] = {"git commit": Counter(_commit(content) for content in records)}
    for content in records:
        host, device = content["host"], content.get("device") or {}
        told = {"machine": f"{host['cpu']}, {host['cores']} cores, {host['platform']}"}
        told |= {"device": _device(device)} if device else {}
        for name, value in (told | content["versions"]).items():
            facts.setdefault(name, Counter())[value] += 1
    return [(name, _each_once(values)) for name, values in facts.items()]


def _each_once(values: Counter[str]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({count} runs)" for value, count in sorted(values.items()))


def _commit(content: dict[str, Any]) -> str:
    git = content["git"]
    return "not from a checkout" if not git["commit"] else git["commit"] + (", changed since" if git["dirty"] else "")


def _device(device: dict[str, Any]) -> str:
    more = [f"{key}: {device[key]}" for key in ("threads", "processes") if device.get(key) is not None]
    return ", ".join([str(device["name"]), str(device["precision"]), *more])
