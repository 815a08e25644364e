"""Reading of datasets: splits, sizes, classes, damaged files, and subsets of a dataset."""

from __future__ import annotations

import gzip
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from roadmap.config.compose import compose
from roadmap.config.datasets import FASHION_MNIST_FILES, KNOWN_DATASETS, KnownDataset, Source, class_names
from roadmap.config.schema import BudgetSpec, DataSpec, SpecError
from roadmap.data import datasets
from roadmap.data.datasets import ImageArray, Splits
from roadmap.data.images import path_of
from tests.helpers import make_image_folder


def load(*overrides: str) -> Splits:
    spec = compose(*overrides)
    return datasets.load(spec.data, spec.budget)


def load_arrays(*overrides: str) -> tuple[ImageArray, ImageArray]:
    train, test = load(*overrides)
    assert isinstance(train, ImageArray) and isinstance(test, ImageArray)
    return train, test


def test_digits_have_one_fixed_stratified_split() -> None:
    train, test = load_arrays()
    assert (len(train), len(test)) == (1437, 360)
    shares = [np.bincount(part.targets, minlength=10) / len(part) for part in (train, test)]
    assert np.abs(shares[0] - shares[1]).max() < 0.005
    assert np.array_equal(test.images, load_arrays()[1].images)
    image, label = test[0]
    assert image.size == (8, 8) and image.mode == "L" and 0 <= label < 10
    assert train.images.max() == 255 and train.images.min() == 0


def test_presets_have_the_mean_and_deviation_of_their_images() -> None:
    data = compose("data=digits").data
    images = load_arrays()[0].images / 255
    assert (data.mean[0], data.std[0]) == pytest.approx((images.mean(), images.std()), abs=1e-3)


def test_fashion_mnist(fashion: Path) -> None:
    overrides = ("data=fashion_mnist", f"data.root={fashion}")
    train, test = load_arrays(*overrides)
    assert (len(train), len(test)) == (60_000, 10_000)
    image, label = train[0]
    assert image.size == (32, 32) and image.mode == "L" and label == 9  # an ankle boot
    inside = train.images[:, 2:-2, 2:-2] / 255
    data = compose(*overrides).data
    assert (data.mean[0], data.std[0]) == pytest.approx((inside.mean(), inside.std()), abs=1e-3)


def write_idx_files(folder: Path, count: int = 40) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for images, labels in FASHION_MNIST_FILES.values():
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        classes: np.ndarray = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((images, pixels), (labels, classes)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_mnist_is_found_in_torchvisions_folder_and_uncompressed(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    write_idx_files(raw)
    for path in raw.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    train, _ = load_arrays("data=fashion_mnist", f"data.root={tmp_path}")
    assert len(train) == 40


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"no gzip",
        gzip.compress(b"\0\0\7\1\0\0\0\1a", mtime=0),
        gzip.compress(b"\0\0\10\3", mtime=0),
        gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20,
    ],
    ids=["empty", "no gzip", "no idx", "cut off", "flipped bytes"],
)
def test_damaged_idx_files_are_named(tmp_path: Path, damage: bytes) -> None:
    write_idx_files(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(damage)
    with pytest.raises(SpecError, match=r"t10k-labels-idx1-ubyte is not a readable idx file .*; replace it"):
        load("data=fashion_mnist", f"data.root={tmp_path}")


@pytest.mark.parametrize(
    ("kind", "array", "message"),
    [
        ("labels", np.zeros(39), "do not contain 28x28 images and their labels; replace them"),
        ("labels", np.zeros((40, 1)), "do not contain 28x28 images and their labels; replace them"),
        ("labels", np.full(40, 200), "has labels up to 200, but fashion_mnist has 10 classes; replace the files"),
        ("images", np.zeros((40, 28, 29)), "do not contain 28x28 images and their labels; replace them"),
        ("images", np.zeros(40), "do not contain 28x28 images and their labels; replace them"),
    ],
)
def test_idx_files_with_other_content_give_a_one_line_error(
    tmp_path: Path, kind: str, array: np.ndarray, message: str
) -> None:
    write_idx_files(tmp_path)
    (path,) = tmp_path.glob(f"t10k-{kind}*")
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    with pytest.raises(SpecError) as caught:
        load("data=fashion_mnist", f"data.root={tmp_path}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_idx_files_without_images_give_a_one_line_error(tmp_path: Path) -> None:
    write_idx_files(tmp_path, count=0)
    with pytest.raises(SpecError, match="fashion_mnist has no training images; replace the files"):
        load("data=fashion_mnist", f"data.root={tmp_path}")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenette"])
def test_damaged_files_of_torchvision_give_a_one_line_error(tmp_path: Path, name: str) -> None:
    (tmp_path / KNOWN_DATASETS[name].files_in_root[0]).mkdir()
    with pytest.raises(SpecError) as caught:
        load(f"data={name}", f"data.root={tmp_path}")
    text = str(caught.value)
    assert f": {name} cannot be read (" in text and text.endswith("delete its files and download it again")
    assert "\n" not in text


def test_classes_have_the_names_of_torchvision() -> None:
    import torchvision.datasets

    for name in ("fashion_mnist", "imagenette", "cifar10", "cifar100", "digits"):
        assert len(KNOWN_DATASETS[name].classes) == KNOWN_DATASETS[name].num_classes, name
    assert list(KNOWN_DATASETS["fashion_mnist"].classes) == torchvision.datasets.FashionMNIST.classes
    imagenette = torchvision.datasets.Imagenette._WNID_TO_CLASS
    assert list(KNOWN_DATASETS["imagenette"].classes) == [imagenette[wnid][0] for wnid in sorted(imagenette)]
    assert list(KNOWN_DATASETS["cifar100"].classes) == sorted(KNOWN_DATASETS["cifar100"].classes)


def test_classes_of_a_folder_have_the_names_of_its_folders(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path, {"dog": 1, "cat": 1})
    assert class_names(compose("data=folder", f"data.root={root}").data) == ["cat", "dog"]
    assert class_names(DataSpec(name="hfds/owner/name")) is None


class FakeDataset:
    """A class of torchvision.datasets: 20 images of one grey level, which differs between the splits."""

    def __init__(self, root: str, train: bool) -> None:
        self.data: np.ndarray = np.full((20, 32, 32, 3), 7 + train, dtype=np.uint8)
        self.targets = [0, 1] * 10


@pytest.fixture
def fake_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeDataset)
    monkeypatch.setattr(torchvision.datasets, "Fake", FakeDataset, raising=False)
    monkeypatch.setattr(datasets, "download_if_absent", Mock())


@pytest.mark.usefixtures("fake_torchvision")
def test_cifar_is_held_in_memory() -> None:
    train, test = load_arrays("data=cifar10")
    assert train.images.max() == 8 and test.images.max() == 7


@pytest.mark.usefixtures("fake_torchvision")
def test_a_new_downloadable_dataset_needs_only_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownDataset(Source.downloadable, 2, files_in_root=("fake",), torchvision_class="Fake")
    monkeypatch.setitem(KNOWN_DATASETS, "fake", known)
    train, _ = datasets.load(DataSpec(name="fake", root="nowhere", num_classes=2), BudgetSpec())
    assert isinstance(train, ImageArray) and train.targets.tolist() == [0, 1] * 10


def test_a_new_dataset_of_class_folders_needs_only_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN_DATASETS, "pets", KnownDataset(Source.folder))
    root = make_image_folder(tmp_path, {"cat": 2, "dog": 1})
    train, test = load("data=folder", "data.name=pets", f"data.root={root}")
    assert (len(train), len(test)) == (3, 3)  # type: ignore[arg-type]


def test_timm_opens_torch_datasets_by_name(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path, {"a": 2, "b": 3})
    overrides = ("data=timm", "data.name=torch/image_folder", "data.num_classes=2", "data.test_split=val")
    train, test = load("+step=gelu", *overrides, f"data.root={root}")
    assert (len(train), len(test)) == (5, 5)  # type: ignore[arg-type]


def test_a_dataset_that_timm_cannot_open_is_named() -> None:
    with pytest.raises(SpecError, match="data.name=hfds/none/none: .*; "):
        load("data=timm", "data.name=hfds/none/none", "data.num_classes=2")


def test_a_part_of_a_dataset_has_an_even_share_of_each_class() -> None:
    train, test = load("budget.train_images=100", "budget.test_images=50")
    labels = [label for _, label in train]  # type: ignore[attr-defined]
    assert len(labels) == 100 and np.bincount(labels).min() >= 9 and np.bincount(labels).max() <= 11
    assert len(test) == 50  # type: ignore[arg-type]


def test_a_holdout_consists_of_training_images_that_are_not_trained_on() -> None:
    whole, _ = load_arrays()
    train, held_out = load_arrays("data.holdout=200")
    assert (len(train), len(held_out)) == (1237, 200)
    together = np.concatenate([train.images, held_out.images])
    assert sorted(map(bytes, together)) == sorted(map(bytes, whole.images))
    assert set(np.bincount(held_out.targets)) <= {19, 20, 21}
    parts = load_arrays("data.holdout=200", "budget.train_images=100", "budget.test_images=50")
    assert [len(part) for part in parts] == [100, 50]
    for count, message in ((1437, "leaves no image for training"), (1438, "there are only 1437 images")):
        with pytest.raises(SpecError, match=f"data.holdout={count}: {message}"):
            load(f"data.holdout={count}")


def test_a_holdout_of_a_folder_keeps_classes_and_paths(tmp_path: Path) -> None:
    overrides = ("data=folder", "data.image_size=32", f"data.root={make_image_folder(tmp_path, {'a': 8, 'b': 4})}")
    train, held_out = load("+step=gelu", *overrides, "data.holdout=6")
    for part in (train, held_out):
        assert sorted(label for _, label in part) == [0, 0, 0, 0, 1, 1]  # type: ignore[attr-defined]
    paths = [[path_of(part, i) for i in range(6)] for part in (train, held_out)]
    assert len(set(paths[0] + paths[1])) == 12 and all("train" in path for path in paths[1])


def test_labels_above_the_number_of_classes_are_refused(tmp_path: Path) -> None:
    overrides = ("data=timm", "data.name=torch/image_folder", "data.num_classes=2", "data.test_split=val")
    root = make_image_folder(tmp_path, {"a": 1, "b": 1, "c": 1})
    with pytest.raises(SpecError, match="data.num_classes=2: torch/image_folder has labels up to 2; set data.num_cl"):
        load(*overrides, f"data.root={root}")
