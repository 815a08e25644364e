"""Folders of images: `data.root` contains a folder per split, and each of them a folder per class.

A name that begins with a dot is hidden. Hidden folders are not classes, and hidden files are not images. This module
does not import torch.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from roadmap.config.names import printable
from roadmap.config.schema import DataSpec, SpecError

SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "validation", "test")}
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of torchvision
LAYOUT = "give the folder that contains train/ and val/, each with one folder per class"
MAX_NAMES = 5  # in an error message


def complete_folder(data: DataSpec) -> DataSpec:
    """Return `data` with the number of classes, which is the number of class folders.

    Raises SpecError if the folders are absent, cannot be read, or contradict each other or a field.
    """
    if data.root is None:
        raise SpecError(f"data.root=null: is required for data={data.name}; {LAYOUT}")
    if not is_folder(data.root):
        reason = "is not a folder" if os.path.lexists(data.root) else "no such folder"
        hint = "write the full path instead of ~; " if data.root.startswith("~") else ""
        raise refused(data, f"{reason}; {hint}{LAYOUT}")
    train, test = (class_folders(data, split_folder(data, split)) for split in ("train", "test"))
    if train != test:
        differences = [
            f"{names_of(sorted(set(names) - set(others)))} only in {split_folder(data, split).name}/"
            for split, names, others in (("train", train, test), ("test", test, train))
            if set(names) - set(others)
        ]
        reason = "the training and the test split have different class folders"
        raise refused(data, f"{reason} ({', '.join(differences)}); give both the same")
    if data.num_classes not in (None, len(train)):
        reason = f"{printable(data.root, 100)} has {len(train)} class folders"
        raise SpecError(f"data.num_classes={data.num_classes}: {reason}; set data.num_classes={len(train)} or null")
    return replace(data, num_classes=len(train))


def split_folder(data: DataSpec, split: str) -> Path:
    """Return the folder of `split` ("train" or "test") of a dataset of class folders.

    Raises SpecError if there is none.
    """
    root = Path(data.root or ".")
    first = data.train_split if split == "train" else data.test_split
    names = list(dict.fromkeys((first, *SPLIT_FOLDERS[split])))
    for name in names:
        if is_folder(root / name):
            return root / name
    choices = printable(" or ".join(names), 100)
    raise refused(data, f"has no folder {choices}; create one, with a folder per class")


def class_folders(data: DataSpec, folder: Path) -> list[str]:
    """Return the sorted names of the class folders in the folder of a split.

    Raises SpecError if there is none, if images lie outside of them, and if one is a link to images of the same split.
    """
    classes: list[str] = []
    images: list[str] = []
    for entry in read_folder(data, folder):
        if _is_folder_entry(entry):
            classes.append(entry.name)
        elif is_image_name(entry.name):
            images.append(entry.name)
    if images:
        reason = f"{count_of(len(images), 'image')} in {folder.name}/ outside of a class folder ({names_of(images)})"
        raise refused(data, f"{reason}; move them into one folder per class")
    if not classes:
        raise refused(data, f"{folder.name}/ has no subfolder; create one per class")
    real = os.path.realpath(folder)
    links = [name for name in classes if (folder / name).is_symlink() and overlaps(folder / name, real)]
    if links:
        reason = f"the class folder {names_of(links)} of {folder.name}/ is a link to images of the same split"
        raise refused(data, f"{reason}; remove the link")
    return sorted(classes)


def overlaps(link: Path | str, real: str) -> bool:
    """Return whether `link` leads into the folder `real` (a path without links), or to a folder that contains it."""
    target = os.path.realpath(link)
    return os.path.commonpath([target, real]) in (target, real)


def read_folder(data: DataSpec, folder: Path | str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, sorted by name. Raises SpecError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise refused(data, f"{printable(str(folder), 100)}: {error.strerror}; make the folder readable") from error


def _is_folder_entry(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or without permission to follow it
        return False


def is_image_name(name: str) -> bool:
    """Return whether a file with this name is an image."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_ENDINGS)


def is_folder(path: Path | str) -> bool:
    """Return whether `path` is a folder. Unlike `Path.is_dir`, a name that is too long gives False, not an error."""
    return os.path.isdir(path)  # noqa: PTH112


def names_of(names: list[str]) -> str:
    """Return the first names, and the number of the others, as text for a message."""
    shown = ", ".join(printable(name, 40) for name in names[:MAX_NAMES])
    return shown if len(names) <= MAX_NAMES else f"{shown} and {len(names) - MAX_NAMES} more"


def count_of(count: int, noun: str) -> str:
    """Return `1 image` or `2 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def refused(data: DataSpec, message: str) -> SpecError:
    """Return the error of a `data.root` that cannot be used."""
    return SpecError(f"data.root={printable(str(data.root), 100)}: {message}")
