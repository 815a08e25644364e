"""The data with which the page's script compares any two rows: configuration, layers, results, test images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from roadmap.analysis.table import Study
from roadmap.models.structure import Layer, Structure
from roadmap.report.columns import COLUMNS, NO_VALUE, Column, Line, is_missing, used_columns
from roadmap.report.examples import NUM_EXAMPLES, ThumbnailsOf, choose_examples
from roadmap.report.fields import fields_of, plain
from roadmap.report.page_plots import evaluation_images

# The columns whose values belong to the comparison of the table, not to the row itself.
OF_COMPARISON = ("label", "delta", "delta_low", "p_holm", "verdict", "seeds_needed", "against")


@dataclass(frozen=True)
class Pairs:
    """The section "Compare two rows"."""

    data: Markup  # JSON, which the script reads
    labels: list[str]
    first: tuple[int, int]  # the rows that are compared at the start
    images: str  # `test` or `held-out`; empty if there are no results on single images


@dataclass
class _Pool:
    """Values that occur often, each stored once and known by its number."""

    numbers: dict[object, int] = field(default_factory=dict)

    def __call__(self, value: object) -> int:
        return self.numbers.setdefault(value, len(self.numbers))


def make_pairs(
    study: Study,
    lines: Sequence[Line],
    labels: Sequence[str],
    structures: Sequence[Structure | None],
    thumbnails_of: ThumbnailsOf | None,
    cell: Callable[[Column, Line], str],
) -> Pairs | None:
    """Return the section of a study, None if it has one row. `cell` returns the text of a cell of the table."""
    if len(lines) < 2:
        return None
    texts, units = _Pool(), _Pool()
    fields = [fields_of(next((r for r in row.records if r.get("plan")), row.records[0])) for row in study.rows]
    by_name = {
        name: [plain(row[name]) if name in row else NO_VALUE for row in fields]
        for name in dict.fromkeys(name for row in fields for name in row)
    }
    columns = [column for column in used_columns(COLUMNS, lines) if column.key not in OF_COMPARISON]
    examples = choose_examples(study, thumbnails_of)
    kind = evaluation_images(study.records)
    data = {
        "top1": [None if is_missing(line["top1_mean"]) else line["top1_mean"] for line in lines],
        "columns": [[column.header, [texts(cell(column, line)) for line in lines]] for column in columns],
        "fields": [[name, [texts(value) for value in row]] for name, row in by_name.items() if len(set(row)) > 1],
        "labels": list(labels),
        "layers": [None if structure is None else _units(structure, texts, units) for structure in structures],
        "units": list(units.numbers),
        "sets": [
            {
                "images": [[i, *picture] for i, picture in zip(found.images, found.pictures, strict=True)],
                # by row; one sign for each image: the sign "0" + the number of seeds that are right
                "right": {row: "".join(chr(48 + count) for count in counts) for row, counts in found.right.items()},
                "seeds": found.seeds,
            }
            for found in examples
        ],
        "kind": kind,
        "most": NUM_EXAMPLES,
        "texts": list(texts.numbers),
    }
    # A closing tag in a text would end the element that holds the data.
    content = Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))
    has_images = any(found.images for found in examples)
    return Pairs(content, list(labels), _first_pair(study), kind if has_images else "")


def _first_pair(study: Study) -> tuple[int, int]:
    """Return the last row that is compared with another row, after that row; without one, the first two rows."""
    return next(((j, i) for i, j in reversed(list(enumerate(study.against))) if j is not None), (0, 1))


def _units(structure: Structure, texts: _Pool, units: _Pool) -> list[tuple[int, int]]:
    """Return the units of a network (stem, downsampling, block, head): the number of its place, and of its content.

    The content of a unit is a list of layers, each as the number of its text.
    """

    def unit(place: str, layers: Iterable[str]) -> tuple[int, int]:
        return texts(place), units(tuple(map(texts, layers)))

    found = [unit("stem", map(_text, structure.stem))]
    for i, stage in enumerate(structure.stages, 1):
        if stage.downsample:
            found.append(unit(f"stage {i}, downsampling", map(_text, stage.downsample)))
        for j, block in enumerate(stage.blocks, 1):
            shortcut = [f"shortcut: {_text(layer)}" for layer in block.shortcut]
            layers = [*shortcut, *map(_text, block.branch), "sum with the shortcut", *map(_text, block.after)]
            found.append(unit(f"stage {i}, block {j}", layers))
    return [*found, unit("head", map(_text, structure.head))]


def _text(layer: Layer) -> str:
    # The rate of stochastic depth is another one in each block; the field network.drop_path has it.
    text = "stochastic depth" if layer.kind == "drop_path" else layer.description
    is_grouped = layer.groups > 1 and not layer.depthwise
    return f"{text}, {layer.groups} groups" if is_grouped else text
