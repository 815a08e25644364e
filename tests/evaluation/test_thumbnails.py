"""Pictures of test images for the page of a study."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roadmap.config.compose import compose
from roadmap.config.schema import RunSpec, SpecError
from roadmap.data.datasets import load
from roadmap.evaluation.thumbnails import SIDE, read_thumbnails
from roadmap.records.record import new_record
from tests.helpers import call_main, make_image_folder, make_study


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


def test_large_images_are_reduced_and_unreadable_ones_left_out(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path, {"cat": 2, "<dog>": 2}, size=100)
    (folder / "val" / "cat" / "0.png").write_bytes(b"damaged")
    _, record = record_of("data=folder", f"data.root={folder}")
    found = read_thumbnails(record, [0, 1, 2, 3], 4)
    assert [name for _, name in found] == ["<dog>", "<dog>", "", "cat"] and found[2][0] == ""
    assert decode(found[0][0]).size == (SIDE, SIDE)


def test_images_that_are_not_there_are_refused(tmp_path: Path) -> None:
    _, record = record_of("data=fashion_mnist", f"data.root={tmp_path / 'absent'}")
    with pytest.raises(SpecError, match=r"data.root=.*absent: the images are not there; needed: .*idx3-ubyte"):
        read_thumbnails(record, [0], 10_000)
    assert not (tmp_path / "absent").exists(), "nothing is downloaded"
    spec, record = record_of()
    with pytest.raises(SpecError, match="has 360 test images, the runs were evaluated on 359"):
        read_thumbnails(record, [0], 359)
    named = new_record(replace(spec, data=replace(spec.data, name="hfds/owner/name")), "")
    with pytest.raises(SpecError, match="data=hfds/owner/name: images of the Hugging Face hub are not shown"):
        read_thumbnails(named, [0], 10)


def test_the_command_takes_the_folder_of_the_images(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    absent = call_main("report", str(study), "--to", str(tmp_path / "report"), f"--data-root={tmp_path / 'absent'}")
    assert absent.code == 2 and absent.err == (
        f"error: --data-root={tmp_path / 'absent'}: no such folder; give the folder of the dataset\n"
    )
    assert not (tmp_path / "report").exists()
    reason = "the page has no pictures of test images: data.root=None: has 360 test images"
    with_them = call_main("report", str(study), "--to", str(tmp_path / "report"))
    without = call_main("report", str(study), "--to", str(tmp_path / "report"), "--no-pictures")
    assert with_them.code == without.code == 0
    assert reason in with_them.out and "pictures" not in without.out
