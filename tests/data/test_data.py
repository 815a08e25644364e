"""Datasets and loaders: what they hold, and that every draw depends on its address alone."""

from __future__ import annotations

import gzip
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
from roadmap.config.datasets import FASHION_FILES
from roadmap.config.schema import DataSpec, RunSpec, SpecError
from roadmap.data import datasets
from roadmap.data.datasets import ImageArray
from roadmap.data.download import download_if_absent
from roadmap.data.images import BadImageError, Batch, path_of
from roadmap.data.loaders import eval_loader, train_loader
from roadmap.data.sampling import BatchSplit
from roadmap.runtime.world import World
from roadmap.training import recipe
from roadmap.training.recipe import BatchAugment
from tests.helpers import make_image_folder


def test_digits_are_split_once_and_for_all() -> None:
    train, test = datasets.digits()
    assert (len(train), len(test)) == (1437, 360)  # type: ignore[arg-type]
    counts = [np.bincount(part.targets, minlength=10) / len(part) for part in (train, test)]  # type: ignore[attr-defined, arg-type]
    assert np.abs(counts[0] - counts[1]).max() < 0.005
    again = datasets.digits()
    assert np.array_equal(test.images, again.test.images)  # type: ignore[attr-defined]
    image, label = test[0]
    assert image.size == (8, 8) and image.mode == "L" and 0 <= label < 10
    assert train.images.max() == 255 and train.images.min() == 0  # type: ignore[attr-defined]


def test_presets_say_the_mean_and_deviation_of_their_images() -> None:
    data = compose("data=digits").data
    images = datasets.digits().train.images / 255  # type: ignore[attr-defined]
    assert (data.mean[0], data.std[0]) == pytest.approx((images.mean(), images.std()), abs=1e-3)


def test_fashion_mnist(fashion: Path) -> None:
    spec = compose("data=fashion_mnist", f"data.root={fashion}")
    train, test = datasets.load(spec.data, spec.budget)
    assert (len(train), len(test)) == (60_000, 10_000)  # type: ignore[arg-type]
    image, label = train[0]
    assert image.size == (32, 32) and image.mode == "L" and label == 9  # an ankle boot
    inside = train.images[:, 2:-2, 2:-2] / 255  # type: ignore[attr-defined]
    assert (spec.data.mean[0], spec.data.std[0]) == pytest.approx((inside.mean(), inside.std()), abs=1e-3)


def idx_files(folder: Path, count: int = 40) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for images, labels in FASHION_FILES.values():
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        classes: np.ndarray = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((images, pixels), (labels, classes)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_mnist_where_torchvision_puts_it_and_unzipped(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    idx_files(raw)
    for path in raw.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    spec = compose("data=fashion_mnist", f"data.root={tmp_path}")
    train, _ = datasets.load(spec.data, spec.budget)
    assert len(train) == 40  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage",
    [b"", b"no gzip", gzip.compress(b"\0\0\7\1\0\0\0\1a", mtime=0), gzip.compress(b"\0\0\10\3", mtime=0)],
    ids=["empty", "no gzip", "no idx", "cut off"],
)
def test_damaged_idx_files_are_named(tmp_path: Path, damage: bytes) -> None:
    idx_files(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(damage)
    spec = compose("data=fashion_mnist", f"data.root={tmp_path}")
    with pytest.raises(SpecError, match="t10k-labels-idx1-ubyte is not a readable idx file"):
        datasets.load(spec.data, spec.budget)


def test_a_failed_download_says_what_to_put_where_and_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    import torchvision.datasets

    def fail(root: str, **_: Any) -> None:
        (Path(root) / "half").mkdir(parents=True)
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    spec = compose("data=cifar10", f"data.root={tmp_path / 'new'}")
    with pytest.raises(
        SpecError, match="download failed .no route.; put the unpacked folder cifar-10-batches-py there"
    ):
        download_if_absent(spec.data)
    assert list(tmp_path.iterdir()) == []


CPU = torch.device("cpu")


def loaded(spec: RunSpec, epoch: int, workers: int = 0, start: int = 0, size: int = 32) -> list[Batch]:
    train, _ = datasets.load(spec.data, spec.budget)
    return list(train_loader(train, spec, BatchSplit(size), workers, CPU).epoch(epoch, start))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(x, y) for a, b in zip(one, other, strict=True) for x, y in zip(a[:4], b[:4], strict=True)
    )


@pytest.mark.parametrize("small", [True, False], ids=["memory", "workers"])
def test_every_draw_is_a_function_of_seed_and_epoch(small: bool) -> None:
    """Not of the number of workers, of what was drawn before, of PyTorch's own generator, or of where one begins."""
    words = ("+step=gelu", "budget=smoke", "budget.regularization=1", f"data.small_images={small}")
    spec = compose(*words)
    first = loaded(spec, 3)
    assert len(first) == 4
    torch.rand(7)
    assert same(first, loaded(spec, 3, workers=2)) and same(first, loaded(spec, 3))
    assert same(first[2:], loaded(spec, 3, workers=2, start=2)) and same([], loaded(spec, 3, start=4))
    for different in (loaded(spec, 4), loaded(compose(*words, "seed=1"), 3)):
        assert not torch.equal(first[0].images, different[0].images)


def test_one_epoch_is_every_image_once() -> None:
    spec = compose("+step=baseline", "budget=smoke")
    train, _ = datasets.load(spec.data, spec.budget)
    seen = torch.cat([batch.images for batch in loaded(spec, 0)])
    known = torch.stack([torch.from_numpy(np.asarray(image)[None].copy()) for image, _ in train])  # type: ignore[attr-defined]
    assert seen.dtype == torch.uint8 and seen.shape == (128, 1, 8, 8)
    assert sorted(map(bytes, seen.numpy())) == sorted(map(bytes, known.numpy()))


@pytest.mark.parametrize(("processes", "parts"), [(2, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("small", [True, False], ids=["memory", "workers"])
def test_processes_and_parts_share_a_batch(processes: int, parts: int, small: bool) -> None:
    """Together they hold each image of the batch once, and each holds whole pairs of Mixup."""
    spec = compose("+step=gelu", "budget=smoke", "budget.regularization=1", f"data.small_images={small}")
    train, _ = datasets.load(spec.data, spec.budget)
    (whole, *_) = loaded(spec, 2)
    images = dict(zip(whole.indices.tolist(), whole.images, strict=True))
    places = dict(zip(whole.positions.tolist(), whole.indices.tolist(), strict=True))
    seen: list[int] = []
    for rank in range(processes):
        loader = train_loader(train, spec, BatchSplit(32, World(rank, processes), parts), 0, CPU)
        for _, part in zip(range(parts), loader.epoch(2), strict=False):
            assert (part.positions + part.positions.flip(0) == 31).all()
            for image, index, place in zip(part.images, part.indices.tolist(), part.positions.tolist(), strict=True):
                assert torch.equal(image, images[index]) and places[place] == index
                seen.append(place)
    assert sorted(seen) == list(range(32))


def test_images_in_memory_are_brought_to_size_once() -> None:
    for words, shape in ((("data.image_size=16",), (1, 16, 16)), (("data.in_chans=3",), (3, 8, 8))):
        spec = compose("+step=baseline", "budget=smoke", *words)
        (batch, *_) = loaded(spec, 0)
        assert batch.images.shape == (32, *shape)


def test_cifars_images_live_in_memory(monkeypatch: Any) -> None:
    import torchvision.datasets

    class Fake:
        def __init__(self, root: str, train: bool) -> None:
            self.data: np.ndarray = np.full((20, 32, 32, 3), 7 + train, dtype=np.uint8)
            self.targets = [0, 1] * 10

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fake)
    monkeypatch.setattr(datasets, "download_if_absent", lambda data: None)
    train, test = datasets.load(compose("data=cifar10").data, compose("data=cifar10").budget)
    assert isinstance(train, datasets.ImageArray) and train.images.max() == 8
    assert isinstance(test, datasets.ImageArray) and test.images.max() == 7


def test_augmentation_changes_images_and_the_test_set_stays() -> None:
    words = ("+step=gelu", "budget=smoke", "budget.regularization=1")
    spec = compose(*words)
    _, test = datasets.load(spec.data, spec.budget)
    plain = torch.cat([batch.images for batch in eval_loader(test, spec, 10, 0, CPU)])
    assert plain.shape == (64, 1, 8, 8)
    slow = compose(*words, "data.small_images=false", "recipe.test_crop=1")
    assert torch.equal(plain, torch.cat([batch.images for batch in eval_loader(test, slow, 64, 2, CPU)]))
    shares = [eval_loader(test, spec, 10, 0, CPU, World(rank, 3)) for rank in range(3)]
    assert sorted(i for share in shares for batch in share for i in batch.indices.tolist()) == list(range(64))
    augment = BatchAugment(spec, CPU, whole=True)
    one, other = (next(augment.ahead(iter(loaded(spec, 0)), epoch)).images for epoch in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("at_once", [1, 40, 2048])
def test_augmenting_batches_at_once_changes_nothing(at_once: int, monkeypatch: Any) -> None:
    spec = compose("+step=gelu", "budget=smoke", "budget.regularization=1")
    augment, batches = BatchAugment(spec, CPU, whole=True), loaded(spec, 5)
    alone = [next(augment.ahead(iter([batch]), 5)) for batch in batches]
    monkeypatch.setattr(recipe, "CHUNK_IMAGES", at_once)
    assert same(list(augment.ahead(iter(batches), 5)), alone)
    assert same(list(BatchAugment(spec, CPU).ahead(iter(batches), 5)), batches)  # where workers did it


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_or_left_out_and_told(tmp_path: Path, workers: int) -> None:
    make_image_folder(tmp_path, {"a": 6, "b": 6})
    bad = tmp_path / "train" / "a" / "3.png"
    for content in (b"no image", bad.read_bytes()[:200]):
        bad.write_bytes(content)
        words = ("+step=gelu", "data=folder", f"data.root={tmp_path}", "data.image_size=32")
        with pytest.raises(BadImageError, match=f"{bad}: .*; mend or remove it, or .* data.on_error=skip"):
            loaded(compose(*words), 0, workers, size=12)
        (batch,) = loaded(compose(*words, "data.on_error=skip"), 0, workers, size=12)
        assert len(batch.images) == len(batch.labels) == 11
        assert len(batch.unreadable) == 1 and batch.unreadable[0].startswith(f"{bad}: ")


@pytest.mark.parametrize("chans", [1, 3])
@pytest.mark.parametrize("step", ["baseline", "gelu"])
def test_large_images_stream_from_folders_in_colour_and_grey(tmp_path: Path, step: str, chans: int) -> None:
    make_image_folder(tmp_path, {"a": 6, "b": 5})
    words = (f"data.root={tmp_path}", "data.image_size=32", f"data.in_chans={chans}")
    spec = compose(f"+step={step}", "data=folder", *words)
    train, test = datasets.load(spec.data, spec.budget)
    (batch,) = train_loader(train, spec, BatchSplit(10), 1, CPU).epoch(0)
    assert batch.images.shape == (10, chans, 32, 32) and batch.images.dtype == torch.uint8
    assert set(batch.labels.tolist()) == {0, 1}
    assert sum(len(batch.labels) for batch in eval_loader(test, spec, 4, 0, CPU)) == 11


def shards(folder: Path, num_shards: int, count: int = 24) -> Path:
    """A webdataset of two classes: `num_shards` shards for each split, and the index that timm reads."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    info: dict[str, Any] = {}
    for split in ("train", "validation"):
        names = [f"{split}-{i:04}.tar" for i in range(num_shards)]
        for k, name in enumerate(names):
            with tarfile.open(folder / name, "w") as tar:
                for i in range(k, count, num_shards):
                    picture = io.BytesIO()
                    Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(picture, "PNG")
                    for ending, content in (("png", picture.getvalue()), ("cls", str(i % 2).encode())):
                        member = tarfile.TarInfo(f"{i:04}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
        lengths = [count // num_shards] * num_shards
        info[split] = {"name": split, "filenames": names, "shard_lengths": lengths, "num_samples": count}
    (folder / "_info.json").write_text(json.dumps({"splits": info}))
    return folder


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its shards open
@pytest.mark.parametrize(("num_shards", "workers", "steps"), [(1, 0, 3), (1, 2, 3), (2, 2, 2)])
def test_timms_webdatasets(tmp_path: Path, num_shards: int, workers: int, steps: int) -> None:
    """Each worker reads its own shards and drops what is left of them; a worker without a shard is not started."""
    pytest.importorskip("webdataset")
    root = shards(tmp_path / "shards", num_shards)
    words = ("data=timm", "data.name=wds/shards", f"data.root={root}", "data.num_classes=2", "data.image_size=32")
    spec = compose("+step=gelu", *words)
    train, test = datasets.load(spec.data, spec.budget)
    loader = train_loader(train, spec, BatchSplit(8), workers, CPU)
    assert loader.steps_per_epoch == steps
    for epoch in range(2):
        batches = list(loader.epoch(epoch))
        assert [len(batch.labels) for batch in batches] == [8] * steps and batches[0].images.shape[1:] == (3, 32, 32)
        assert [len(batch.labels) for batch in loader.epoch(epoch, 1)] == [8] * (steps - 1)
    labels = torch.cat([batch.labels for batch in eval_loader(test, spec, 10, workers, CPU)])
    assert sorted(labels.tolist()) == [0] * 12 + [1] * 12


def test_timms_torch_datasets_by_name(tmp_path: Path) -> None:
    words = ("data=timm", "data.name=torch/image_folder", "data.num_classes=2", "data.test_split=val")
    spec = compose("+step=gelu", *words, f"data.root={make_image_folder(tmp_path, {'a': 2, 'b': 3})}")
    train, test = datasets.load(spec.data, spec.budget)
    assert (len(train), len(test)) == (5, 5)  # type: ignore[arg-type]


def test_datasets_that_timm_cannot_open_are_named(tmp_path: Path) -> None:
    spec = compose("data=timm", "data.name=hfds/none/none", "data.num_classes=2")
    with pytest.raises(SpecError, match="data.name=hfds/none/none: .*"):
        datasets.load(spec.data, spec.budget)


def test_a_cut_keeps_the_classes_even() -> None:
    spec = compose("budget.train_images=100", "budget.test_images=50")
    train, test = datasets.load(spec.data, spec.budget)
    labels = [label for _, label in train]  # type: ignore[attr-defined]
    assert len(labels) == 100 and np.bincount(labels).min() >= 9 and np.bincount(labels).max() <= 11
    assert len(test) == 50  # type: ignore[arg-type]


def test_a_holdout_is_training_images_that_are_not_trained_on() -> None:
    whole = datasets.load(compose().data, compose().budget)
    train, held = datasets.load(compose("data.holdout=200").data, compose().budget)
    assert isinstance(train, ImageArray) and isinstance(held, ImageArray) and isinstance(whole.train, ImageArray)
    assert (len(train), len(held)) == (1237, 200)
    together = np.concatenate([train.images, held.images])
    assert sorted(map(bytes, together)) == sorted(map(bytes, whole.train.images))
    assert set(np.bincount(held.targets)) <= {19, 20, 21}
    smaller = compose("data.holdout=200", "budget.train_images=100", "budget.test_images=50")
    assert [len(part) for part in datasets.load(smaller.data, smaller.budget)] == [100, 50]  # type: ignore[arg-type]
    for count, message in ((1437, "leaves no image to train on"), (1438, "there are only 1437")):
        with pytest.raises(SpecError, match=f"data.holdout={count}: {message}"):
            datasets.load(compose(f"data.holdout={count}").data, smaller.budget)


def test_a_holdout_of_a_folder_keeps_its_classes_and_names(tmp_path: Path) -> None:
    words = ("data=folder", "data.image_size=32", f"data.root={make_image_folder(tmp_path, {'a': 8, 'b': 4})}")
    spec = compose("+step=gelu", *words, "data.holdout=6")
    train, held = datasets.load(spec.data, spec.budget)
    for part in (train, held):
        assert sorted(label for _, label in part) == [0, 0, 0, 0, 1, 1]  # type: ignore[attr-defined]
    names = [[path_of(part, i) for i in range(6)] for part in (train, held)]
    assert len(set(names[0] + names[1])) == 12 and all("train" in name for name in names[1])


def test_default_root_is_below_the_working_folder() -> None:
    assert compose("data=cifar10").data.root == str(Path("data") / "cifar10")
    assert isinstance(compose("data=digits").data, DataSpec)
