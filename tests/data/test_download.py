"""Download of datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torchvision.datasets

from roadmap.config.compose import compose
from roadmap.config.schema import SpecError
from roadmap.data.download import download_if_absent


def test_a_failed_download_names_the_files_to_put_there_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(root: str, **_: Any) -> None:
        (Path(root) / "half").mkdir(parents=True)
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    spec = compose("data=cifar10", f"data.root={tmp_path / 'new'}")
    with pytest.raises(SpecError, match="download of cifar10 failed .no route.; put cifar-10-batches-py there"):
        download_if_absent(spec.data)
    assert list(tmp_path.iterdir()) == []


def test_an_absent_dataset_is_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    downloads: list[dict[str, Any]] = []

    def download(root: Path, **arguments: Any) -> None:
        downloads.append(arguments)
        (root / "imagenette2-160").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(torchvision.datasets, "Imagenette", download)
    spec = compose("data=imagenette", f"data.root={tmp_path}")
    for _ in range(2):
        download_if_absent(spec.data)
    assert downloads == [{"download": True, "split": split, "size": "160px"} for split in ("train", "val")]
    assert capsys.readouterr().out.splitlines() == [f"downloading imagenette to {tmp_path}"]
