"""The page of a study: one HTML file to read, with nothing to load. Needs neither Hydra nor torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from roadmap import anatomy, charts, record, report, road, sketch
from roadmap.anatomy import Anatomy, Layer
from roadmap.results import Records, Study
from roadmap.sketch import Chain, Sketch

Line = dict[str, Any]  # of the table: column -> value


def write(path: Path, title: str, study: Study, worth: pd.DataFrame, said: list[str]) -> None:
    """Write the page of `study` to `path`; `worth` are the Shapley values of an attribution, else empty.

    `said` is what a reader has to know, in sentences; the first says what was run.
    """
    table, records = study.table, study.records
    lines: list[Line] = table.to_dict("records")
    sections = [_section(i, lines, study) for i in range(len(lines))]
    columns = [column for column in COLUMNS if any(column.text(line) for line in lines)]
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
        road=charts.worth(worth, _worth_in_words(worth)) if len(worth) else charts.road(study, _road_in_words(lines)),
        caption=CAPTIONS.get("worth" if len(worth) else study.manifest.design, CAPTIONS["star"]),
        worth=[] if worth.empty else report.readable_worth(worth).to_dict("split"),
        columns=columns,
        lines=list(zip(sections, lines, strict=True)),
        statuses=sorted({line["status"] for line in lines}),
        sections=sections,
        trades=list(_trades(table, sections)),
        unfinished=[
            (section, run) for section in sections for run in section.runs if run["status"] != record.COMPLETED
        ],
        num_runs=len(records),
        commands=list(dict.fromkeys(content["command"] for content in records)),
        study=study.manifest.commands,
        made_with=_made_with(records),
        sketch_width=f"{sketch.WIDTH:g}",
        words_at=f"{sketch.WORDS:g}",
        number=number,
    )
    path.write_text(text, encoding="utf-8")


def number(form: str, value: Any) -> str:
    """The value as people read it, a true minus included; empty where there is none."""
    return "" if value is None or pd.isna(value) else form.format(value).replace("-", "−").replace("inf", "∞")


class Column(NamedTuple):
    key: str  # of the table; the page sorts by it
    title: str
    kind: str  # number or text
    show: Callable[[Any, Line], str]  # value, line -> text

    def text(self, line: Line) -> str:
        value = line.get(self.key)
        return "" if value is None or pd.isna(value) else self.show(value, line)

    def sorts(self, line: Line) -> str:
        value = line.get(self.key)
        return "" if value is None or pd.isna(value) else str(value).replace("inf", "Infinity")  # JavaScript's name


def _form(form: str, scale: float = 1.0) -> Callable[[Any, Line], str]:
    return lambda value, _line: value if isinstance(value, str) else number(form, value * scale)


def _spread(form: str, std: str) -> Callable[[Any, Line], str]:
    return lambda value, line: number(form, value) + number(" ± " + form, line.get(std))


def _interval(value: Any, line: Line) -> str:
    return f"{number('{:+.2f}', value)} to {number('{:+.2f}', line.get('delta_high'))}"


# Those that the table lacks, or that are empty in every line, are left out.
COLUMNS = (
    Column("top1_mean", "top-1 (%)", "number", _spread("{:.2f}", "top1_std")),
    Column("delta", "gain", "number", _form("{:+.2f}")),
    Column("delta_low", "95 % interval", "number", _interval),
    Column("p_holm", "p (Holm)", "number", _form("{:.3g}")),
    Column("verdict", "verdict", "text", _form("{}")),
    Column("gmacs", "GMACs", "number", _form("{:.3g}")),
    Column("params", "params (M)", "number", _form("{:.2f}", 1e-6)),
    Column("images_per_second", "images/s", "number", _form("{:,.0f}")),
    Column("n_seeds", "seeds", "number", _form("{:.0f}")),
    Column("seeds_needed", "seeds needed", "number", _form("{:,.0f}")),
    Column("status", "status", "text", lambda _value, line: report.status(line)),
    Column("peak_memory_mib", "memory (MiB)", "number", _form("{:,.0f}")),
    Column("wall_seconds", "seconds", "number", _form("{:,.1f}")),
    Column("top5_mean", "top-5 (%)", "number", _form("{:.2f}")),
    Column("loss_mean", "loss", "number", _form("{:.3f}")),
    Column("paper_top1", "paper top-1", "number", _form("{:.2f}")),
    Column("paper_gmacs", "paper GMACs", "number", _form("{:.2f}")),
    Column("against", "compared with", "text", _form("{}")),
)
COSTS = (
    ("params", "parameters (M)", "{:.3f}", 1e-6),
    ("gmacs", "GMACs per image", "{:.4g}", 1.0),
    ("images_per_second", "images/s in training", "{:,.0f}", 1.0),
    ("peak_memory_mib", "peak memory (MiB)", "{:,.0f}", 1.0),
    ("wall_seconds", "seconds per run", "{:,.1f}", 1.0),
)


class Part(NamedTuple):
    """A part of the network, as it was and as it is, or as it is alone."""

    title: str
    sketches: list[Sketch]


@dataclass(frozen=True)
class Section:
    """All that the page tells of one line."""

    number: int
    anchor: str
    label: str
    line: Line
    runs: Records
    before: int | None  # the line that it is compared with
    gain: str  # in words
    configs: list[tuple[str, str]]  # names and texts of the files that make the change
    changes: list[tuple[str, str, str]]  # field, before, after
    stages: list[tuple[str, list[str], list[str]]]  # what, per stage: before, after
    parts: list[Part]
    costs: list[tuple[str, str, str, str]]  # what, before, after, change
    curves: list[Markup]

    @property
    def short(self) -> str:
        """Its result in a few words."""
        gain, verdict = number("{:+.2f}", self.line["delta"]), self.line.get("verdict")
        words = [gain or number("{:.2f} %", self.line["top1_mean"])]
        words += [verdict] if gain and isinstance(verdict, str) else []
        words += [self.line["status"]] if self.line["status"] != record.COMPLETED else []
        return ", ".join(filter(None, words))


def _section(i: int, lines: list[Line], study: Study) -> Section:
    line, runs, before = lines[i], study.rows[i].records, study.against[i]
    first, other = runs[0], None if before is None else study.rows[before].records[0]
    here, there = (_anatomy(content) for content in (first, other))
    curved = [content for content in runs if content.get("curve")]
    comparison = study.comparisons[i]
    return Section(
        number=i,
        anchor=f"step-{i}-" + re.sub(r"[^a-z0-9]+", "-", str(line["step"]).lower()).strip("-"),
        label=report.marked(line),
        line=line,
        runs=runs,
        before=before,
        gain=report.sentence(comparison) if comparison is not None and comparison.n else "",
        configs=_configs(other, first),
        changes=[] if other is None else _changes(other, first),
        stages=_stages(there, here, first["config"]["data"]["image_size"]) if here else [],
        parts=list(_parts(there, here)) if here else [],
        costs=_costs({} if before is None else lines[before], line),
        curves=_curves(curved, i) if curved else [],
    )


def _anatomy(content: dict[str, Any] | None) -> Anatomy | None:
    """Of our own networks; a reference is another one altogether."""
    if content is None or content["config"]["network"]["reference"]:
        return None
    return anatomy.of(content["config"]["network"])


def _configs(before: dict[str, Any] | None, after: dict[str, Any]) -> list[tuple[str, str]]:
    """The files of the transforms in which the two rows differ; where there is but one, of its last."""
    new, old = ([info["name"] for info in content["transforms"]] if content else [] for content in (after, before))
    more, less = road.apart(new, old) if before else (new[-1:], [])
    found = []
    for what, name in [*(("", name) for name in more), *(("left out: ", name) for name in less)]:
        for path in (road.CONF / kind / f"{name}.yaml" for kind in ("transform", "ingredient")):
            if path.is_file():
                place = f"{what}conf/{path.parent.name}/{path.name}"
                found.append((place, path.read_text(encoding="utf-8").strip()))
    return found


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The fields of network and recipe, and of the recipe as the budget made it, that are not the same."""
    found = []
    for part in ("network", "recipe"):
        old, new = before["config"][part], after["config"][part]
        follows = after["config"]["network"] if part == "recipe" else {}  # network.drop_path follows recipe's
        for key in dict.fromkeys((*old, *new)):
            if old.get(key) != new.get(key) and key not in follows:
                found.append((f"{part}.{key}", _plain(old.get(key)), _plain(new.get(key))))
    old, new = before.get("plan") or {}, after.get("plan") or {}
    for key in ("epochs", "batch_size", "lr"):
        if key in old and key in new and old[key] != new[key]:
            found.append((f"as run: {key.replace('_', ' ')}", _plain(old[key]), _plain(new[key])))
    return found


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool | None):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _stages(before: Anatomy | None, after: Anatomy, image_size: int) -> list[tuple[str, list[str], list[str]]]:
    """Blocks, channels and map of each stage, where they are not the same."""

    def facts(body: Anatomy) -> dict[str, list[str]]:
        return {
            "blocks": [str(len(stage.blocks)) for stage in body.stages],
            "channels": [f"{stage.w_out:,}" for stage in body.stages],
            "map": [f"{side}×{side}" for side in body.sides(image_size)],
        }

    old, new = facts(before) if before else {}, facts(after)
    return [(what, old.get(what, []), new[what]) for what in new if old.get(what) != new[what]]


def _parts(before: Anatomy | None, after: Anatomy) -> Iterable[Part]:
    """The block always; stem, stage beginnings and head where they are not the same."""
    deepest = max(range(4), key=lambda i: len(after.stages[i].blocks))

    def block(body: Anatomy) -> Chain:
        return Chain([], body.stages[deepest].blocks[-1])

    def entry(body: Anatomy) -> Chain:
        return Chain(body.stages[1].downsample, body.stages[1].blocks[0])

    def link(body: Anatomy) -> list[Layer]:
        return body.stages[1].downsample + body.stages[1].blocks[0].shortcut

    same = before is not None and block(before) == block(after)
    title = f"Block (the last of stage {deepest + 1}{', as before' if same else ''})"
    yield Part(title, _drawn(None if same else before, after, block))
    if before is None or before.stem != after.stem:
        yield Part("Stem", _drawn(before, after, lambda body: Chain(body.stem)))
    if before is None or link(before) != link(after):
        yield Part("From stage 1 to stage 2", _drawn(before, after, entry))
    if before is None or before.head != after.head:
        yield Part("Head", _drawn(before, after, lambda body: Chain(body.head)))


def _drawn(before: Anatomy | None, after: Anatomy, chain: Callable[[Anatomy], Chain]) -> list[Sketch]:
    return sketch.draw(None if before is None else chain(before), chain(after))


def _costs(before: Line, after: Line) -> list[tuple[str, str, str, str]]:
    found = []
    for key, name, form, scale in COSTS:
        old, new = (
            None if line.get(key) is None or pd.isna(line[key]) else line[key] * scale for line in (before, after)
        )
        change = "" if not old or new is None else "same" if new == old else number("{:+.1f} %", 100 * (new / old - 1))
        found.append((name, number(form, old), number(form, new), change))
    return [row for row in found if row[1] or row[2]]


def _curves(group: Records, i: int) -> list[Markup]:
    def words(what: str, form: str) -> str:
        told = []
        for content in group:
            values = [point[what] for point in content["curve"] if point.get(what) is not None]
            way = (
                f"{form.format(values[0])} at first, {form.format(values[-1])} at last" if values else "never measured"
            )
            told.append(f"seed {content['seed']}: {way}")
        return "; ".join(told)

    images = charts.evaluated(group).capitalize()
    top1 = f"{images} top-1 over the epochs, in percent. {words('test_top1', '{:.1f}')}."
    loss = f"Loss over the epochs. {images}: {words('test_loss', '{:.2f}')}. Training: {words('train_loss', '{:.2f}')}."
    return [charts.accuracy_curves(group, f"top1-{i}", top1), charts.loss_curves(group, f"loss-{i}", loss)]


def _road_in_words(lines: list[Line]) -> str:
    words = (f"{line['label']} {number('{:.2f}', line['top1_mean']) or line['status']}" for line in lines)
    return f"Bars of top-1 accuracy in percent, a line of GMACs beside them: {'; '.join(words)}."


def _worth_in_words(worth: pd.DataFrame) -> str:
    words = (f"{line.label} {number('{:+.2f}', line.value)}" for line in worth.itertuples())
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
        front = charts.pareto(cost if better == "fewer" else -cost, top1)
        values = [number("{:,.4g}", cost[i]) for i in front]
        names = "; ".join(
            f"{sections[i].label}, {value}, {top1[i]:.2f} %" for i, value in zip(front, values, strict=True)
        )
        words = f"Top-1 against {label}, {better} is better, {len(points)} networks. On the Pareto front: {names}."
        plot = charts.against_cost(points, front, label, key.replace("_", "-"), words)
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
