"""The table of known datasets: presets, default folders, classes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from roadmap.config import datasets
from roadmap.config.compose import compose
from roadmap.config.datasets import KNOWN_DATASETS, KnownDataset, Source, is_present, root_decides_result
from roadmap.config.paths import CONF
from roadmap.config.schema import DataSpec, SpecError
from roadmap.records.record import config_hash
from tests.helpers import make_image_folder

REFUSED = [
    (("data=folder",), "data.root=null: is required for data=folder; give the folder that contains train/ and val/"),
    (("data=folder", "data.root=nowhere"), "data.root=nowhere: no such folder; give the folder that contains train/"),
    (("data=imagenet", "data.root=nowhere"), "data.root=nowhere: no such folder"),
    (("data=timm",), "data.name"),
    (("data=timm", "data.name=hfds/a/b"), "data.num_classes=null: cannot be read from hfds/a/b; set data.num_classes"),
    (("data=timm", "data.name=wds/a", "data.num_classes=2"), "data.root=null: no such folder; give the folder of the"),
    (("data.name=letters",), "data.name=letters: unknown; use one of digits, fashion_mnist"),
    (("data.num_classes=7",), "data.num_classes=7: digits has 10 classes; leave data.num_classes out"),
    (("data=cifar10", "data.download=false"), "data.root=data/cifar10: cifar10 is not there; put cifar-10-batches-py"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[" ".join(overrides) for overrides, _ in REFUSED])
def test_datasets_that_are_absent_or_do_not_fit_are_refused(
    overrides: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        compose(*overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_every_preset_names_a_known_dataset() -> None:
    presets = {path.stem: yaml.safe_load(path.read_text("utf-8"))["name"] for path in (CONF / "data").glob("*.yaml")}
    assert presets.pop("timm") == "???"
    assert set(presets.values()) == set(KNOWN_DATASETS)


def test_the_default_root_is_in_the_working_folder() -> None:
    assert compose("data=cifar10").data.root == str(Path("data") / "cifar10")
    assert isinstance(compose("data=digits").data, DataSpec)


def test_the_number_of_classes_is_the_number_of_class_folders(tmp_path: Path) -> None:
    make_image_folder(tmp_path, {"cat": 1, "dog": 1, "owl": 1})
    spec = compose("data=folder", f"data.root={tmp_path}")
    assert spec.network.num_classes == 3
    with pytest.raises(SpecError, match="data.num_classes=4: .* has 3 class folders"):
        compose("data=folder", f"data.root={tmp_path}", "data.num_classes=4")
    (tmp_path / "val" / "owl" / "0.png").unlink()
    (tmp_path / "val" / "owl").rmdir()
    with pytest.raises(SpecError, match="different class folders"):
        compose("data=folder", f"data.root={tmp_path}")


def test_the_hash_contains_the_root_only_where_it_decides_the_result(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "a", {"cat": 1})
    make_image_folder(tmp_path / "b", {"cat": 1})
    for name, same in (("cifar10", True), ("cifar100", True), ("folder", False), ("imagenet", False)):
        overrides = (f"data={name}", "data.num_classes=null", "+step=gelu")
        hashes = {config_hash(compose(*overrides, f"data.root={tmp_path / root}")) for root in ("a", "b")}
        assert (len(hashes) == 1) is same is not root_decides_result(name), name
    assert root_decides_result("hfds/owner/name")


def test_files_are_found_in_several_folders_plain_or_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KnownDataset(Source.downloadable, 2, files_in_root=("images", "labels"), folders=(".", "raw"))
    monkeypatch.setitem(datasets.KNOWN_DATASETS, "letters", known)
    data = DataSpec(name="letters", root=str(tmp_path))
    (tmp_path / "raw").mkdir()
    for name in ("images", "labels.gz"):
        assert not is_present(data)
        (tmp_path / "raw" / name).touch()
    assert is_present(data) and datasets.folder_of_files(data) == tmp_path / "raw"
