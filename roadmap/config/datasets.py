"""Datasets that the package knows by name: source, number of classes, and the files that `data.root` contains.

How to add a dataset:

- Images in class folders (`ROOT/train/CLASS/...` and `ROOT/val/CLASS/...`): write a preset `conf/data/NAME.yaml` with
  `name: folder` and `root: ROOT`; no code is needed. With an entry `KnownDataset(Source.folder)` in `KNOWN_DATASETS`,
  the preset can say `name: NAME`, which records and reports then show.
- A dataset that a class of `torchvision.datasets` downloads and reads: write an entry with `Source.downloadable`, its
  files and that class, and a preset with `name: NAME`. The download, the check whether it is present, reading, the hash
  of a run and the error messages use the entry.
- Another format: write an entry, a preset, and a function in `roadmap.data.datasets.READERS`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from roadmap.config.classes import CIFAR10, CIFAR100, DIGITS, FASHION_MNIST, IMAGENETTE
from roadmap.config.folders import class_folders, complete_folder, is_folder, split_folder
from roadmap.config.schema import DataSpec, SpecError
from roadmap.config.validation import require

DEFAULT_ROOT = Path("data")  # in the working directory; the default of data.root is data/NAME
FASHION_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class Source(Enum):
    """Where the images of a dataset come from."""

    embedded = "embedded"  # part of an installed package
    downloadable = "downloadable"  # fixed files below data.root, which torchvision can download
    folder = "folder"  # the user's class folders below data.root


@dataclass(frozen=True)
class KnownDataset:
    """What is known of a dataset before an image is read. Reading this table does not import torch."""

    source: Source
    num_classes: int | None = None  # None: the number of class folders
    classes: tuple[str, ...] = ()  # in the order of their labels; empty: unknown, or the names of the folders
    sizes: tuple[int, int] | None = None  # number of training and of test images; None: it depends on the files
    # The other fields belong to downloadable datasets.
    files_in_root: tuple[str, ...] = ()  # files (also with the ending .gz) and folders; all of them are needed
    folders: tuple[str, ...] = (".",)  # where they can be, relative to data.root or absolute; the first match is used
    torchvision_class: str = ""  # class of torchvision.datasets that downloads them
    split_arguments: tuple[dict[str, Any], ...] = ({"train": True}, {"train": False})  # of that class: train, test


KNOWN_DATASETS = {
    "digits": KnownDataset(Source.embedded, 10, DIGITS, (1_437, 360)),
    "fashion_mnist": KnownDataset(
        Source.downloadable,
        10,
        FASHION_MNIST,
        (60_000, 10_000),
        files_in_root=FASHION_MNIST_FILES["train"] + FASHION_MNIST_FILES["test"],
        # data.root, where torchvision puts them, and Debian's package dataset-fashion-mnist
        folders=(".", "FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"),
        torchvision_class="FashionMNIST",
    ),
    "cifar10": KnownDataset(
        Source.downloadable,
        10,
        CIFAR10,
        (50_000, 10_000),
        files_in_root=("cifar-10-batches-py",),
        torchvision_class="CIFAR10",
    ),
    "cifar100": KnownDataset(
        Source.downloadable,
        100,
        CIFAR100,
        (50_000, 10_000),
        files_in_root=("cifar-100-python",),
        torchvision_class="CIFAR100",
    ),
    "imagenette": KnownDataset(
        Source.downloadable,
        10,
        IMAGENETTE,
        (9_469, 3_925),
        files_in_root=("imagenette2-160",),
        torchvision_class="Imagenette",
        split_arguments=({"split": "train", "size": "160px"}, {"split": "val", "size": "160px"}),
    ),
    "imagenet": KnownDataset(Source.folder, sizes=(1_281_167, 50_000)),
    "folder": KnownDataset(Source.folder),
}


def root_decides_result(name: str) -> bool:
    """Return whether the images depend on `data.root`, so that the hash of a run contains it.

    An embedded or downloadable dataset has the same images in every folder.
    """
    return name not in KNOWN_DATASETS or KNOWN_DATASETS[name].source is Source.folder


def complete_data_spec(data: DataSpec, dry_run: bool = False) -> DataSpec:
    """Return `data` with the folder and the number of classes filled in where the dataset determines them.

    For a dry run, the images of a dataset of known size need not be on this machine. Raises SpecError if the dataset is
    unknown, if it is absent and cannot be downloaded, or if it contradicts a field.
    """
    if "/" in data.name:
        return _complete_timm(data)
    if data.name not in KNOWN_DATASETS:
        names = ", ".join(KNOWN_DATASETS)
        raise SpecError(f"data.name={data.name}: unknown; use one of {names}, or a timm dataset as hfds/OWNER/NAME")
    known = KNOWN_DATASETS[data.name]
    if known.source is Source.folder:
        is_known = known.sizes is not None and data.num_classes is not None
        if dry_run and is_known and not (data.root and is_folder(data.root)):
            return data
        return complete_folder(data)
    fits = data.num_classes in (None, known.num_classes)
    message = f"{data.name} has {known.num_classes} classes; leave data.num_classes out"
    require(fits, "data.num_classes", data.num_classes, message)
    data = replace(data, num_classes=known.num_classes)
    if known.source is Source.downloadable:
        data = replace(data, root=str(data.root or DEFAULT_ROOT / data.name))
        message = f"{data.name} is not there; put {wanted_files(data)} there, or set data.download=true"
        require(data.download or is_present(data), "data.root", data.root, message)
    return data


def class_names(data: DataSpec) -> list[str] | None:
    """Return the names of the classes in the order of their labels, or None if they are unknown.

    In a dataset of class folders these are the names of the folders. Raises SpecError if the folders cannot be read.
    """
    known = KNOWN_DATASETS.get(data.name)
    if known is not None and known.source is Source.folder:
        return [
            os.fsencode(name).decode("utf-8", "replace") for name in class_folders(data, split_folder(data, "train"))
        ]
    return list(known.classes) if known is not None and known.classes else None


def is_present(data: DataSpec) -> bool:
    """Return whether the files of a downloadable dataset are on this machine; True for all other datasets."""
    known = KNOWN_DATASETS.get(data.name)
    return known is None or known.source is not Source.downloadable or folder_of_files(data) is not None


def folder_of_files(data: DataSpec) -> Path | None:
    """Return the first folder with all files of a downloadable dataset, each plain or with the ending .gz."""
    known = KNOWN_DATASETS[data.name]
    root = Path(data.root or DEFAULT_ROOT / data.name)
    for folder in (root / name for name in known.folders):
        if all(_exists(folder / file) or _exists(folder / f"{file}.gz") for file in known.files_in_root):
            return folder
    return None


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110, as Path.exists raises OSError for a long name


def wanted_files(data: DataSpec) -> str:
    """Return the names of the files of a downloadable dataset, for an error message."""
    return ", ".join(KNOWN_DATASETS[data.name].files_in_root)


def _complete_timm(data: DataSpec) -> DataSpec:
    message = f"cannot be read from {data.name}; set data.num_classes=NUMBER"
    require(data.num_classes is not None, "data.num_classes", data.num_classes, message)
    if data.name.startswith("wds/"):
        require(
            data.root is not None and is_folder(data.root),
            "data.root",
            data.root,
            f"no such folder; give the folder of the shards of {data.name}",
        )
    return data
