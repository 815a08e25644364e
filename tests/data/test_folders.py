"""Images in class folders: empty and unreadable folders, links, hidden files; one-line errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torchvision.datasets.folder

from roadmap.config import folders
from roadmap.config.compose import compose
from roadmap.config.folders import IMAGE_ENDINGS
from roadmap.config.schema import SpecError
from roadmap.data import datasets
from roadmap.data.datasets import Splits
from tests.conftest import TINY
from tests.helpers import call_main, make_image_folder

TREE = {"cat": 2, "dog": 1}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_image_folder(tmp_path / "images", TREE)


def load(root: Path) -> Splits:
    spec = compose("data=folder", f"data.root={root}")
    return datasets.load(spec.data, spec.budget)


def paths(images: Any) -> list[str]:
    return [path for path, _ in images.samples]


def remove_images(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def add_file(path: Path, content: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def empty_split(root: Path) -> None:
    for folder in list((root / "train").iterdir()):
        remove_images(folder)
        folder.rmdir()


def other_ending(root: Path) -> None:
    for path in (root / "train" / "dog").iterdir():
        path.rename(path.with_suffix(".gif"))


MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty class folder for training": (
        lambda root: remove_images(root / "train" / "dog"),
        "train/ has 1 class folder without images (dog); add .jpg",
    ),
    "empty class folder for testing": (
        lambda root: remove_images(root / "val" / "dog"),
        "val/ has 1 class folder without images (dog); add .jpg",
    ),
    "no readable ending": (other_ending, "train/ has 1 class folder without images (dog); add .jpg, .jpeg, .png"),
    "class only for training": (
        lambda root: add_file(root / "train" / "owl" / "0.png"),
        "different class folders (owl only in train/); give both the same",
    ),
    "class only for testing": (
        lambda root: add_file(root / "val" / "owl" / "0.png"),
        "different class folders (owl only in val/); give both the same",
    ),
    "images without a class": (
        lambda root: add_file(root / "train" / "0.PNG"),
        "1 image in train/ outside of a class folder (0.PNG); move them into one folder per class",
    ),
    "no class folder": (empty_split, "train/ has no subfolder; create one per class"),
    "no split": (lambda root: (root / "val").rename(root / "eval"), "has no folder validation or val or test; create"),
    "a class that is a link to another": (
        lambda root: (root / "train" / "cat2").symlink_to("cat"),
        "the class folder cat2 of train/ is a link to images of the same split; remove the link",
    ),
    "a class that is a link to all images": (
        lambda root: (root / "train" / "all").symlink_to(".."),
        "the class folder all of train/ is a link to images of the same split; remove the link",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_folders_gives_a_one_line_error(root: Path, mistake: str) -> None:
    change, message = MISTAKES[mistake]
    change(root)
    with pytest.raises(SpecError) as caught:
        load(root)
    text = str(caught.value)
    assert text.startswith(f"data.root={root}: ") and message in text and "\n" not in text


@pytest.mark.parametrize(("name", "message"), [
    ("file", "is not a folder; give the folder that contains train/ and val/"),
    ("nowhere", "no such folder; give the folder that contains train/ and val/"),
    ("x" * 300, "no such folder"), ("'~/images'", "no such folder; write the full path instead of ~"),
])  # fmt: skip
def test_a_root_that_is_not_a_folder_gives_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SpecError) as caught:
        compose("data=folder", f"data.root={name}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_permission_gives_a_one_line_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    with pytest.raises(SpecError, match=r"train/dog: Permission denied; make the folder readable$"):
        load(root)


@pytest.mark.parametrize("sweep", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["run", "sweep"])
def test_an_empty_class_folder_ends_the_command_before_anything_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch, sweep: bool
) -> None:
    remove_images(root / "train" / "dog")
    monkeypatch.chdir(root.parent)
    overrides = ("data=folder", f"data.root={root}", "data.image_size=32", "data.workers=0", *TINY)
    result = call_main(*(("-m", "+step=gelu", "seed=0,1") if sweep else ("+step=gelu",)), *overrides)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1 and "1 class folder without images (dog)" in result.err
    assert [path.name for path in root.parent.iterdir()] == ["images"]


def test_images_are_those_of_torchvision_in_its_order(root: Path) -> None:
    for name in ("a-b/1.png", "a/2.png", "a/b/3.JPG", "a.png"):
        add_file(root / "train" / "cat" / name, b"x")
    train, _ = load(root)
    assert train.samples == torchvision.datasets.ImageFolder(str(root / "train")).samples  # type: ignore[attr-defined]
    assert torchvision.datasets.folder.IMG_EXTENSIONS == IMAGE_ENDINGS


def test_hidden_files_and_folders_are_left_out(root: Path) -> None:
    before = paths(load(root).train)
    for name in (".ipynb_checkpoints/0.png", "cat/._0.png", "cat/.hidden/0.png", ".DS_Store"):
        add_file(root / "train" / name)
    assert paths(load(root).train) == before


def test_links_to_folders_do_not_multiply_the_images(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = paths(load(root).train)
    (root / "train" / "cat" / "dogs").symlink_to("../dog")
    (root / "train" / "cat" / "again").symlink_to(".")
    (root / "train" / "dog" / "all").symlink_to(root)
    assert paths(load(root).train) == before
    assert "3 links in train/ to images that it has already, left out; the first is" in capsys.readouterr().out


def test_links_to_files_do_not_multiply_the_images(root: Path) -> None:
    before = paths(load(root).train)
    (root / "train" / "cat" / "2.png").symlink_to("0.png")
    assert paths(load(root).train) == before


def test_links_to_other_folders_are_followed_once(root: Path) -> None:
    pool = make_image_folder(root.parent / "pool", {"birds": 3}) / "train" / "birds"
    (pool / "loop").symlink_to(".")
    for name in ("birds", "birds2"):
        (root / "train" / "cat" / name).symlink_to(pool)
    (root / "train" / "cat" / "bird.png").symlink_to(pool / "0.png")  # its file is among those of the linked folder
    names = [path.removeprefix(str(root / "train" / "cat") + os.sep) for path in paths(load(root).train)]
    assert len(names) == 2 + 3 + 1 and sum("birds" in name for name in names) == 3


def test_a_class_folder_may_be_a_link_to_a_folder_elsewhere(root: Path) -> None:
    (root / "train" / "dog").rename(root.parent / "dogs")
    (root / "train" / "dog").symlink_to(root.parent / "dogs")
    assert len(load(root).train) == 3  # type: ignore[arg-type]


def test_a_dangling_link_is_an_unreadable_image_and_a_pipe_is_not_an_image(root: Path) -> None:
    (root / "train" / "cat" / "9.png").symlink_to("nowhere.png")
    os.mkfifo(root / "train" / "cat" / "8.png")  # reading it would block
    assert [Path(path).name for path in paths(load(root).train)] == ["0.png", "1.png", "9.png", "0.png"]
