"""roadmap.load: the loaded network repeats the results of the evaluation; damaged runs give one-line errors."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import roadmap
from roadmap.config.choices import Precision
from roadmap.config.schema import SpecError
from roadmap.data import datasets
from roadmap.data.images import read_image
from roadmap.data.loaders import eval_loader
from roadmap.inference import TrainedModel
from roadmap.models import cpu_kernels
from roadmap.records.record import run_folder
from roadmap.records.scores import read_correct
from roadmap.training.run import run
from tests.conftest import TINY
from tests.helpers import make_image_folder, make_spec, write_run

OVERRIDES = ("+step=grn", "data=digits", "precision=fp32", *TINY)


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on digits that is better than chance. Tests do not change it."""
    spec = make_spec(tmp_path_factory.mktemp("out"), *OVERRIDES, "budget.epochs=2", "budget.train_images=320")
    assert run(spec)["status"] == "completed"
    return run_folder(spec)


@pytest.fixture
def folder(trained_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of `trained_folder` with only record.json and model.pt."""
    copy = tmp_path / "my run"
    copy.mkdir()
    for name in ("record.json", "model.pt"):
        shutil.copy(trained_folder / name, copy)
    return copy


def images_of(trained: TrainedModel) -> list[tuple[Image.Image, int]]:
    test = datasets.load(trained.spec.data, trained.spec.budget).test
    return [test[i] for i in range(len(test))]  # type: ignore[arg-type]


def test_the_predictions_of_a_loaded_network_agree_with_correct_npy(trained_folder: Path) -> None:
    trained = roadmap.load(trained_folder, device="cpu")
    images, labels = zip(*images_of(trained), strict=True)
    probabilities = trained.predict(images)
    assert probabilities.shape == (64, 10) and not trained.model.training
    torch.testing.assert_close(probabilities.sum(1), torch.ones(64))
    expected = read_correct(trained_folder, trained.record["num_test"])
    assert np.array_equal(probabilities.argmax(1).numpy() == np.array(labels), expected)
    assert 0 < expected.sum() < len(expected)
    assert trained.class_names == list("0123456789") == trained.record["classes"]


@pytest.mark.parametrize("overrides", [
    ("data=digits",), ("data=digits", "data.image_size=16", "data.in_chans=3"),
    ("data=folder", "data.image_size=32"), ("data=folder", "data.image_size=32", "data.in_chans=1"),
], ids=" ".join)  # fmt: skip
def test_preprocessing_is_that_of_the_evaluation(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    if "data=folder" in overrides:
        overrides += (f"data.root={make_image_folder(tmp_path / 'images', {'a': 2, 'b': 2}, size=50)}",)
    spec = make_spec(tmp_path, "+step=gelu", *overrides, "budget.test_images=4", "data.stem_stride=1")
    test = datasets.load(spec.data, spec.budget).test
    (batch,) = eval_loader(test, spec, 4, 0, torch.device("cpu"))
    trained = make_trained(spec)
    from roadmap.training.recipe import BatchAugment

    expected = BatchAugment(spec, torch.device("cpu")).normalize(batch.images)
    for i in range(4):
        assert torch.equal(trained.preprocess(test[i][0]), expected[i])
        read: Any = read_image(test, i, spec.data)
        assert torch.equal(trained.preprocess(read[0]), expected[i])


def make_trained(spec: Any) -> TrainedModel:
    from roadmap.training.device import DeviceConfig

    return TrainedModel(torch.nn.Identity(), spec, {}, None, DeviceConfig(torch.device("cpu"), Precision.fp32, ""))


def test_an_image_of_fashion_mnist_gets_the_border_of_the_dataset(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "+step=gelu", "data=fashion_mnist")
    trained = make_trained(spec)
    pixels = np.full((28, 28), 200, dtype=np.uint8)
    padded = Image.fromarray(np.pad(pixels, 2))
    assert torch.equal(trained.preprocess(Image.fromarray(pixels)), trained.preprocess(padded))


def test_predictions_do_not_depend_on_the_form_of_the_images(folder: Path) -> None:
    trained = roadmap.load(folder, device="cpu")
    images = [image for image, _ in images_of(trained)[:3]]
    expected = trained.predict(images)
    tensors = [trained.preprocess(image) for image in images]
    for form in (tensors, torch.stack(tensors), [images[0], *tensors[1:]]):
        assert torch.equal(trained.predict(form), expected)
    for one in (images[0], tensors[0]):
        torch.testing.assert_close(trained.predict(one), expected[:1])
    assert trained.predict([]).shape == (0, 10)


def test_loading_changes_no_global_state(folder: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), torch.get_float32_matmul_precision(), torch.get_num_threads()
    trained = roadmap.load(str(folder / "record.json"), device="cpu")
    trained.spec.fast_kernels = False
    trained.predict(images_of(trained)[0][0])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == before[1:]
    assert cpu_kernels.enable(True) is True


def test_a_run_without_class_names_in_its_record_has_those_of_its_dataset(folder: Path) -> None:
    edit(folder, lambda record: record.pop("classes"))
    assert roadmap.load(folder, device="cpu").class_names == list("0123456789")
    edit(folder, lambda record: record.update(classes=["a", "b"]))
    assert roadmap.load(folder, device="cpu").class_names is None


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads((folder / "record.json").read_text())
    change(record)
    (folder / "record.json").write_text(json.dumps(record))


def to_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def set_weights(content: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        path = folder / "model.pt"
        path.write_bytes(content(path.read_bytes()))

    return change


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    return lambda folder: edit(folder, change)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of the file was run",)


DAMAGED = "model.pt is damaged, or contains more than weights"
UNFIT = "model.pt does not fit the network in record.json"
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda folder: (folder / "model.pt").unlink(), "has no model.pt; train the run again"),
    "empty weights": (set_weights(lambda _: b""), DAMAGED),
    "weights cut off": (set_weights(lambda raw: raw[: len(raw) // 2]), DAMAGED),
    "text as weights": (set_weights(lambda _: b"hello"), DAMAGED),
    "code in the weights": (set_weights(lambda _: to_bytes({"head.weight": Harmful()})), DAMAGED),
    "other weights": (set_weights(lambda _: to_bytes({"head.weight": torch.ones(1)})), UNFIT),
    "a list as weights": (set_weights(lambda _: to_bytes([1, 2])), UNFIT),
    "no record": (
        lambda folder: (folder / "record.json").unlink(),
        "has no record.json; give the folder of a completed",
    ),
    "text as record": (lambda folder: (folder / "record.json").write_text("hello"), "record.json is not valid JSON"),
    "another format": (
        edited(lambda r: r.update(format=99)),
        "record.json has format 99; this version reads the formats 3 and 4",
    ),
    "a failed run": (
        edited(lambda r: r.update(status="failed", error="a\nb")),
        r"the run failed (a\nb); give the folder",
    ),
    "a diverged run": (edited(lambda r: r.update(status="diverged", error="nan")), "the run diverged (nan); give the"),
    "another network": (edited(lambda r: r["config"]["network"].update(width=5)), UNFIT),
    "an impossible network": (edited(lambda r: r["config"]["network"].update(depths=[])), "network.depths"),
    "a huge network": (edited(lambda r: r["config"]["network"].update(width=10**9)), "network.width"),
    "a text as number": (
        edited(lambda r: r["config"]["network"].update(width="w")),
        "record.json has an invalid config",
    ),
    "an unknown field": (edited(lambda r: r["config"].update(unknown=1)), "record.json has an invalid config"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_cannot_be_loaded_gives_a_one_line_error(
    folder: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = FAULTS[fault]
    change(folder)
    with pytest.raises(SpecError) as caught:
        roadmap.load(folder)
    text = str(caught.value)
    assert text.startswith(f"{folder}: ") and message in text and "\n" not in text and len(text) < 600
    assert "code of the file was run" not in capsys.readouterr().out


def test_a_folder_that_does_not_exist_gives_a_one_line_error(folder: Path) -> None:
    for path, message in (
        (folder.parent / "my rum", f"no such folder; did you mean {folder}?"),
        (folder / "x" / "y", "no such folder; give the folder of a run, as experiments/runs/NAME"),
        (folder.parent / ("x" * 300), "no such folder"),
    ):
        with pytest.raises(SpecError) as caught:
            roadmap.load(path)
        assert message in str(caught.value)
    with pytest.raises(SpecError, match="device=gpu: unknown; use one of auto, cpu"):
        roadmap.load(folder, device="gpu")


def test_a_repository_of_the_hub_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def snapshot_download(repository: str, **options: Any) -> str:
        asked.append((repository, options["revision"]))
        if repository == "nobody/none":
            raise RuntimeError("404 Client Error.\nRepository Not Found")
        assert options["allow_patterns"] == ["record.json", "model.pt", "model.safetensors"]
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert roadmap.load("hf-hub:someone/digits", device="cpu").class_names == list("0123456789")
    roadmap.load("hf-hub:someone/digits@v1", device="cpu")
    assert asked == [("someone/digits", None), ("someone/digits", "v1")]
    with pytest.raises(SpecError) as caught:
        roadmap.load("hf-hub:nobody/none")
    assert str(caught.value).startswith("hf-hub:nobody/none: could not be downloaded (404 Client Error.); check")


def test_published_records_have_a_spec() -> None:
    from roadmap.inference import spec_of_record
    from roadmap.records.record import load_record
    from tests.conftest import ROOT

    paths = sorted((ROOT / "reports" / "fashion_mnist" / "runs").glob("*/record.json"))[:3]
    assert paths
    for path in paths:
        record = load_record(path.parent)
        assert record is not None
        assert spec_of_record(record, "run").network.num_classes == 10


def test_the_spec_of_a_record_is_that_of_its_run(tmp_path: Path) -> None:
    from roadmap.inference import spec_of_record
    from roadmap.records.record import load_record

    spec = write_run(tmp_path, 90.0, "+step=grn")
    record = load_record(run_folder(spec))
    assert record is not None and spec_of_record(record, "run") == spec
