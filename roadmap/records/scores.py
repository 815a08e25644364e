"""correct.npy: for each test image of a run, whether its top-1 prediction is correct.

The file has one bit for each image, packed as by `np.packbits`. Earlier versions wrote an array of bool, one byte for
each image; both are read.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

SCORES_NAME = "correct.npy"

# What NumPy raises for a damaged file; with mmap_mode, a header with a too large shape is a ValueError.
DAMAGED = (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, BadZipFile, TokenError)


class Scores(NamedTuple):
    """The score of a run on each test image, 0 or 100; only the accuracy if correct.npy cannot be used."""

    values: np.ndarray
    problem: str | None = None  # why correct.npy cannot be used


def pack_correct(correct: np.ndarray) -> np.ndarray:
    """Return the content of correct.npy for an array of bool, (images,): its bits, uint8 (images / 8, rounded up,)."""
    return np.packbits(correct)


def read_correct(folder: Path, num_test: int | None) -> np.ndarray:
    """Return whether the prediction for each test image is correct, bool (images,), from a run's folder.

    `num_test` is the number of images in the run's record. Raises ValueError, with a text that continues "correct.npy",
    if there is no such list.
    """
    path = folder / SCORES_NAME
    try:
        is_file = path.is_file()  # reading a pipe would block
        with warnings.catch_warnings(action="ignore"):  # warnings about files of Python 2
            content = np.load(path, mmap_mode="r", allow_pickle=False) if is_file else None
    except DAMAGED as error:
        raise ValueError("cannot be read") from error
    if not is_file:
        raise ValueError("is missing")
    if isinstance(content, np.ndarray) and content.ndim == 1 and content.size:
        if content.dtype == np.bool_:
            return np.array(content)
        if content.dtype == np.uint8 and num_test and content.size == math.ceil(num_test / 8):
            return np.unpackbits(content, count=num_test).astype(bool)
    raise ValueError("is not a list of true and false")


def read_scores(folder: Path, record: dict[str, Any]) -> Scores:
    """Return the scores in the correct.npy of a run's folder; they must have the accuracy of the run's record."""
    top1 = record.get("top1")
    accuracy = np.array([math.nan if top1 is None else top1])
    if top1 is None:
        return Scores(accuracy)
    try:
        scores = 100.0 * read_correct(folder, record.get("num_test"))
    except ValueError as error:
        return Scores(accuracy, str(error))
    if abs(scores.mean() - top1) >= 1e-3:
        return Scores(accuracy, "does not have the accuracy of record.json")
    return Scores(scores)
