"""Images in class folders, in the order of torchvision's ImageFolder. Each file counts once per class."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torchvision.datasets import ImageFolder

from roadmap.config.folders import (
    IMAGE_ENDINGS,
    class_folders,
    count_of,
    is_image_name,
    names_of,
    overlaps,
    read_folder,
    refused,
)
from roadmap.config.schema import DataSpec
from roadmap.data.folder_cache import folder_times, read_cache, write_cache
from roadmap.runtime.logs import logger


class ClassFolders(ImageFolder):
    """The images of one split, as (PIL image, label).

    Raises SpecError for a class folder without images, and for folders that cannot be read.
    """

    def __init__(self, data: DataSpec, folder: Path) -> None:
        self.data, self.folder = data, folder
        super().__init__(str(folder))

    def find_classes(self, directory: Any) -> tuple[list[str], dict[str, int]]:
        """Return the names of the classes, and the label of each."""
        names = class_folders(self.data, Path(directory))
        return names, {name: label for label, name in enumerate(names)}

    def make_dataset(self, directory: Any, class_to_idx: dict[str, int], *_: Any, **__: Any) -> list[tuple[str, int]]:
        """Return the path and the label of each image."""
        images = read_cache(str(directory), list(class_to_idx))
        return self._find_all(str(directory), class_to_idx) if images is None else _samples(images, class_to_idx)

    def _find_all(self, directory: str, class_to_idx: dict[str, int]) -> list[tuple[str, int]]:
        images: dict[str, list[str]] = {}
        times: dict[str, int] = {}
        left_out: list[str] = []
        has_links = False
        for name in class_to_idx:
            found = find_images(self.data, str(Path(directory) / name), os.path.realpath(directory))
            images[name] = found.paths
            times |= found.times
            left_out += found.left_out
            has_links |= found.has_links
        if empty := [name for name, paths in images.items() if not paths]:
            reason = (
                f"{self.folder.name}/ has {count_of(len(empty), 'class folder')} without images ({names_of(empty)})"
            )
            raise refused(
                self.data, f"{reason}; add {', '.join(IMAGE_ENDINGS)} files, or remove the class from all splits"
            )
        if left_out:
            reason = f"{count_of(len(left_out), 'link')} in {self.folder.name}/ to images that it has already"
            logger.info(f"data.root={self.data.root}: {reason}, left out; the first is {left_out[0]}")
        if not has_links:  # the target of a link can change without a new time of a folder
            write_cache(directory, images, times)
        return _samples(images, class_to_idx)


def _samples(images: dict[str, list[str]], class_to_idx: dict[str, int]) -> list[tuple[str, int]]:
    return [(path, class_to_idx[name]) for name, paths in images.items() for path in paths]


class Found(NamedTuple):
    """The images of a class."""

    paths: list[str]  # in torchvision's order
    left_out: list[str]  # links
    has_links: bool  # whether there are links at all
    times: dict[str, int]  # of the folders: their last change in nanoseconds, before they were read


def find_images(data: DataSpec, class_folder: str, split: str) -> Found:
    """Find the images of a class.

    Links are followed, except those to a folder in `split` (a path without links) or to a folder that contains it. Each
    folder and file counts once per class. Therefore links can neither multiply the images nor form a loop. Hidden
    folders, hidden files and files that are not regular files are left out.
    """
    found: dict[str, list[str]] = {}  # folder -> names of its images
    linked: list[tuple[str, str, str]] = []  # folder, name, real path
    left_out: list[str] = []
    times: dict[str, int] = {}
    folders, seen_folders, seen_files = [class_folder], {os.path.realpath(class_folder)}, set()
    has_links = Path(class_folder).is_symlink()
    while folders:
        folder = folders.pop()
        real_folder = os.path.realpath(folder)
        with suppress(OSError):  # `read_folder` raises the error
            times |= folder_times([folder])
        for entry in read_folder(data, folder):
            has_links |= entry.is_symlink()
            if _holds(entry.is_dir):
                real = os.path.realpath(entry.path)
                if real in seen_folders or (entry.is_symlink() and overlaps(real, split)):
                    left_out.append(entry.path)
                else:
                    folders.append(entry.path)
                    seen_folders.add(real)
            elif not is_image_name(entry.name):
                continue
            elif entry.is_symlink() and (_holds(entry.is_file) or not os.path.exists(entry.path)):  # noqa: PTH110
                linked.append((folder, entry.name, os.path.realpath(entry.path)))
            elif _holds(entry.is_file):
                found.setdefault(folder, []).append(entry.name)
                seen_files.add(f"{real_folder}{os.sep}{entry.name}")
    for folder, name, real in sorted(linked):
        if real in seen_files:
            left_out.append(f"{folder}{os.sep}{name}")
        else:
            found.setdefault(folder, []).append(name)
            seen_files.add(real)
    paths = [f"{folder}{os.sep}{name}" for folder in sorted(found) for name in sorted(found[folder])]
    return Found(paths, sorted(left_out), has_links, times)


def _holds(check: Any) -> bool:
    """Return the result of `is_dir` or `is_file` of an entry; False where a link cannot be followed."""
    try:
        return bool(check())
    except OSError:
        return False
