"""The subcommand `roadmap predict`: classes of images, and one-line errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from roadmap.training.run import run
from tests.conftest import TINY
from tests.helpers import call_main, make_image_folder, make_spec

CLASSES = {"cat": 20, "dog": 20, "owl": 20}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with images/ and a run in experiments/. Tests do not change it."""
    folder = tmp_path_factory.mktemp("predict")
    root = make_image_folder(folder / "images", CLASSES, size=16)
    overrides = ("+step=gelu", "data=folder", f"data.root={root}", "data.image_size=16", "data.stem_stride=1")
    options = ("data.small_images=true", "data.workers=0", "precision=fp32")
    spec = make_spec(folder / "experiments", *overrides, *options, *TINY)
    assert run(spec)["status"] == "completed"
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of `trained`, which is the working folder."""
    shutil.copytree(trained, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return Path()


def run_of(place: Path) -> Path:
    (folder,) = (place / "experiments" / "runs").iterdir()
    return folder


def test_each_image_gets_a_line_with_its_classes(place: Path) -> None:
    images = ["images/val/cat/0.png", "images/val/dog/1.png"]
    result = call_main("predict", str(run_of(place)), *images, "--device", "cpu")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert [line.split(":")[0] for line in lines] == images
    for line in lines:
        entries = line.split(": ")[1].split(", ")
        assert sorted(entry.split()[0] for entry in entries) == sorted(CLASSES)
        shares = [float(entry.split()[1]) for entry in entries]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.2)


def test_a_class_name_with_control_characters_is_printed_with_escapes(place: Path) -> None:
    path = run_of(place) / "record.json"
    content = json.loads(path.read_text()) | {"classes": ["a\nb", "\x1b[31m", "o" * 300]}
    path.write_text(json.dumps(content))
    result = call_main("predict", str(run_of(place)), "images/val/cat/0.png", "--device", "cpu")
    assert result.code == 0 and "a\\nb " in result.out and "\\x1b[31m " in result.out and "o" * 81 not in result.out
    assert result.out.count("\n") == 1


def test_a_run_is_found_by_its_name_and_json_has_all_values(place: Path) -> None:
    arguments = ("images/val/cat/0.png", "images/val/owl/0.png", "--json", "--top", "2", "--device", "cpu")
    by_name = call_main("predict", run_of(place).name, *arguments)
    assert by_name == call_main("predict", str(run_of(place)), *arguments)
    content = json.loads(by_name.out)
    assert [entry["image"] for entry in content] == list(arguments[:2])
    assert all(len(entry["classes"]) == 2 for entry in content)
    first = content[0]["classes"][0]
    assert sorted(first) == ["class", "label", "probability"] and sorted(CLASSES)[first["label"]] == first["class"]


def test_classes_without_names_are_numbered(place: Path) -> None:
    path = run_of(place) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": []}))
    result = call_main("predict", str(path.parent), "images/val/cat/0.png", "--top", "1", "--device", "cpu")
    assert result.code == 0 and result.out.split(": ")[1].startswith("class ")


@pytest.mark.parametrize(("image", "message"), [
    ("nowhere.png", "nowhere.png: no such file"), ("images", "images: is not a file; give image files"),
    ("empty.png", "empty.png: is not an image that Pillow can read"),
    ("cut.png", "cut.png: cannot be read as an image (image file is truncated"),
    ("x" * 300, "File name too long"), ("a\nb.png", "a\\nb.png: no such file"),
], ids=["absent", "folder", "empty", "cut off", "long name", "line break"])  # fmt: skip
def test_an_image_that_cannot_be_read_gives_a_one_line_error(place: Path, image: str, message: str) -> None:
    Path("empty.png").touch()
    raw = Path("images/val/cat/0.png").read_bytes()
    Path("cut.png").write_bytes(raw[: len(raw) // 2])
    result = call_main("predict", str(run_of(place)), "images/val/cat/0.png", image, "--device", "cpu")
    assert result.code == 2 and message in result.err and len(result.err.splitlines()) == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (("nowhere", "images/val/cat/0.png"), "experiments/runs/nowhere: no such folder; give the folder of a run"),
    (("experiments", "images/val/cat/0.png"), "experiments: has no record.json; give the folder of a completed run"),
    (("RUN", "images/val/cat/0.png", "--top", "4"), "--top=4: must be from 1 to 3, the number of classes"),
    (("RUN", "images/val/cat/0.png", "--top", "0"), "--top=0: must be from 1 to 3, the number of classes"),
])  # fmt: skip
def test_invalid_arguments_give_a_one_line_error(place: Path, arguments: tuple[str, ...], message: str) -> None:
    result = call_main("predict", *(str(run_of(place)) if a == "RUN" else a for a in arguments))
    assert (result.code, result.out) == (2, "") and message in result.err and len(result.err.splitlines()) == 1


def test_the_record_has_the_names_of_the_classes(trained: Path) -> None:
    (folder,) = (trained / "experiments" / "runs").iterdir()
    assert json.loads((folder / "record.json").read_text())["classes"] == sorted(CLASSES)
