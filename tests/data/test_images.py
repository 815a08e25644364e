"""Reading of single images: an unreadable one is named, and ends the run or is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadmap.config.compose import compose
from roadmap.data.images import BadImageError
from tests.data.batches import train_batches
from tests.helpers import make_image_folder


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_or_left_out(tmp_path: Path, workers: int) -> None:
    make_image_folder(tmp_path, {"a": 6, "b": 6})
    broken = tmp_path / "train" / "a" / "3.png"
    for content in (b"no image", broken.read_bytes()[:200]):
        broken.write_bytes(content)
        overrides = ("+step=gelu", "data=folder", f"data.root={tmp_path}", "data.image_size=32")
        message = f"{broken}: .*; repair or remove it, or skip unreadable images with data.on_error=skip"
        with pytest.raises(BadImageError, match=message):
            train_batches(compose(*overrides), 0, workers, size=12)
        (batch,) = train_batches(compose(*overrides, "data.on_error=skip"), 0, workers, size=12)
        assert len(batch.images) == len(batch.labels) == 11
        assert len(batch.unreadable) == 1 and batch.unreadable[0].startswith(f"{broken}: ")


def test_a_batch_without_a_readable_image_ends_the_run(tmp_path: Path) -> None:
    make_image_folder(tmp_path, {"a": 1, "b": 1})
    for path in tmp_path.glob("train/*/*.png"):
        path.write_bytes(b"no image")
    overrides = ("+step=gelu", "data=folder", f"data.root={tmp_path}", "data.image_size=32", "data.on_error=skip")
    with pytest.raises(BadImageError, match="no image of a batch could be read; the first is "):
        train_batches(compose(*overrides), 0, size=2)
