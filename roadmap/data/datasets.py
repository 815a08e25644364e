"""Datasets of (PIL image, label). Small ones are held in memory; the others are read by torchvision or timm."""

from __future__ import annotations

import gzip
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from roadmap.config.datasets import (
    DEFAULT_ROOT,
    FASHION_MNIST_FILES,
    KNOWN_DATASETS,
    Source,
    folder_of_files,
)
from roadmap.config.folders import split_folder
from roadmap.config.names import one_line, printable
from roadmap.config.schedule import fit_to_dataset
from roadmap.config.schema import BudgetSpec, DataSpec, SpecError
from roadmap.data.download import download_if_absent

# What torchvision raises for files that are damaged or missing.
DAMAGED = (OSError, RuntimeError, ValueError, KeyError, IndexError, EOFError, pickle.UnpicklingError)


class Splits(NamedTuple):
    """The training and the test split of a dataset."""

    train: Dataset[Any]
    test: Dataset[Any]


class ImageArray(Dataset[Any]):
    """Images in memory: uint8 (N,H,W) grey or (N,H,W,3) colour, and labels (N,)."""

    def __init__(self, images: np.ndarray, targets: np.ndarray) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(self.targets[index])


def load(data: DataSpec, budget: BudgetSpec) -> Splits:
    """Return the training and the test split, reduced to the budget; download them first if they are absent.

    Raises SpecError if the dataset contradicts a field of `data` or is smaller than the budget.
    """
    download_if_absent(data)
    train, test = _read(data)
    for name, split in (("training", train), ("test", test)):
        if not isinstance(split, IterableDataset) and len(split) == 0:  # type: ignore[arg-type]
            raise SpecError(f"data.root={data.root}: {data.name} has no {name} images; replace the files")
    if data.holdout is not None:
        train, test = _hold_out(train, data.holdout)
    for split in (train, test):
        targets = getattr(split, "targets", None)
        highest = int(max(targets)) if targets is not None and len(targets) else 0
        if data.num_classes is not None and highest >= data.num_classes:
            if data.name in KNOWN_DATASETS:  # their number of classes is fixed
                raise SpecError(
                    f"data.root={data.root}: has labels up to {highest}, but {data.name} has "
                    f"{data.num_classes} classes; replace the files"
                )
            message = f"{data.name} has labels up to {highest}; set data.num_classes={highest + 1} or more"
            raise SpecError(f"data.num_classes={data.num_classes}: {message}")
    return Splits(_reduce(train, budget, "train_images"), _reduce(test, budget, "test_images"))


def _read(data: DataSpec) -> Splits:
    if "/" in data.name:
        return read_timm(data)
    if data.name in READERS:
        return READERS[data.name](data)
    known = KNOWN_DATASETS[data.name]
    return read_class_folders(data) if known.source is Source.folder else read_torchvision(data)


def read_digits(_: DataSpec) -> Splits:
    """Return 1,437 training and 360 test images of 8x8 pixels: a fixed split, stratified by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)  # pixels: N,64, from 0 to 16
    images = np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    return Splits(ImageArray(parts[0], parts[2]), ImageArray(parts[1], parts[3]))


def read_fashion_mnist(data: DataSpec) -> Splits:
    """Return the 28x28 images of four idx files, padded with black to 32x32, which halves evenly in each stage.

    Raises SpecError for files that are damaged or contain something else.
    """
    folder = folder_of_files(data)
    assert folder is not None
    splits = []
    for image_file, label_file in FASHION_MNIST_FILES.values():
        images, labels = _read_idx(folder / image_file), _read_idx(folder / label_file)
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            message = f"{image_file} and {label_file} do not contain 28x28 images and their labels; replace them"
            raise SpecError(f"data.root={folder}: {message}")
        splits.append(ImageArray(np.pad(images, ((0, 0), (2, 2), (2, 2))), labels))
    return Splits(*splits)


def fit_size(data: DataSpec, image: Image.Image) -> Image.Image:
    """Return an image of the dataset with the size that its reader gives it; Fashion-MNIST gets 2 pixels of border."""
    if data.name == "fashion_mnist" and image.size == (28, 28):
        return ImageOps.expand(image, 2)
    return image


def _read_idx(path: Path) -> np.ndarray:
    """Read a file of the MNIST format: 2 zero bytes, type 8 (uint8), number of dimensions, big-endian sizes, data."""
    try:
        raw = path.read_bytes() if path.is_file() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())
        sizes = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
        if raw[:3] != b"\x00\x00\x08":
            raise ValueError("wrong magic number")
        return np.asarray(np.frombuffer(raw, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes))
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        message = f"{path.name} is not a readable idx file ({printable(str(error), 200)}); replace it"
        raise SpecError(f"data.root={path.parent}: {message}") from error


def read_class_folders(data: DataSpec) -> Splits:
    """Return the images of two folders with one folder per class, as torchvision's ImageFolder."""
    from roadmap.data.folders import ClassFolders

    return Splits(*(ClassFolders(data, split_folder(data, split)) for split in ("train", "test")))


def read_torchvision(data: DataSpec) -> Splits:
    """Return a downloaded dataset as its class of torchvision reads it, as ImageArray if that class holds one array.

    Raises SpecError for files that are damaged.
    """
    from torchvision import datasets

    known = KNOWN_DATASETS[data.name]
    splits = []
    for arguments in known.split_arguments:
        try:
            split = getattr(datasets, known.torchvision_class)(str(data.root), **arguments)
        except DAMAGED as error:
            reason = printable(str(error), 200) or type(error).__name__
            message = f"{data.name} cannot be read ({reason}); delete its files and download it again"
            raise SpecError(f"data.root={data.root}: {message}") from error
        if isinstance(getattr(split, "data", None), np.ndarray | Tensor) and hasattr(split, "targets"):
            split = ImageArray(np.asarray(split.data), np.asarray(split.targets))
        splits.append(split)
    return Splits(*splits)


def read_timm(data: DataSpec) -> Splits:
    """Return a dataset that timm opens by name, such as hfds/OWNER/NAME. Raises SpecError if it cannot be opened."""
    from timm.data import create_dataset

    prefix = data.name.split("/")[0].lower()
    columns: dict[str, Any] = {}
    if prefix == "hfds":
        columns = {"input_key": data.input_key, "target_key": data.target_key}
    splits = []
    for field, split, is_training in (("train", data.train_split, True), ("test", data.test_split, False)):
        try:
            images = create_dataset(
                data.name,
                root=data.root or (None if prefix.startswith("hf") else str(DEFAULT_ROOT / data.name)),
                split=split,
                is_training=is_training,
                input_img_mode="L" if data.in_chans == 1 else "RGB",
                download=data.download,
                num_samples=data.num_train if is_training else None,
                **columns,
            )
        except ImportError as error:
            raise SpecError(f"data.name={data.name}: {error}; install the optional dependencies {prefix}") from error
        except Exception as error:
            reason = one_line(error)[:200] or type(error).__name__
            message = f"timm cannot open split {split} ({reason}); check data.name, data.root and data.{field}_split"
            raise SpecError(f"data.name={data.name}: {message}") from error
        splits.append(images)
    return Splits(*splits)


# Datasets with a reader of their own; class folders and torchvision's datasets need none.
READERS: dict[str, Callable[[DataSpec], Splits]] = {"digits": read_digits, "fashion_mnist": read_fashion_mnist}


def _hold_out(train: Dataset[Any], count: int) -> Splits:
    """Split the training images: all but `count` for training, `count` for evaluation; always the same ones."""
    held_out = _evenly_spread(train, count, "data.holdout")
    everything: np.ndarray = np.arange(len(train))  # type: ignore[arg-type]
    rest: np.ndarray = np.delete(everything, held_out)
    if not len(rest):
        raise SpecError(f"data.holdout={count}: leaves no image for training; use less than {len(everything)}")
    return Splits(_select(train, rest), _select(train, held_out))


def _reduce(dataset: Dataset[Any], budget: BudgetSpec, name: str) -> Dataset[Any]:
    count: int | None = getattr(budget, name)
    if not isinstance(dataset, IterableDataset):
        count = fit_to_dataset(budget, name, len(dataset))  # type: ignore[arg-type]
    return dataset if count is None else _select(dataset, _evenly_spread(dataset, count, f"budget.{name}"))


def _evenly_spread(dataset: Dataset[Any], count: int, field_name: str) -> np.ndarray:
    """Return the indices of `count` images, always the same, with an even share of each class if the labels are known.

    Raises SpecError, which names the field that asks for `count`, if there are fewer images.
    """
    if isinstance(dataset, IterableDataset):
        raise SpecError(f"{field_name}={count}: a streamed dataset cannot be reduced; set it to null")
    size = len(dataset)  # type: ignore[arg-type]
    if count > size:
        raise SpecError(f"{field_name}={count}: there are only {size} images; use {size} or less")
    targets = getattr(dataset, "targets", None)
    if targets is None:  # a random choice, because the images may be sorted by class
        return np.sort(np.random.default_rng(0).permutation(size)[:count])
    by_class = np.argsort(np.asarray(targets), kind="stable")
    return np.asarray(by_class[np.arange(count) * size // count])


def _select(dataset: Dataset[Any], indices: np.ndarray) -> Dataset[Any]:
    if isinstance(dataset, ImageArray):
        return ImageArray(dataset.images[indices], dataset.targets[indices])
    subset = Subset(dataset, indices.tolist())
    targets = getattr(dataset, "targets", None)
    if targets is not None:
        subset.targets = np.asarray(targets)[indices]  # type: ignore[attr-defined]
    return subset
