"""Pictures of test images for the page of a study."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from roadmap.config.choices import Precision
from roadmap.config.compose import compose
from roadmap.config.schema import RunSpec, SpecError
from roadmap.data import datasets
from roadmap.data.datasets import load
from roadmap.data.loaders import eval_loader
from roadmap.evaluation.thumbnails import SIDE, read_thumbnails
from roadmap.records.record import new_record, run_folder
from roadmap.training.device import DeviceConfig
from roadmap.training.evaluation import evaluate
from roadmap.training.recipe import BatchAugment
from tests.helpers import call_main, make_image_folder, write_run


def record_of(*overrides: str) -> tuple[RunSpec, dict[str, Any]]:
    spec = compose("+step=gelu", *overrides)
    return spec, new_record(spec, "")


def decode(source: str) -> Image.Image:
    kind, content = source.split(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize("more", [(), ("data.holdout=50",), ("budget.test_images=30",)])
def test_pictures_are_of_the_images_on_which_the_run_was_evaluated(more: tuple[str, ...]) -> None:
    spec, record = record_of(*more)
    images: Any = load(spec.data, spec.budget).test
    found = read_thumbnails(record, [7, 20, 3], len(images))
    for index, (source, name) in zip([7, 20, 3], found, strict=True):
        image, label = images[index]
        difference = np.asarray(decode(source).convert("L"), float) - np.asarray(image, float)
        assert np.abs(difference).mean() < 12, "WebP loses a little"
        assert name == str(label)


def test_the_positions_are_those_of_an_evaluation() -> None:
    """A network that always says 3 is right on the pictures of the class 3, and on no others."""
    spec, record = record_of("data.holdout=60", "budget.train_images=null")
    device = DeviceConfig(torch.device("cpu"), Precision.fp32, "")
    batches = eval_loader(load(spec.data, spec.budget).test, spec, 16, 0, device.device)
    evaluation = evaluate(SaysThree(), batches, BatchAugment(spec, device.device), device, spec.data.on_error)
    assert evaluation is not None and 0 < evaluation.correct.sum() < 60
    found = read_thumbnails(record, range(60), 60)
    assert [name == "3" for _, name in found] == evaluation.correct.tolist()


class SaysThree(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.tensor(3), 10).float().repeat(len(images), 1)


def test_large_images_are_reduced_and_unreadable_ones_left_out(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "one", {"cat": 2, "<dog>": 2}, size=100)
    (folder / "val" / "cat" / "0.png").write_bytes(b"damaged")
    _, record = record_of("data=folder", f"data.root={folder}")
    record["classes"] = ["<dog>", "cat"]
    with pytest.raises(SpecError, match="data=folder: images of a folder are shown with roadmap report STUDY --pict"):
        read_thumbnails(record, [0, 1, 2, 3], 4)
    found = read_thumbnails(record, [0, 1, 2, 3], 4, own_images=True)
    assert [name for _, name in found] == ["<dog>", "<dog>", "", "cat"] and found[2][0] == ""
    assert decode(found[0][0]).size == (SIDE, SIDE)
    moved = folder.rename(tmp_path / "two")
    assert read_thumbnails(record, [0, 1, 2, 3], 4, str(moved), own_images=True) == found
    (moved / "train" / "cat").rename(moved / "train" / "bird")
    (moved / "val" / "cat").rename(moved / "val" / "bird")
    with pytest.raises(SpecError, match=r"data.root=.*two: has other classes than the runs"):
        read_thumbnails(record, [0], 4, str(moved), own_images=True)


def test_images_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, record = record_of("data=fashion_mnist", f"data.root={tmp_path / 'absent'}")
    with pytest.raises(SpecError, match=r"data.root=.*absent: the images are not there; needed: .*idx3-ubyte"):
        read_thumbnails(record, [0], 10_000)
    assert not (tmp_path / "absent").exists(), "nothing is downloaded"
    spec, record = record_of()
    with pytest.raises(SpecError, match="has 360 images, the runs were evaluated on 359"):
        read_thumbnails(record, [0], 359)

    def open_nothing(*_: Any) -> None:
        raise AssertionError("the dataset was opened")

    monkeypatch.setattr(datasets, "load", open_nothing)
    for name in ("hfds/owner/name", "HFDS/owner/name", "wds/name", "tfds/name"):
        named = new_record(replace(spec, data=replace(spec.data, name=name)), "")
        with pytest.raises(SpecError, match=f"data={name}: only images of the package's datasets and of folders"):
            read_thumbnails(named, [0], 10, own_images=True)


def test_the_command_takes_the_folder_of_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_image_folder(tmp_path / "images", {"a": 3, "b": 3})
    for step, right in (("baseline", 2), ("gelu", 4)):
        run = write_run(tmp_path, 100 * right / 6, f"+step={step}", "data=folder", f"data.root={folder}")
        np.save(run_folder(run) / "correct.npy", np.arange(6) < right)
    page = tmp_path / "report" / "index.html"
    words = ("report", "runs", "--to=report")

    def num_pictures() -> int:
        return page.read_text("utf-8").count("data:image/webp")

    by_default = call_main(*words)
    hint = "the page has no pictures of images: data=folder: images of a folder are shown with roadmap report STUDY"
    assert by_default.code == 0 and hint in by_default.out and num_pictures() == 0
    assert call_main(*words, "--pictures").code == 0 and num_pictures() == 2
    without = call_main(*words, "--no-pictures")
    assert without.code == 0 and "pictures" not in without.out and num_pictures() == 0
    folder.rename(tmp_path / "moved")
    before = page.read_bytes()
    for more, message in (
        (("--pictures",), f"data.root={folder}: "),
        (("--data-root=away",), "--data-root=away: no such folder; give the folder of the dataset"),
        (("--data-root=moved", "--no-pictures"), "--data-root=moved: has no effect with --no-pictures"),
        (("other", "--pictures"), "--pictures, --data-root: a comparison of two studies has no pictures"),
    ):
        refused = call_main(*words, *more)
        assert refused.code == 2 and refused.err.startswith(f"error: {message}"), refused
        assert refused.err.count("\n") == 1 and page.read_bytes() == before
    assert call_main(*words, "--data-root=moved").code == 0 and num_pictures() == 2
