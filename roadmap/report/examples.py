"""The images on which the rows of a study disagree."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from roadmap.analysis.table import Records, Study
from roadmap.config.datasets import root_decides_result
from roadmap.config.names import one_line
from roadmap.runtime.logs import logger

NUM_EXAMPLES = 4  # for each pair of rows, in each direction
MAX_IMAGES, MAX_PAIRS = 600, 1000  # bounds of size and time

# From (record, positions of images, number of images) to a picture (data URI) and a class name for each position; both
# are empty where they are unknown.
ThumbnailsOf = Callable[[Mapping[str, Any], Sequence[int], int], list[tuple[str, str]]]


class Examples(NamedTuple):
    """Images of one evaluation set, and how many seeds of each row are right on them."""

    images: list[int]  # positions in correct.npy; those come first on which all rows together disagree most
    right: dict[int, list[int]]  # by row: for each image
    seeds: dict[int, int]  # by row
    pictures: list[tuple[str, str]]  # data URI and class name of each image


def choose_examples(study: Study, thumbnails_of: ThumbnailsOf | None) -> list[Examples]:
    """Return the images on which pairs of rows disagree most consistently, for each set of images.

    A row's share of an image is the share of its seeds that are right. A pair disagrees most consistently on the images
    with the largest difference of the shares, at least one half; among equal ones, on those with the largest variance
    of the shares of all rows. At most MAX_PAIRS pairs (those of the table first) and MAX_IMAGES images are used.
    """
    groups: dict[str, dict[int, Records]] = defaultdict(dict)
    for i, row in enumerate(study.rows):
        for record in row.completed:
            if len(record["correct"]) > 1 and not (record.get("unreadable") or {}).get("test"):
                groups[_evaluation_set(record)].setdefault(i, []).append(record)
    designed = [(i, j) for i, j in enumerate(study.against) if j is not None]
    return [_choose(group, designed, thumbnails_of) for group in groups.values() if len(group) > 1]


def _choose(
    group: Mapping[int, Records], designed: Sequence[tuple[int, int]], thumbnails_of: ThumbnailsOf | None
) -> Examples:
    counts = {i: np.sum([record["correct"] > 0 for record in records], axis=0) for i, records in group.items()}
    seeds = {i: len(records) for i, records in group.items()}
    images = _most_consistent(counts, seeds, designed)
    pictures = [("", "")] * len(images)
    if images and thumbnails_of is not None:
        record = next(iter(group.values()))[0]
        run = {key: record[key] for key in ("name", "label", "config", "classes") if key in record}
        pictures = thumbnails_of(run, images, len(record["correct"]))
    return Examples(images, {i: count[images].tolist() for i, count in counts.items()}, seeds, pictures)


def _most_consistent(
    counts: Mapping[int, np.ndarray], seeds: Mapping[int, int], designed: Sequence[tuple[int, int]]
) -> list[int]:
    spread = np.var([counts[i] / seeds[i] for i in counts], axis=0)
    pairs = dict.fromkeys(tuple(sorted(pair)) for pair in (*designed, *combinations(counts, 2)))
    ranked = []
    for i, j in islice((pair for pair in pairs if counts.keys() >= set(pair)), MAX_PAIRS):
        more = counts[i] * seeds[j] - counts[j] * seeds[i]  # the difference of the shares, as a whole number
        for difference in (more, -more):
            found = np.flatnonzero(2 * difference >= seeds[i] * seeds[j])
            ranked.append(found[np.lexsort((-spread[found], -difference[found]))[:NUM_EXAMPLES]].tolist())
    best_first = [indices[rank] for rank in range(NUM_EXAMPLES) for indices in ranked if rank < len(indices)]
    chosen = list(dict.fromkeys(best_first))[:MAX_IMAGES]
    return sorted(chosen, key=lambda index: (-spread[index], index))


def _evaluation_set(record: dict[str, Any]) -> str:
    """Return a text that is the same for runs that were evaluated on the same images in the same order."""
    data, budget = record["config"]["data"], record["config"]["budget"]
    fields = [data["name"], data.get("holdout"), budget.get("test_images"), len(record["correct"])]
    is_held_out = data.get("holdout") is not None  # then the images are of the training split
    fields += [data.get("train_split" if is_held_out else "test_split")]
    if root_decides_result(data["name"]) and data.get("root"):
        fields += [str(Path(data["root"]).resolve())]
    return json.dumps(fields)


def optional_pictures(thumbnails_of: ThumbnailsOf) -> ThumbnailsOf:
    """Return `thumbnails_of` without its errors: it logs them, and the images then have no pictures."""

    def read(record: Mapping[str, Any], indices: Sequence[int], num_images: int) -> list[tuple[str, str]]:
        try:
            return thumbnails_of(record, indices, num_images)
        except Exception as error:
            logger.info(f"the page has no pictures of images: {one_line(error)[:300] or type(error).__name__}")
            return [("", "")] * len(indices)

    return read
