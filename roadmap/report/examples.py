"""The test images on which the rows of a study disagree."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, islice
from typing import Any, NamedTuple

import numpy as np

from roadmap.analysis.table import Records, Study
from roadmap.runtime.logs import logger

NUM_EXAMPLES = 4  # for each pair of rows, in each direction
LEAST_DIFFERENCE = 0.5  # between the shares of the seeds that are right, for an example
MAX_IMAGES, MAX_PAIRS = 600, 1000  # bounds of size and time

# From (record, indices of test images, number of test images) to a picture (data URI) and a class name for each image.
ThumbnailsOf = Callable[[Mapping[str, Any], Sequence[int], int], list[tuple[str, str]]]


class Examples(NamedTuple):
    """Test images, and how many seeds of each row are right on them."""

    images: list[int]  # positions in the test set; those come first on which all rows together disagree most
    right: list[list[int] | None]  # for each row, by image; None if the row was evaluated on other images
    seeds: list[int]  # for each row
    pictures: list[tuple[str, str]]  # data URI and class name of each image; empty texts if they are unknown


def choose_examples(study: Study, thumbnails_of: ThumbnailsOf | None) -> Examples:
    """Return the images on which each pair of rows disagrees most consistently.

    A row's share of an image is the share of its seeds that are right. A pair disagrees most consistently on the images
    with the largest difference of the shares; among equal ones, on those with the largest variance of the shares of all
    rows. At most MAX_PAIRS pairs (those of the table first) and MAX_IMAGES images are used.
    """
    groups: dict[str, dict[int, Records]] = defaultdict(dict)
    for i, row in enumerate(study.rows):
        for record in row.completed:
            if len(record["correct"]) > 1:
                groups[_test_set(record)].setdefault(i, []).append(record)
    group: dict[int, Records] = max(groups.values(), key=len, default={})
    if len(group) < 2:
        return Examples([], [None] * len(study.rows), [0] * len(study.rows), [])
    counts = {i: np.sum([record["correct"] > 0 for record in records], axis=0) for i, records in group.items()}
    shares = {i: counts[i] / len(records) for i, records in group.items()}
    images = _most_consistent(shares, [(i, j) for i, j in enumerate(study.against) if j is not None])
    seeds = [len(group.get(i, [])) for i in range(len(study.rows))]
    right = [counts[i][images].tolist() if i in counts else None for i in range(len(study.rows))]
    return Examples(images, right, seeds, _pictures(next(iter(group.values()))[0], images, thumbnails_of))


def _most_consistent(shares: Mapping[int, np.ndarray], designed: Sequence[tuple[int, int]]) -> list[int]:
    spread = np.var(list(shares.values()), axis=0)
    pairs = dict.fromkeys(tuple(sorted(pair)) for pair in (*designed, *combinations(shares, 2)))
    ranked = []
    for i, j in islice((pair for pair in pairs if shares.keys() >= set(pair)), MAX_PAIRS):
        for difference in (shares[i] - shares[j], shares[j] - shares[i]):
            order = np.lexsort((-spread, -difference))[:NUM_EXAMPLES]
            ranked.append([int(index) for index in order if difference[index] >= LEAST_DIFFERENCE])
    best_first = [indices[rank] for rank in range(NUM_EXAMPLES) for indices in ranked if rank < len(indices)]
    chosen = list(dict.fromkeys(best_first))[:MAX_IMAGES]
    return sorted(chosen, key=lambda index: (-spread[index], index))


def _test_set(record: dict[str, Any]) -> str:
    """Return a text that is the same for runs that were evaluated on the same images."""
    data = record["config"]["data"]
    fields = [data.get(key) for key in ("name", "root", "test_split", "holdout")]
    return json.dumps([*fields, record["config"]["budget"].get("test_images"), len(record["correct"])])


def _pictures(
    record: dict[str, Any], images: Sequence[int], thumbnails_of: ThumbnailsOf | None
) -> list[tuple[str, str]]:
    if not images or thumbnails_of is None:
        return [("", "")] * len(images)
    run = {key: record[key] for key in ("name", "label", "config")}
    try:
        return thumbnails_of(run, images, len(record["correct"]))
    except Exception as error:  # the report is possible without pictures
        logger.info(f"the page has no pictures of test images: {error}")
        return [("", "")] * len(images)
