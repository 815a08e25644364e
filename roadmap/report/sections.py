"""The page's section for each row: diagrams, configuration, cost and runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

from roadmap.analysis.table import Records, Study
from roadmap.config.roadmaps import Roadmap
from roadmap.models.structure import Layer, Structure
from roadmap.records.record import COMPLETED, FORMAT
from roadmap.report import diagrams, inside, page_plots
from roadmap.report.columns import COLUMNS, Column, Line, format_value, is_missing, marked_label
from roadmap.report.diagrams import Diagram, LayerChain
from roadmap.report.fields import changed_fields
from roadmap.report.inside import Confusions, ReceptiveField
from roadmap.report.wording import gain_sentence
from roadmap.runtime.logs import logger

# From the fields in a record's `config["network"]` to the structure of the network; None for a reference network.
StructureOf = Callable[[dict[str, Any]], Structure | None]


class Part(NamedTuple):
    """A part of the network: its diagrams before and after the change, or one diagram."""

    title: str
    diagrams: list[Diagram]


@dataclass(frozen=True)
class Section:
    """What the page shows for one row."""

    number: int
    anchor: str
    label: str
    line: Line
    runs: Records
    before: int | None  # number of the row that it is compared with
    gain: str  # a sentence
    configs: list[tuple[str, str]]  # names and texts of the config files of the change
    changes: list[tuple[str, str, str]]  # field, value before, value after
    stages: list[tuple[str, list[str], list[str]]]  # property, values of the stages before, values after
    parts: list[Part]
    costs: list[tuple[str, str, str, str]]  # header, before, after, relative change
    curves: list[Markup]
    field: ReceptiveField | None
    confusions: Confusions | None
    paper_section: str  # such as 2.6; empty if the change is in no paper

    @property
    def is_reference(self) -> bool:
        """Whether the network is a reference, which has no diagram."""
        return bool(self.runs[0]["config"]["network"]["reference"])

    @property
    def summary(self) -> str:
        """The result in a few words: gain and verdict, or accuracy, and the status of runs that did not complete."""
        gain, verdict = self.line["delta"], self.line.get("verdict")
        if is_missing(gain):
            words = ["" if is_missing(self.line["top1_mean"]) else page_number("{:.2f} %", self.line["top1_mean"])]
        else:
            words = [page_number("{:+.2f}", gain), verdict if isinstance(verdict, str) else ""]
        words += [self.line["status"]] if self.line["status"] != COMPLETED else []
        return ", ".join(filter(None, words))


def page_text(column: Column, line: Line) -> str:
    """Return the text of a cell for the page: numbers have a true minus sign and the sign of infinity."""
    return column.text(line) if column.is_text else _with_signs(column.text(line))


def page_number(form: str, value: Any) -> str:
    """Return the value in the format `form`, with a true minus sign and the sign of infinity."""
    return _with_signs(format_value(form, value))


def _with_signs(text: str) -> str:
    return text.replace("-", "−").replace("inf", "∞")


def read_structures(study: Study, structure_of: StructureOf | None) -> list[Structure | None]:
    """Return the structure of the network of each row; None for a reference network, and without `structure_of`."""
    return [_read_structure(row.records[0]["config"]["network"], structure_of) for row in study.rows]


def make_sections(study: Study, lines: Sequence[Line], structures: Sequence[Structure | None]) -> list[Section]:
    """Return a section for each row of the study; `lines` is its table. A row without a structure has no diagram."""
    return [_make_section(i, study, lines, structures) for i in range(len(lines))]


def _read_structure(network: dict[str, Any], structure_of: StructureOf | None) -> Structure | None:
    """Return the structure of a network; None if it cannot be read, because the report is possible without it."""
    if structure_of is None:
        return None
    try:
        return structure_of(network)
    except Exception as error:
        logger.info(f"a network has no diagram: {type(error).__name__}: {error}")
        return None


def _make_section(i: int, study: Study, lines: Sequence[Line], structures: Sequence[Structure | None]) -> Section:
    runs, before = study.rows[i].records, study.against[i]
    first, other = runs[0], None if before is None else study.rows[before].records[0]
    structure, other_structure = structures[i], None if before is None else structures[before]
    runs_with_curve = [record for record in runs if record.get("curve")]
    return Section(
        number=i,
        anchor=f"step-{i}-" + re.sub(r"[^a-z0-9]+", "-", str(lines[i]["step"]).lower()).strip("-"),
        label=marked_label(lines[i]),
        line=lines[i],
        runs=runs,
        before=before,
        gain=gain_sentence(study, i),
        configs=_config_files(other, first, study.roadmap),
        changes=[] if other is None else changed_fields(other, first),
        stages=_stages(other_structure, structure, first["config"]["data"]["image_size"]) if structure else [],
        parts=list(_parts(other_structure, structure)) if structure else [],
        costs=_costs({} if before is None else lines[before], lines[i]),
        curves=_curves(runs_with_curve, i) if runs_with_curve else [],
        field=inside.receptive_field(runs),
        confusions=inside.confusions(runs),
        paper_section=_paper_section(str(lines[i]["section"]), study.roadmap),
    )


def _paper_section(name: str, roadmap: Roadmap) -> str:
    """Return the section if it has the number of a section of a paper; a roadmap may name its sections otherwise."""
    return name if roadmap.has_papers_numbers and any(sign.isdigit() for sign in name) else ""


def _config_files(before: dict[str, Any] | None, after: dict[str, Any], roadmap: Roadmap) -> list[tuple[str, str]]:
    """Return the config files of the transforms in which two networks differ; of a single network, of its last one.

    Runs of an earlier version may have used other files, so nothing is returned for their records.
    """
    if after["format"] != FORMAT:
        return []
    names = [info["name"] for info in after["transforms"]]
    changes = [("", name) for name in names[-1:]]
    if before is not None:
        added, removed = roadmap.differing(names, [info["name"] for info in before["transforms"]])
        changes = [*(("", name) for name in added), *(("removed: ", name) for name in removed)]
    files = [(prefix, roadmap.transforms[name]) for prefix, name in changes if name in roadmap.transforms]
    return [(f"{prefix}conf/{file.group}/{file.name}.yaml", file.text.strip()) for prefix, file in files]


def _stages(before: Structure | None, after: Structure, image_size: int) -> list[tuple[str, list[str], list[str]]]:
    """Return blocks, channels and size of the feature map for each stage, where they differ."""

    def properties(structure: Structure) -> dict[str, list[str]]:
        return {
            "blocks": [str(len(stage.blocks)) for stage in structure.stages],
            "channels": [f"{stage.w_out:,}" for stage in structure.stages],
            "feature map": [f"{side}×{side}" for side in structure.map_sides(image_size)],
        }

    old, new = properties(before) if before else {}, properties(after)
    return [(name, old.get(name, []), new[name]) for name in new if old.get(name) != new[name]]


def _parts(before: Structure | None, after: Structure) -> Iterable[Part]:
    """Return the parts to draw: always a block; stem, stage transition and head where they differ."""
    deepest = max(range(len(after.stages)), key=lambda i: len(after.stages[i].blocks))

    def block(structure: Structure) -> LayerChain:
        return LayerChain([], structure.stages[deepest].blocks[-1])

    def transition(structure: Structure) -> LayerChain:
        return LayerChain(structure.stages[1].downsample, structure.stages[1].blocks[0])

    def downsampling(structure: Structure) -> list[Layer]:
        return structure.stages[1].downsample + structure.stages[1].blocks[0].shortcut

    unchanged = before is not None and block(before) == block(after)
    title = f"Block (last block of stage {deepest + 1}{', unchanged' if unchanged else ''})"
    yield Part(title, _draw(None if unchanged else before, after, block))
    if before is None or before.stem != after.stem:
        yield Part("Stem", _draw(before, after, lambda structure: LayerChain(structure.stem)))
    if before is None or downsampling(before) != downsampling(after):
        yield Part("From stage 1 to stage 2", _draw(before, after, transition))
    if before is None or before.head != after.head:
        yield Part("Head", _draw(before, after, lambda structure: LayerChain(structure.head)))


def _draw(before: Structure | None, after: Structure, chain: Callable[[Structure], LayerChain]) -> list[Diagram]:
    return diagrams.draw_diagrams(None if before is None else chain(before), chain(after))


def _costs(before: Line, after: Line) -> list[tuple[str, str, str, str]]:
    """Return header, text before, text after and relative change for each cost that has a value."""
    costs = []
    for column in COLUMNS:
        old, new = column.value(before), column.value(after)
        if column.is_cost and (old is not None or new is not None):
            change = ""
            if old and new is not None:
                change = "same" if new == old else page_number("{:+.1f} %", 100 * (new / old - 1))
            costs.append((column.header, page_text(column, before), page_text(column, after), change))
    return costs


def _curves(records: Records, i: int) -> list[Markup]:
    def describe(key: str, form: str) -> str:
        texts = []
        for record in records:
            values = [point[key] for point in record["curve"] if point.get(key) is not None]
            ends = f"first {form.format(values[0])}, last {form.format(values[-1])}" if values else "not measured"
            texts.append(f"seed {record['seed']}: {ends}")
        return "; ".join(texts)

    images = page_plots.evaluation_images(records).capitalize()
    top1 = f"{images} top-1 in percent over the epochs. {describe('test_top1', '{:.1f}')}."
    evaluated, training = describe("test_loss", "{:.2f}"), describe("train_loss", "{:.2f}")
    loss = f"Loss over the epochs. {images}: {evaluated}. Training: {training}."
    return [page_plots.accuracy_curves(records, f"top1-{i}", top1), page_plots.loss_curves(records, f"loss-{i}", loss)]
