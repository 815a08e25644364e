"""What the page shows of the inside of trained networks: effective receptive fields and confusion matrices.

They come from the evaluation.json of runs (`roadmap evaluate`).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from PIL import Image

from roadmap.analysis.table import Records
from roadmap.config.names import one_line

LARGEST_TABLE = 20  # classes; of more classes, the most frequent confusions are listed
NUM_CONFUSIONS = 10


class ReceptiveField(NamedTuple):
    """The mean field over seeds as a picture."""

    source: str  # data URI of a PNG file
    description: str


class Confusions(NamedTuple):
    """The confusion matrix over all seeds, or its largest entries."""

    classes: list[str]
    rows: list[list[str]]  # percent of each true class; empty if there are too many classes
    levels: list[list[int]]  # of the same cells, 0 to 9: their shade
    largest: list[tuple[str, str, str]]  # true class, predicted class, percent


def receptive_field(records: Records) -> ReceptiveField | None:
    """Return the picture of a row, None if no run has a field."""
    found = [evaluation["receptive_field"] for evaluation in _evaluations(records) if evaluation.get("receptive_field")]
    fields = [np.asarray(field["map"], dtype=float) for field in found]
    fields = [field / field.sum() for field in fields if field.shape == fields[0].shape and field.sum() > 0]
    if not fields:
        return None
    mean = np.mean(fields, axis=0)
    colours = mpl.colormaps["magma"](mean / mean.max(), bytes=True)[..., :3]
    file = BytesIO()
    Image.fromarray(colours).save(file, "PNG", optimize=True)
    side, size = np.mean([field["half_side"] for field in found]), found[0]["image_size"]
    seeds = f"{len(fields)} seed{'s' if len(fields) > 1 else ''}"
    description = (
        f"Effective receptive field of the centre of the last feature map: half of the gradient is within "
        f"{side:.3g}×{side:.3g} of {size}×{size} pixels; mean over {seeds}, {found[0]['num_images']} test images each."
    )
    return ReceptiveField("data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), description)


def confusions(records: Records) -> Confusions | None:
    """Return the confusions of a row, None if no run has a matrix."""
    found = [evaluation for evaluation in _evaluations(records) if evaluation.get("confusion_matrix")]
    matrices = [np.asarray(evaluation["confusion_matrix"], dtype=float) for evaluation in found]
    matrices = [matrix for matrix in matrices if matrix.shape == matrices[0].shape]
    if not matrices:
        return None
    counts = np.sum(matrices, axis=0)
    shares = 100 * counts / counts.sum(1, keepdims=True).clip(min=1)
    names = [one_line(name) for name in found[0].get("classes", [])]
    names = names if len(names) == len(counts) else [f"class {i}" for i in range(len(counts))]
    largest = [(names[i], names[j], f"{shares[i, j]:.1f} %") for i, j in _largest_errors(shares) if shares[i, j] > 0]
    is_small = len(names) <= LARGEST_TABLE
    rows = [[f"{share:.1f}" if share > 0 else "" for share in row] for row in shares] if is_small else []
    levels = [[min(9, int(share / 10)) for share in row] for row in shares] if is_small else []
    return Confusions(names, rows, levels, largest)


def _evaluations(records: Records) -> list[dict[str, Any]]:
    return [record["evaluation"] for record in records if record.get("evaluation")]


def _largest_errors(shares: np.ndarray) -> Sequence[tuple[int, int]]:
    errors = shares.copy()
    np.fill_diagonal(errors, 0.0)
    order = np.argsort(-errors, axis=None, kind="stable")[:NUM_CONFUSIONS]
    return [(int(i) // len(errors), int(i) % len(errors)) for i in order if errors.flat[i] > 0]
