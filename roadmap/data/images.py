"""Reading single images in loader processes: train and test images, unreadable files, and the batch they form."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from PIL.Image import DecompressionBombError
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from roadmap.config.choices import RAISE, OnError
from roadmap.config.schema import DataSpec
from roadmap.data.transforms import Transform, pil_mode
from roadmap.runtime.random import derive, seed_all

# What Pillow raises for files that are not images or are truncated.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, DecompressionBombError, struct.error, zlib.error)


class BadImageError(Exception):
    """An image that cannot be read; the message names it."""


class Batch(NamedTuple):
    """A batch, or the part of it that one process or accumulation part takes."""

    images: Tensor  # uint8 N,C,H,W
    labels: Tensor  # int64 N
    indices: Tensor  # int64 N, in the dataset; on the CPU
    positions: Tensor  # int64 N, in the batch of all processes and parts; on the CPU
    unreadable: tuple[str, ...] = ()  # images that were left out: path and reason


class Item(NamedTuple):
    """One image of a batch."""

    image: Tensor | None  # uint8 C,H,W; None: it could not be read
    label: int
    index: int  # in the dataset
    position: int  # in the batch of all processes and parts
    error: str = ""  # path and reason of an unreadable image


class AugmentedImages(Dataset[Any]):
    """Augmented images of a map-style dataset, addressed by (index, epoch, position)."""

    def __init__(self, images: Dataset[Any], data: DataSpec, transform: Transform, seed: int) -> None:
        self.images, self.data, self.transform, self.seed = images, data, transform, seed

    def __getitem__(self, index: tuple[int, int, int]) -> Item:
        number, epoch, position = index
        image = read_image(self.images, number, self.data)
        if isinstance(image, str):
            return Item(None, -1, number, position, error=image)
        seed_all(derive(self.seed, "image", epoch, number))
        return Item(self.transform(image[0]), image[1], number, position)


class AugmentedImageStream(IterableDataset[Any]):
    """Augmented images of a streamed dataset, which shuffles by itself: its draws also depend on the workers."""

    def __init__(self, images: IterableDataset[Any], data: DataSpec, transform: Transform, seed: int) -> None:
        self.images, self.mode, self.transform, self.seed = images, pil_mode(data), transform, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch of the next iteration over the dataset; `epoch` counts from 0."""
        self.epoch = epoch
        self.images.set_epoch(epoch)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Item]:
        info = torch.utils.data.get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        for count, (image, label) in enumerate(self.images):
            seed_all(derive(self.seed, "stream", self.epoch, worker, count))
            index = count * num_workers + worker
            yield Item(self.transform(image.convert(self.mode)), label, index, index)


class TestImages(Dataset[Any]):
    """Test images of a map-style dataset."""

    def __init__(self, images: Dataset[Any], data: DataSpec, transform: Transform) -> None:
        self.images, self.data, self.transform = images, data, transform

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        image = read_image(self.images, index, self.data)
        if isinstance(image, str):
            return Item(None, -1, index, index, error=image)
        return Item(self.transform(image[0]), image[1], index, index)


class TestImageStream(IterableDataset[Any]):
    """Test images of a streamed dataset, in its order."""

    def __init__(self, images: IterableDataset[Any], data: DataSpec, transform: Transform) -> None:
        self.images, self.mode, self.transform = images, pil_mode(data), transform

    def __iter__(self) -> Iterator[Item]:
        for index, (image, label) in enumerate(self.images):
            yield Item(self.transform(image.convert(self.mode)), label, index, index)


def read_image(images: Any, index: int, data: DataSpec) -> tuple[Any, int] | str:
    """Return the image, converted to grey or colour, and its label; for an unreadable one its path and the reason."""
    try:
        image, label = images[index]
        return image.convert(pil_mode(data)), int(label)
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"{path_of(images, index)}: {type(error).__name__}: {reason}"


def path_of(images: Any, index: int) -> str:
    """Return the path of an image if the dataset has it, else its index."""
    if isinstance(images, Subset):
        return path_of(images.dataset, images.indices[index])
    if hasattr(images, "samples"):  # torchvision's folders
        return str(images.samples[index][0])
    if hasattr(images, "filename"):  # timm's datasets
        return str(images.filename(index, absolute=True))
    return f"image {index}"


def collate(items: list[Item]) -> Batch:
    """Return the batch of the readable items; it names the others."""
    good = [item for item in items if item.image is not None]
    images = torch.stack([item.image for item in good if item.image is not None]) if good else torch.empty(0)
    labels, indices, positions = (torch.tensor([item[i] for item in good], dtype=torch.int64) for i in (1, 2, 3))
    return Batch(images, labels, indices, positions, tuple(item.error for item in items if item.image is None))


def readable(batch: Batch, on_error: OnError) -> Batch:
    """Return the batch. Raises BadImageError if unreadable images are not to be skipped, or if all are unreadable."""
    for error in batch.unreadable:
        if on_error is RAISE:
            raise BadImageError(f"{error}; repair or remove it, or skip unreadable images with data.on_error=skip")
    if batch.unreadable and len(batch.labels) == 0:
        raise BadImageError(f"no image of a batch could be read; the first is {batch.unreadable[0]}")
    return batch
