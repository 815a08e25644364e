"""Small pictures of the images on which runs were evaluated, for the page of a study."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

from PIL import Image

from roadmap.config.datasets import KNOWN_DATASETS, Source, class_names, is_present, wanted_files
from roadmap.config.schema import DataSpec, SpecError
from roadmap.data import datasets
from roadmap.data.images import read_image
from roadmap.inference import spec_of_record

SIDE = 64  # pixels of the longer side, at most
QUALITY = 80  # of WebP


def read_thumbnails(
    record: Mapping[str, Any],
    indices: Sequence[int],
    num_images: int,
    data_root: str | None = None,
    own_images: bool = False,
) -> list[tuple[str, str]]:
    """Return a picture, as the data URI of a WebP file, and the name of the class for each of the images.

    `record` is that of a run which was evaluated on `num_images` images; `indices` are their positions in its
    correct.npy. `data_root` is the folder of the dataset, by default that of the run. Images of a folder of the user
    have pictures only with `own_images`, because a page may be published. Picture and name of an image that cannot be
    read are empty. Nothing is downloaded. Raises SpecError if the images are not on this machine or are other ones.
    """
    spec = spec_of_record(dict(record), str(record["name"]))
    data = replace(spec.data, root=data_root or spec.data.root, download=False)
    known = KNOWN_DATASETS.get(data.name)
    if known is None:
        raise SpecError(f"data={data.name}: only images of the package's datasets and of folders can be shown")
    if known.source is Source.folder and not own_images:
        raise SpecError(f"data={data.name}: images of a folder are shown with roadmap report STUDY --pictures")
    if not is_present(data):
        raise SpecError(f"data.root={data.root}: the images are not there; needed: {wanted_files(data)}")
    images: Any = datasets.load(data, spec.budget).test
    if len(images) != num_images:
        message = f"has {len(images):,} images, the runs were evaluated on {num_images:,}"
        raise SpecError(f"data.root={data.root}: {message}")
    names, recorded = class_names(data), record.get("classes")
    if recorded is not None and names is not None and list(recorded) != list(names):
        raise SpecError(f"data.root={data.root}: has other classes than the runs")
    return [_thumbnail(images, index, data, names) for index in indices]


def _thumbnail(images: Any, index: int, data: DataSpec, names: Sequence[str] | None) -> tuple[str, str]:
    found = read_image(images, index, data)
    if isinstance(found, str):  # the reason why it cannot be read
        return "", ""
    image, label = found
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    file = BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=6)
    name = names[label] if names is not None and label < len(names) else f"class {label}"
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode(), name
