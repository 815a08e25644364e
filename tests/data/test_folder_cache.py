"""Lists of images that are kept from one run to the next."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from roadmap.config.compose import compose
from roadmap.data import datasets, folder_cache, folders
from tests.helpers import make_image_folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small dataset whose lists are kept at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_cache, "MIN_IMAGES", 1)
    monkeypatch.setattr(folder_cache, "MIN_AGE_SECONDS", 0.0)
    return make_image_folder(tmp_path / "images", {"cat": 3, "dog": 2})


def load(root: Path) -> list[list[tuple[str, int]]]:
    """Return the paths and the labels of both splits."""
    spec = compose("data=folder", f"data.root={root}")
    splits: Any = datasets.load(spec.data, spec.budget)
    return [splits.train.samples, splits.test.samples]


def kept_lists(tmp_path: Path) -> int:
    return len(list((tmp_path / "cache").glob("roadmap/images-*.json")))


def test_the_folders_are_read_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nested = root / "train" / "dog" / "more"
    nested.mkdir()
    shutil.copy(root / "train" / "cat" / "0.png", nested / "7.png")
    first = load(root)
    assert kept_lists(tmp_path) == 2 and len(first[0]) == 6
    monkeypatch.setattr(folders, "find_images", Mock(side_effect=AssertionError("read again")))
    assert load(root) == first


def add_class(root: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(root / split / "cat", root / split / "horse")


CHANGES: dict[str, Callable[[Path], Any]] = {
    "added": lambda root: shutil.copy(root / "train" / "cat" / "0.png", root / "train" / "cat" / "9.png"),
    "removed": lambda root: (root / "train" / "cat" / "0.png").unlink(),
    "renamed": lambda root: (root / "train" / "cat" / "0.png").rename(root / "train" / "cat" / "9.png"),
    "in a new folder": lambda root: shutil.copytree(root / "train" / "cat", root / "train" / "cat" / "more"),
    "of a new class": add_class,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_is_read_again(change: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(root)
    CHANGES[change](root)
    after = load(root)
    monkeypatch.setattr(folders, "read_cache", Mock(return_value=None))
    assert after != before and after == load(root)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"times": {}}', b"\xff", b'{"times": {}, "images": {"cat": 1}}'])
def test_a_damaged_list_is_not_used(content: bytes, root: Path, tmp_path: Path) -> None:
    expected = load(root)
    for path in (tmp_path / "cache").glob("roadmap/*"):
        path.write_bytes(content)
    assert load(root) == expected


def test_images_behind_links_are_read_each_time(root: Path, tmp_path: Path) -> None:
    """Their files can change without a change of the folder with the link."""
    (root / "train" / "cat" / "linked.png").symlink_to(tmp_path / "images" / "val" / "cat" / "0.png")
    load(root)
    assert kept_lists(tmp_path) == 1  # of the other split


def test_small_datasets_and_folders_that_just_changed_are_not_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(folder_cache, "MIN_IMAGES", 100)
        load(root)
    with monkeypatch.context() as patch:
        patch.setattr(folder_cache, "MIN_AGE_SECONDS", 60.0)
        load(root)
    assert kept_lists(tmp_path) == 0


def test_a_list_that_cannot_be_written_is_left_out(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file instead of a folder")
    assert len(load(root)[0]) == 5
