"""Small pictures of test images, for the page of a study."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

from PIL import Image
from torch.utils.data import IterableDataset

from roadmap.config.datasets import class_names, is_present, wanted_files
from roadmap.config.schema import DataSpec, SpecError
from roadmap.data import datasets
from roadmap.data.images import read_image
from roadmap.data.transforms import pil_mode
from roadmap.inference import spec_of_record

SIDE = 64  # pixels of the longer side, at most
QUALITY = 80  # of WebP


def read_thumbnails(
    record: Mapping[str, Any], indices: Sequence[int], num_images: int, data_root: str | None = None
) -> list[tuple[str, str]]:
    """Return a picture, as the data URI of a WebP file, and the name of the class for each of the test images.

    `record` is that of a run which was evaluated on `num_images` images; `indices` are their positions in its
    correct.npy. `data_root` is the folder of the dataset, by default that of the run. The picture of an unreadable
    image is empty. Nothing is downloaded. Raises SpecError if the dataset is not on this machine or is another one.
    """
    spec = spec_of_record(dict(record), str(record["name"]))
    data = replace(spec.data, root=data_root or spec.data.root, download=False)
    if data.name.startswith("hf"):
        raise SpecError(f"data={data.name}: images of the Hugging Face hub are not shown")
    if not is_present(data):
        raise SpecError(f"data.root={data.root}: the images are not there; needed: {wanted_files(data)}")
    images: Any = datasets.load(data, spec.budget).test
    if isinstance(images, IterableDataset):
        raise SpecError(f"data={data.name}: images of a streamed dataset are not shown")
    if len(images) != num_images:
        raise SpecError(
            f"data.root={data.root}: has {len(images):,} test images, the runs were evaluated on {num_images:,}"
        )
    names = class_names(data)
    return [_thumbnail(images, index, data, names) for index in indices]


def _thumbnail(images: Any, index: int, data: DataSpec, names: Sequence[str] | None) -> tuple[str, str]:
    found = read_image(images, index, data)
    if isinstance(found, str):  # the reason why it cannot be read
        return "", ""
    image, label = found
    image = image.convert(pil_mode(data))
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    file = BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=6)
    name = names[label] if names is not None and label < len(names) else f"class {label}"
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode(), name
