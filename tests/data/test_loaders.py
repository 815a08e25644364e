"""Loaders: every image once per epoch, draws that depend only on their address, and streamed datasets."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roadmap.config.compose import compose
from roadmap.config.schema import DataSpec, SpecError
from roadmap.data import datasets
from roadmap.data.loaders import eval_loader, num_workers, train_loader
from roadmap.data.sampling import BatchSplit
from roadmap.runtime.world import World
from tests.data.batches import CPU, same_batches, train_batches
from tests.helpers import make_image_folder


@pytest.mark.parametrize("small", [True, False], ids=["memory", "workers"])
def test_every_draw_is_a_function_of_seed_and_epoch(small: bool) -> None:
    """Draws do not depend on the number of workers, earlier draws, PyTorch's generator, or the first iteration."""
    overrides = ("+step=gelu", "budget=smoke", "budget.regularization=1", f"data.small_images={small}")
    spec = compose(*overrides)
    batches = train_batches(spec, 3)
    assert len(batches) == 4
    torch.rand(7)
    assert same_batches(batches, train_batches(spec, 3, workers=2))
    assert same_batches(batches, train_batches(spec, 3))
    assert same_batches(batches[2:], train_batches(spec, 3, workers=2, start=2))
    assert same_batches([], train_batches(spec, 3, start=4))
    for different in (train_batches(spec, 4), train_batches(compose(*overrides, "seed=1"), 3)):
        assert not torch.equal(batches[0].images, different[0].images)


def test_an_epoch_has_every_image_once() -> None:
    spec = compose("+step=baseline", "budget=smoke")
    train, _ = datasets.load(spec.data, spec.budget)
    seen = torch.cat([batch.images for batch in train_batches(spec, 0)])
    expected = torch.stack([torch.from_numpy(np.asarray(image)[None].copy()) for image, _ in train])  # type: ignore[attr-defined]
    assert seen.dtype == torch.uint8 and seen.shape == (128, 1, 8, 8)
    assert sorted(map(bytes, seen.numpy())) == sorted(map(bytes, expected.numpy()))


def test_images_in_memory_are_resized_once() -> None:
    for override, shape in (("data.image_size=16", (1, 16, 16)), ("data.in_chans=3", (3, 8, 8))):
        spec = compose("+step=baseline", "budget=smoke", override)
        (batch, *_) = train_batches(spec, 0)
        assert batch.images.shape == (32, *shape)


def test_the_test_set_is_not_augmented_and_shared_by_processes() -> None:
    overrides = ("+step=gelu", "budget=smoke", "budget.regularization=1")
    spec = compose(*overrides)
    _, test = datasets.load(spec.data, spec.budget)
    images = torch.cat([batch.images for batch in eval_loader(test, spec, 10, 0, CPU)])
    assert images.shape == (64, 1, 8, 8)
    workers = compose(*overrides, "data.small_images=false", "recipe.test_crop=1")
    assert torch.equal(images, torch.cat([batch.images for batch in eval_loader(test, workers, 64, 2, CPU)]))
    shares = [eval_loader(test, spec, 10, 0, CPU, World(rank, 3)) for rank in range(3)]
    assert sorted(i for share in shares for batch in share for i in batch.indices.tolist()) == list(range(64))


@pytest.mark.parametrize("chans", [1, 3])
@pytest.mark.parametrize("step", ["baseline", "gelu"])
def test_large_images_stream_from_folders_in_colour_and_grey(tmp_path: Path, step: str, chans: int) -> None:
    make_image_folder(tmp_path, {"a": 6, "b": 5})
    overrides = (f"data.root={tmp_path}", "data.image_size=32", f"data.in_chans={chans}")
    spec = compose(f"+step={step}", "data=folder", *overrides)
    train, test = datasets.load(spec.data, spec.budget)
    (batch,) = train_loader(train, spec, BatchSplit(10), 1, CPU).epoch(0)
    assert batch.images.shape == (10, chans, 32, 32) and batch.images.dtype == torch.uint8
    assert set(batch.labels.tolist()) == {0, 1}
    assert sum(len(batch.labels) for batch in eval_loader(test, spec, 4, 0, CPU)) == 11


def write_shards(folder: Path, num_shards: int, count: int = 24) -> Path:
    """Write a webdataset of two classes: `num_shards` shards for each split, and the index that timm reads."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    splits: dict[str, Any] = {}
    for split in ("train", "validation"):
        names = [f"{split}-{i:04}.tar" for i in range(num_shards)]
        for k, name in enumerate(names):
            with tarfile.open(folder / name, "w") as tar:
                for i in range(k, count, num_shards):
                    image = io.BytesIO()
                    Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(image, "PNG")
                    for ending, content in (("png", image.getvalue()), ("cls", str(i % 2).encode())):
                        member = tarfile.TarInfo(f"{i:04}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
        lengths = [count // num_shards] * num_shards
        splits[split] = {"name": split, "filenames": names, "shard_lengths": lengths, "num_samples": count}
    (folder / "_info.json").write_text(json.dumps({"splits": splits}))
    return folder


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its shards open
@pytest.mark.parametrize(("num_shards", "workers", "iterations"), [(1, 0, 3), (1, 2, 3), (2, 2, 2)])
def test_webdatasets_of_timm(tmp_path: Path, num_shards: int, workers: int, iterations: int) -> None:
    """Each worker reads its own shards and drops its last incomplete batch; a worker without a shard is not started."""
    pytest.importorskip("webdataset")
    root = write_shards(tmp_path / "shards", num_shards)
    overrides = ("data=timm", "data.name=wds/shards", f"data.root={root}", "data.num_classes=2", "data.image_size=32")
    spec = compose("+step=gelu", *overrides)
    train, test = datasets.load(spec.data, spec.budget)
    loader = train_loader(train, spec, BatchSplit(8), workers, CPU)
    assert loader.iterations_per_epoch == iterations
    for epoch in range(2):
        batches = list(loader.epoch(epoch))
        assert [len(batch.labels) for batch in batches] == [8] * iterations
        assert batches[0].images.shape[1:] == (3, 32, 32)
        assert [len(batch.labels) for batch in loader.epoch(epoch, 1)] == [8] * (iterations - 1)
    labels = torch.cat([batch.labels for batch in eval_loader(test, spec, 10, workers, CPU)])
    assert sorted(labels.tolist()) == [0] * 12 + [1] * 12
    with pytest.raises(SpecError, match="data.name=wds/shards: a streamed dataset trains in one process and in one"):
        train_loader(train, spec, BatchSplit(8, accumulate=2), workers, CPU)


def test_the_number_of_workers_depends_on_device_image_size_and_cores() -> None:
    small, large, fixed = DataSpec(small_images=True), DataSpec(), DataSpec(workers=3)
    assert [num_workers(data, "cpu", 8) for data in (small, large, fixed)] == [0, 4, 3]
    assert [num_workers(data, "cuda", 8) for data in (small, large, fixed)] == [7, 7, 3]
    assert num_workers(large, "cuda", 2) == 1 and num_workers(large, "cpu", 1) == 1
    assert num_workers(large, "cuda", 64) == 12


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
def test_an_evaluation_has_few_workers_that_end_with_it() -> None:
    spec = compose("+step=baseline", "data=digits", "data.small_images=false")
    test = datasets.load(spec.data, spec.budget).test
    loader = eval_loader(test, spec, 10, 9, CPU)
    assert loader.num_workers == 4 and not loader.persistent_workers
    assert eval_loader(test, spec, 10, 2, CPU).num_workers == 2
