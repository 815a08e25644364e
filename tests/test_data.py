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

from roadmap.config import compose
from roadmap.data import catalogue, datasets
from roadmap.data.loading import TrainLoader, eval_loader
from roadmap.spec import DataSpec, RunSpec, SpecError
from tests.test_config import images_below


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
    for images, labels in catalogue.FASHION_FILES.values():
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


@pytest.mark.parametrize("damage", [b"", b"no gzip", gzip.compress(b"\0\0\7\1\0\0\0\1a"), gzip.compress(b"\0\0\10\3")])
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
        catalogue.fetch(spec.data)
    assert list(tmp_path.iterdir()) == []


def loaded(spec: RunSpec, epoch: int, workers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    train, _ = datasets.load(spec.data, spec.budget)
    return [(x.clone(), y.clone()) for x, y in TrainLoader(train, spec, 32, workers).epoch(epoch)]


def test_every_draw_is_a_function_of_seed_and_epoch() -> None:
    """Not of the number of workers, of what was drawn before, or of PyTorch's own generator."""
    words = ("+step=gelu", "budget=smoke", "budget.regularization=1")
    spec = compose(*words)
    first = loaded(spec, 3, workers=0)
    torch.rand(7)
    for other in (loaded(spec, 3, workers=2), loaded(spec, 3, workers=0)):
        assert len(first) == len(other) == 4
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, other, strict=True))
    for different in (loaded(spec, 4, workers=0), loaded(compose(*words, "seed=1"), 3, workers=0)):
        assert not torch.equal(first[0][0], different[0][0])


def test_one_epoch_is_every_image_once() -> None:
    spec = compose("+step=baseline", "budget=smoke", "data.crop_padding=0")
    train, _ = datasets.load(spec.data, spec.budget)
    seen = torch.cat([x for x, _ in TrainLoader(train, spec, 32, 0).epoch(0)])
    known = torch.stack([torch.from_numpy(np.asarray(image)[None].copy()) for image, _ in train])  # type: ignore[attr-defined]
    assert seen.dtype == torch.uint8 and seen.shape == (128, 1, 8, 8)
    assert sorted(map(bytes, seen.numpy())) == sorted(map(bytes, known.numpy()))


def test_augmentation_changes_images_and_the_test_set_stays() -> None:
    spec = compose("+step=gelu", "budget=smoke", "budget.regularization=1")
    _, test = datasets.load(spec.data, spec.budget)
    plain = torch.cat([x for x, _ in eval_loader(test, spec, 10, 0)])
    assert plain.shape == (64, 1, 8, 8)
    assert torch.equal(plain, torch.cat([x for x, _ in eval_loader(test, spec, 64, 2)]))
    one, other = (sorted(map(bytes, torch.cat([x for x, _ in loaded(spec, epoch, 0)]).numpy())) for epoch in (0, 1))
    assert one != other


@pytest.mark.parametrize("chans", [1, 3])
@pytest.mark.parametrize("step", ["baseline", "gelu"])
def test_large_images_stream_from_folders_in_colour_and_grey(tmp_path: Path, step: str, chans: int) -> None:
    images_below(tmp_path, {"a": 6, "b": 5})
    words = (f"data.root={tmp_path}", "data.image_size=32", f"data.in_chans={chans}")
    spec = compose(f"+step={step}", "data=folder", *words)
    train, test = datasets.load(spec.data, spec.budget)
    (images, labels), *rest = TrainLoader(train, spec, 10, 1).epoch(0)
    assert images.shape == (10, chans, 32, 32) and images.dtype == torch.uint8 and not rest
    assert set(labels.tolist()) == {0, 1}
    assert sum(len(x) for x, _ in eval_loader(test, spec, 4, 0)) == 11


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
    loader = TrainLoader(train, spec, 8, workers)
    assert loader.steps_per_epoch == steps
    for epoch in range(2):
        batches = list(loader.epoch(epoch))
        assert [len(x) for x, _ in batches] == [8] * steps and batches[0][0].shape[1:] == (3, 32, 32)
    labels = torch.cat([y for _, y in eval_loader(test, spec, 10, workers)])
    assert sorted(labels.tolist()) == [0] * 12 + [1] * 12


def test_timms_torch_datasets_by_name(tmp_path: Path) -> None:
    words = ("data=timm", "data.name=torch/image_folder", "data.num_classes=2", "data.test_split=val")
    spec = compose("+step=gelu", *words, f"data.root={images_below(tmp_path, {'a': 2, 'b': 3})}")
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


def test_default_root_is_below_the_working_folder() -> None:
    assert compose("data=cifar10").data.root == str(Path("data") / "cifar10")
    assert isinstance(compose("data=digits").data, DataSpec)
