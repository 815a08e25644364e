"""Datasets of (PIL image, label). The small ones live in memory; the others are torchvision's and timm's."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset

from roadmap.config.datasets import DEFAULT_ROOT, FASHION_FILES, FOLDER_DATASETS, fashion_mnist_folder, split_folder
from roadmap.config.schema import BudgetSpec, DataSpec, SpecError
from roadmap.data.download import download_if_absent


class Splits(NamedTuple):
    train: Dataset[Any]
    test: Dataset[Any]


class ImageArray(Dataset[Any]):
    """Images in memory: uint8 (N,H,W) grey or (N,H,W,3) colour, labels (N,)."""

    def __init__(self, images: np.ndarray, targets: np.ndarray) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(self.targets[index])


def load(data: DataSpec, budget: BudgetSpec) -> Splits:
    """The training and the test split, cut to the budget. Raises SpecError where the data is not as its fields say."""
    download_if_absent(data)
    train, test = _load(data)
    if data.holdout is not None:
        train, test = _hold_out(train, data.holdout)
    for split in (train, test):
        targets = getattr(split, "targets", None)
        highest = int(max(targets)) if targets is not None and len(targets) else 0
        if data.num_classes is not None and highest >= data.num_classes:
            raise SpecError(f"data.num_classes={data.num_classes}: {data.name} has labels up to {highest}")
    return Splits(_cut(train, budget.train_images, "train"), _cut(test, budget.test_images, "test"))


def _load(data: DataSpec) -> Splits:
    if data.name == "digits":
        return digits()
    if data.name == "fashion_mnist":
        folder = fashion_mnist_folder(data)
        assert folder is not None
        return Splits(*(fashion_mnist(folder, split) for split in ("train", "test")))
    if "/" in data.name:
        return _timm(data)
    from torchvision import datasets

    root = str(data.root)
    if data.name in FOLDER_DATASETS:
        return Splits(*(datasets.ImageFolder(str(split_folder(data, split))) for split in ("train", "test")))
    if data.name == "imagenette":
        return Splits(*(datasets.Imagenette(root, split, "160px") for split in ("train", "val")))
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[data.name]
    parts = [kind(root, train=training) for training in (True, False)]
    return Splits(*(ImageArray(part.data, np.asarray(part.targets)) for part in parts))


def digits() -> Splits:
    """1,437 training and 360 test images of 8x8, the same share of each class in both, always the same split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)  # 0..16 levels
    parts = train_test_split(images, source.target, test_size=360, stratify=source.target, random_state=0)
    return Splits(ImageArray(parts[0], parts[2]), ImageArray(parts[1], parts[3]))


def fashion_mnist(folder: Path, split: str) -> ImageArray:
    """28x28 images, padded with black to 32x32 so that they halve evenly."""
    image_file, label_file = FASHION_FILES[split]
    images, labels = _read_idx(folder / image_file), _read_idx(folder / label_file)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise SpecError(f"data.root={folder}: {image_file} and {label_file} do not hold 28x28 images and their labels")
    return ImageArray(np.pad(images, ((0, 0), (2, 2), (2, 2))), labels)


def _read_idx(path: Path) -> np.ndarray:
    """A file of the MNIST format: 2 zero bytes, type 8 (uint8), number of dimensions, big-endian sizes, data."""
    try:
        raw = path.read_bytes() if path.is_file() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())
        sizes = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
        if raw[:3] != b"\x00\x00\x08":
            raise ValueError("wrong magic number")
        return np.asarray(np.frombuffer(raw, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes))
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise SpecError(f"data.root={path.parent}: {path.name} is not a readable idx file ({error})") from error


def _timm(data: DataSpec) -> Splits:
    from timm.data import create_dataset

    mode = "L" if data.in_chans == 1 else "RGB"
    prefix = data.name.split("/")[0].lower()
    parts = []
    for split, training in ((data.train_split, True), (data.test_split, False)):
        try:
            part = create_dataset(
                data.name,
                root=data.root or (None if prefix.startswith("hf") else str(DEFAULT_ROOT / data.name)),
                split=split,
                is_training=training,
                input_img_mode=mode,
                download=data.download,
                **({"input_key": data.input_key, "target_key": data.target_key} if prefix == "hfds" else {}),
                num_samples=data.num_train if training else None,
            )
        except ImportError as error:
            raise SpecError(f"data.name={data.name}: {error}; {prefix} needs a package of its own") from error
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise SpecError(f"data.name={data.name}: timm cannot open split {split} ({reason})") from error
        parts.append(part)
    return Splits(*parts)


def _hold_out(train: Dataset[Any], count: int) -> Splits:
    """The training images in two: all but `count` to train on, `count` to evaluate on; always the same ones."""
    held = _evenly(train, count, "data.holdout")
    everything: np.ndarray = np.arange(len(train))  # type: ignore[arg-type]
    rest: np.ndarray = np.delete(everything, held)
    if not len(rest):
        raise SpecError(f"data.holdout={count}: leaves no image to train on")
    return Splits(_choose(train, rest), _choose(train, held))


def _cut(dataset: Dataset[Any], count: int | None, split: str) -> Dataset[Any]:
    return dataset if count is None else _choose(dataset, _evenly(dataset, count, f"budget.{split}_images"))


def _evenly(dataset: Dataset[Any], count: int, name: str) -> np.ndarray:
    """The indices of `count` images, always the same: an even share of each class where the labels are at hand."""
    if isinstance(dataset, IterableDataset):
        raise SpecError(f"{name}={count}: a streamed dataset cannot be cut; set it to null")
    size = len(dataset)  # type: ignore[arg-type]
    if count > size:
        raise SpecError(f"{name}={count}: there are only {size}")
    targets = getattr(dataset, "targets", None)
    if targets is None:  # any order may follow the classes
        return np.sort(np.random.default_rng(0).permutation(size)[:count])
    by_class = np.argsort(np.asarray(targets), kind="stable")
    return np.asarray(by_class[np.arange(count) * size // count])


def _choose(dataset: Dataset[Any], chosen: np.ndarray) -> Dataset[Any]:
    if isinstance(dataset, ImageArray):
        return ImageArray(dataset.images[chosen], dataset.targets[chosen])
    part = Subset(dataset, chosen.tolist())
    targets = getattr(dataset, "targets", None)
    if targets is not None:
        part.targets = np.asarray(targets)[chosen]  # type: ignore[attr-defined]
    return part
