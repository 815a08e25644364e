"""`roadmap evaluate`: results of a run on its own test set, on other images, of weights, and on the study's page."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import confusion_matrix

import roadmap
from roadmap.analysis.table import read_study
from roadmap.records.record import run_folder
from roadmap.training.run import run
from tests.conftest import FASHION, TINY
from tests.helpers import call_main, make_image_folder, make_spec, write_run

OVERRIDES = ("+step=grn", "data=digits", "precision=fp32", *TINY, "budget.epochs=2", "budget.train_images=320")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on digits that is better than chance."""
    spec = make_spec(tmp_path_factory.mktemp("out"), *OVERRIDES)
    assert run(spec)["status"] == "completed"
    return run_folder(spec)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    for path in trained.glob("evaluation*.json"):
        path.unlink()


def test_the_results_on_the_own_test_set_are_those_of_the_run(trained: Path) -> None:
    done = call_main("evaluate", str(trained))
    assert done.code == 0 and "the same images as in the run are correct\n" in done.out, done
    found = json.loads((trained / "evaluation.json").read_text("utf-8"))
    record = json.loads((trained / "record.json").read_text("utf-8"))
    assert found["differs_from_run"] == 0 and found["num_images"] == 64
    assert [found[name] for name in ("top1", "top5", "loss")] == [record[name] for name in ("top1", "top5", "loss")]
    model = roadmap.load(trained, "cpu")
    from roadmap.data import datasets

    test = datasets.load(model.spec.data, model.spec.budget).test
    pictures, labels = zip(*(test[i] for i in range(64)), strict=True)  # type: ignore[index]
    probabilities = model.predict(pictures).numpy()
    predicted = probabilities.argmax(1)
    assert found["confusion_matrix"] == confusion_matrix(labels, predicted, labels=range(10)).tolist()
    for name, value in zip(found["classes"], found["top1_of_class"], strict=True):
        of_class = predicted[np.array(labels) == int(name)] == int(name)
        assert value == pytest.approx(100 * of_class.mean())
    assert found["calibration_error"] == pytest.approx(calibration_error(probabilities, np.array(labels)), abs=1e-3)
    latency = found["latency"]
    assert 0 < latency["batch_1_ms"] < latency["batch_ms"] and latency["batch_size"] == 64
    assert latency["images_per_second"] == pytest.approx(64_000 / latency["batch_ms"])


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error in percent with 15 bins (Guo et al., ICML 2017, equation 3)."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.ceil(confidence * 15).clip(1, 15)
    gaps = [abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return 100 * float(sum(gaps))


def test_another_number_of_correct_images_is_told(trained: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(trained, tmp_path / "copy")
    correct = np.load(copy / "correct.npy")
    correct[0] ^= 0b11100000  # the first three images
    np.save(copy / "correct.npy", correct)
    assert "3 images differ from the run\n" in call_main("evaluate", str(copy), "--no-latency").out


def test_corruptions_are_added_to_the_file_and_the_page(trained: Path, tmp_path: Path) -> None:
    assert call_main("evaluate", str(trained), "--no-latency").code == 0
    done = call_main("evaluate", str(trained), "corruptions=contrast,fog", "severities=1,5", "--no-latency")
    assert done.code == 0 and "mean over corruptions and severities: " in done.out
    assert call_main("evaluate", str(trained)).code == 0  # keeps the corruptions, adds the latency
    found = json.loads((trained / "evaluation.json").read_text("utf-8"))
    assert {name: list(values) for name, values in found["corruptions"].items()} == {
        "contrast": ["1", "5"], "fog": ["1", "5"],
    }  # fmt: skip
    values = [value for by_severity in found["corruptions"].values() for value in by_severity.values()]
    assert found["corrupted_top1"] == pytest.approx(np.mean(values)) and len(set(values)) > 1
    done = call_main("report", str(trained.parent), "--to", str(tmp_path / "report"))
    assert done.code == 0
    table = pd.read_csv(tmp_path / "report" / "roadmap.csv")
    assert table["robustness_mean"].tolist() == pytest.approx([found["corrupted_top1"]])
    assert table["latency_ms"].tolist() == pytest.approx([found["latency"]["batch_1_ms"]])
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    for title in ("robustness (%)", "latency (ms)", "calibration error (%)"):
        assert title in page


def test_a_study_without_evaluations_has_no_such_columns(tmp_path: Path) -> None:
    write_run(tmp_path, 90.0, "+step=baseline")
    assert not {"robustness_mean", "latency_ms"} & set(read_study(tmp_path / "runs").table)
    (tmp_path / "runs" / next((tmp_path / "runs").iterdir()).name / "evaluation.json").write_text("{}")
    assert "robustness_mean" not in read_study(tmp_path / "runs").table


@pytest.mark.skipif(not FASHION.is_dir(), reason="Fashion-MNIST is absent")
def test_other_images_are_preprocessed_as_those_of_the_run(trained: Path) -> None:
    done = call_main("evaluate", str(trained), "data=fashion_mnist", f"data.root={FASHION}", "--no-latency")
    assert done.code == 0, done
    found = json.loads((trained / "evaluation-fashion_mnist.json").read_text("utf-8"))
    assert found["num_images"] == 10_000 and found["data"] == "fashion_mnist" and "differs_from_run" not in found
    assert sum(map(sum, found["confusion_matrix"])) == 10_000
    assert not (trained / "evaluation.json").exists()


def test_a_folder_of_images_is_evaluated(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "images", {"a": 20, "b": 20}, size=20)
    other = make_image_folder(tmp_path / "other", {"a": 3, "b": 5}, size=20)
    size = ("data.image_size=16", "data.stem_stride=1", "budget.allow_chance=true")
    spec = make_spec(tmp_path, "+step=gelu", "data=folder", f"data.root={folder}", *size, *TINY)
    assert run(spec)["status"] == "completed"
    done = call_main("evaluate", str(run_folder(spec)), f"data.root={other}", "--no-latency", "--to", "new/result.json")
    assert done.code == 0, done
    found = json.loads(Path("new/result.json").read_text("utf-8"))
    assert found["num_images"] == 8 and found["classes"] == ["a", "b"]
    assert [sum(row) for row in found["confusion_matrix"]] == [3, 5]


def test_weights_are_evaluated_with_the_network_of_the_overrides(trained: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(torch.load(trained / "model.pt"), weights)
    options = [override for override in OVERRIDES if not override.startswith("precision")]
    done = call_main("evaluate", str(weights), *options, "--no-latency", "--to", "out.json")
    assert done.code == 0, done
    record = json.loads((trained / "record.json").read_text("utf-8"))
    assert json.loads(Path("out.json").read_text("utf-8"))["top1"] == record["top1"]
    refused = call_main("evaluate", str(weights), "+step=gelu", "--no-latency")
    assert refused.code == 2 and "does not fit this network" in refused.err


def test_bad_input_is_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = make_image_folder(tmp_path / "two", {"a": 3, "b": 3})
    for arguments, message in (
        (("corruptions=fogg",), "corruptions=fogg: unknown; did you mean fog?"),
        (("severities=6",), "severities=6: must be numbers from 1 to 5"),
        (("data=digit",), "data=digit: unknown; did you mean digits?"),
        (("data.rot=x",), "rot"),
        (("recipe.lr=1",), "recipe.lr=1: has no effect here; set data=NAME or data.FIELD=VALUE"),
        (("word",), "word: is not an override; write FIELD=VALUE"),
        (("data=folder", f"data.root={two}"), "data=folder: has 2 classes, the network 10"),
        (("--batch-size", "0"), "--batch-size=0: must be positive"),
        (("--to", str(tmp_path)), f"--to={tmp_path}: is a folder; give the name of a file"),
        (("--ema",), "has no model_ema.pt"),
    ):
        refused = call_main("evaluate", str(trained), *arguments)
        assert refused.code == 2 and message in refused.err and refused.err.count("\n") == 1, refused
    assert not list(trained.glob("evaluation*"))
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    refused = call_main("evaluate", str(trained))
    assert refused.code == 2 and "evaluate: needs torchmetrics; pip install 'roadmap[evaluate]'" in refused.err


def test_all_completed_runs_of_a_study_are_evaluated(tmp_path: Path) -> None:
    options = ("-m", "+step=baseline,gelu", *TINY, "budget.allow_chance=true", "study=mine")
    assert call_main(*options).code == 0
    write_run(Path("experiments"), 90.0, "+step=grn")  # of no study
    done = call_main("evaluate", "mine", "--no-latency")
    assert done.code == 0 and done.out.count("written: ") == 2, done
    found = [json.loads(path.read_text("utf-8")) for path in Path("experiments/runs").glob("*/evaluation.json")]
    assert len(found) == 2 and all(content["receptive_field"]["image_size"] == 8 for content in found)
    refused = call_main("evaluate", "mine", "--to", "one.json")
    assert refused.code == 2 and "--to=one.json: is for one run; leave it out for a study" in refused.err
    for path in Path("experiments/runs").glob("*/model.pt"):
        path.unlink()
    refused = call_main("evaluate", "mine")
    assert refused.code == 2 and "mine: has no completed run with its model.pt; train it first" in refused.err
