"""Lists of the images of large datasets, kept from one run to the next.

Without them, each run of a study reads the folders of all images. A list is used only if no folder has changed since:
a file that is added, removed or renamed changes the time of its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from roadmap.runtime.files import write_atomically

MIN_IMAGES = 50_000  # the folders of smaller datasets are read each time
MIN_AGE_SECONDS = 10.0  # a folder that changed later could change again without a new time


def cache_file(split: str) -> Path:
    """Return the file with the list of the folder `split` of a dataset, in the user's folder for caches."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111, as expanduser of Path may raise
    return base / "roadmap" / f"images-{hashlib.sha256(os.path.abspath(split).encode()).hexdigest()[:16]}.json"  # noqa: PTH100


def read_cache(split: str, classes: list[str]) -> dict[str, list[str]] | None:
    """Return the paths of the images of each class; None if there is no list, or if a folder has changed."""
    try:
        content = json.loads(cache_file(split).read_text(encoding="utf-8"))
        if list(content["images"]) != classes or content["times"] != folder_times(content["times"]):
            return None
        return {
            name: [f"{folder}{os.sep}{image}" for folder, images in folders for image in images]
            for name, folders in content["images"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_cache(split: str, images: Mapping[str, list[str]], times: Mapping[str, int]) -> None:
    """Write the list of the images of each class; `times` are those of all their folders, from before they were read.

    Nothing is written for a small dataset, if a folder has just changed, or if the file cannot be written.
    """
    newest = max(times.values(), default=0)
    if sum(map(len, images.values())) < MIN_IMAGES or time.time_ns() - newest < 1e9 * MIN_AGE_SECONDS:
        return
    by_folder: dict[str, list[tuple[str, list[str]]]] = {}
    for name, paths in images.items():
        folders: dict[str, list[str]] = {}
        for path in paths:
            folder, _, image = path.rpartition(os.sep)
            folders.setdefault(folder, []).append(image)
        by_folder[name] = list(folders.items())
    file = cache_file(split)
    with suppress(OSError, UnicodeEncodeError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"times": dict(times), "images": by_folder}).encode())


def folder_times(folders: Mapping[str, int] | list[str]) -> dict[str, int]:
    """Return the time of the last change of each folder in nanoseconds. Raises OSError."""
    return {folder: Path(folder).stat().st_mtime_ns for folder in folders}
