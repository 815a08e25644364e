"""The section of the page for one row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup

from roadmap.analysis.table import Records, Study
from roadmap.config.paths import CONF
from roadmap.config.steps import differing_transforms
from roadmap.models.structure import Layer, Structure, structure_of
from roadmap.records.record import COMPLETED
from roadmap.report import diagrams, page_plots
from roadmap.report.columns import marked_label
from roadmap.report.diagrams import Diagram, LayerChain
from roadmap.report.page_columns import COSTS, Line, format_number
from roadmap.report.wording import verdict_sentence


class Part(NamedTuple):
    """A part of the network, as it was and as it is, or as it is alone."""

    title: str
    sketches: list[Diagram]


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
        gain, verdict = format_number("{:+.2f}", self.line["delta"]), self.line.get("verdict")
        words = [gain or format_number("{:.2f} %", self.line["top1_mean"])]
        words += [verdict] if gain and isinstance(verdict, str) else []
        words += [self.line["status"]] if self.line["status"] != COMPLETED else []
        return ", ".join(filter(None, words))


def make_section(i: int, lines: list[Line], study: Study) -> Section:
    line, runs, before = lines[i], study.rows[i].records, study.against[i]
    first, other = runs[0], None if before is None else study.rows[before].records[0]
    here, there = (_anatomy(content) for content in (first, other))
    curved = [content for content in runs if content.get("curve")]
    comparison = study.comparisons[i]
    return Section(
        number=i,
        anchor=f"step-{i}-" + re.sub(r"[^a-z0-9]+", "-", str(line["step"]).lower()).strip("-"),
        label=marked_label(line),
        line=line,
        runs=runs,
        before=before,
        gain=verdict_sentence(comparison) if comparison is not None and comparison.n else "",
        configs=_configs(other, first),
        changes=[] if other is None else _changes(other, first),
        stages=_stages(there, here, first["config"]["data"]["image_size"]) if here else [],
        parts=list(_parts(there, here)) if here else [],
        costs=_costs({} if before is None else lines[before], line),
        curves=_curves(curved, i) if curved else [],
    )


def _anatomy(content: dict[str, Any] | None) -> Structure | None:
    """Of our own networks; a reference is another one altogether."""
    if content is None or content["config"]["network"]["reference"]:
        return None
    return structure_of(content["config"]["network"])


def _configs(before: dict[str, Any] | None, after: dict[str, Any]) -> list[tuple[str, str]]:
    """The files of the transforms in which the two rows differ; where there is but one, of its last."""
    new, old = ([info["name"] for info in content["transforms"]] if content else [] for content in (after, before))
    more, less = differing_transforms(new, old) if before else (new[-1:], [])
    found = []
    for what, name in [*(("", name) for name in more), *(("left out: ", name) for name in less)]:
        for path in (CONF / kind / f"{name}.yaml" for kind in ("transform", "ingredient")):
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


def _stages(before: Structure | None, after: Structure, image_size: int) -> list[tuple[str, list[str], list[str]]]:
    """Blocks, channels and map of each stage, where they are not the same."""

    def facts(body: Structure) -> dict[str, list[str]]:
        return {
            "blocks": [str(len(stage.blocks)) for stage in body.stages],
            "channels": [f"{stage.w_out:,}" for stage in body.stages],
            "map": [f"{side}×{side}" for side in body.sides(image_size)],
        }

    old, new = facts(before) if before else {}, facts(after)
    return [(what, old.get(what, []), new[what]) for what in new if old.get(what) != new[what]]


def _parts(before: Structure | None, after: Structure) -> Iterable[Part]:
    """The block always; stem, stage beginnings and head where they are not the same."""
    deepest = max(range(4), key=lambda i: len(after.stages[i].blocks))

    def block(body: Structure) -> LayerChain:
        return LayerChain([], body.stages[deepest].blocks[-1])

    def entry(body: Structure) -> LayerChain:
        return LayerChain(body.stages[1].downsample, body.stages[1].blocks[0])

    def link(body: Structure) -> list[Layer]:
        return body.stages[1].downsample + body.stages[1].blocks[0].shortcut

    same = before is not None and block(before) == block(after)
    title = f"Block (the last of stage {deepest + 1}{', as before' if same else ''})"
    yield Part(title, _drawn(None if same else before, after, block))
    if before is None or before.stem != after.stem:
        yield Part("Stem", _drawn(before, after, lambda body: LayerChain(body.stem)))
    if before is None or link(before) != link(after):
        yield Part("From stage 1 to stage 2", _drawn(before, after, entry))
    if before is None or before.head != after.head:
        yield Part("Head", _drawn(before, after, lambda body: LayerChain(body.head)))


def _drawn(before: Structure | None, after: Structure, chain: Callable[[Structure], LayerChain]) -> list[Diagram]:
    return diagrams.draw_diagrams(None if before is None else chain(before), chain(after))


def _costs(before: Line, after: Line) -> list[tuple[str, str, str, str]]:
    found = []
    for key, name, form, scale in COSTS:
        old, new = (
            None if line.get(key) is None or pd.isna(line[key]) else line[key] * scale for line in (before, after)
        )
        change = (
            ""
            if not old or new is None
            else "same"
            if new == old
            else format_number("{:+.1f} %", 100 * (new / old - 1))
        )
        found.append((name, format_number(form, old), format_number(form, new), change))
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

    images = page_plots.evaluated(group).capitalize()
    top1 = f"{images} top-1 over the epochs, in percent. {words('test_top1', '{:.1f}')}."
    loss = f"Loss over the epochs. {images}: {words('test_loss', '{:.2f}')}. Training: {words('train_loss', '{:.2f}')}."
    return [page_plots.accuracy_curves(group, f"top1-{i}", top1), page_plots.loss_curves(group, f"loss-{i}", loss)]
