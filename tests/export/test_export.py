"""`roadmap export`: timm, transformers and ONNX Runtime compute the logits of the run's network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from torch import nn

import roadmap
import roadmap.timm
from roadmap.commands.export import export_command
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import RunSpec, SpecError
from roadmap.export.families import Family, family_of
from roadmap.models.network import build_network
from roadmap.records.record import run_folder
from tests.helpers import call_main, write_run

SIDE = ("data.image_size=32", "data.stem_stride=4")


def make_run(out: Path, *overrides: str, **fields: Any) -> RunSpec:
    """Write a run with random weights and statistics, so that each of them decides the logits."""
    fields = {"plan": {"epochs": 3, "batch_size": 64, "lr": 0.1}} | fields
    spec = write_run(out, 90.0, *overrides, status="completed", **fields)
    torch.manual_seed(0)
    model = build_network(spec.network, spec.data.image_size)
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and ("norm" in name or "bias" in name or "gamma" in name or "beta" in name):
            value.uniform_(0.5, 1.5, generator=generator)
    torch.save(model.state_dict(), run_folder(spec) / "model.pt")
    return spec


def export(out: Path, *overrides: str, options: tuple[str, ...] = ()) -> tuple[RunSpec, Path]:
    spec = make_run(out, *overrides)
    assert export_command([str(run_folder(spec)), "--to", str(out / "exported"), *options]) == 0
    return spec, out / "exported"


def logits(model: nn.Module, spec: RunSpec) -> torch.Tensor:
    """Return the logits of random images in float64, in which the order of sums does not matter."""
    data = spec.data
    images = torch.randn(3, data.in_chans, data.image_size, data.image_size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        output: Any = model.double().eval()(images.double())
    return output.logits if hasattr(output, "logits") else output  # type: ignore[no-any-return]


def assert_same(model: nn.Module, spec: RunSpec) -> None:
    expected = logits(roadmap.load(run_folder(spec), "cpu").model, spec)
    assert expected.std() > 1e-3  # not the logits of a network whose weights have no effect
    torch.testing.assert_close(logits(model, spec), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("step", [step for step in load_roadmap().steps if step != "resnextify"])
def test_timm_computes_the_logits_of_every_step(tmp_path: Path, step: str) -> None:
    spec, folder = export(tmp_path, f"+step={step}", *SIDE)
    assert json.loads((folder / "config.json").read_text())["architecture"] == f"roadmap_{step}"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert_same(model, spec)
    assert model.num_classes == 10 and model.pretrained_cfg["mean"] == spec.data.mean
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
    assert_same(roadmap.load(folder, "cpu").model, spec)


@pytest.mark.parametrize("overrides", [
    ("+transform=[depthwise_conv,gelu]",), ("+step=gelu", "base.width_factor=0.5", "network.kernel_size=5"),
    ("roadmap=resnet_rs", "+step=resnet_d"), ("+transform=swin",),
    ("+step=gelu", "network.layer_scale=null", "network.drop_path=0.3"),
], ids=" ".join)  # fmt: skip
def test_timm_computes_the_logits_of_other_networks(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    spec, folder = export(tmp_path, *overrides, *SIDE, "data.in_chans=3")
    assert_same(timm.create_model(f"local-dir:{folder}", pretrained=True), spec)


@pytest.mark.parametrize(("overrides", "name", "theirs"), [
    (("+step=separate_downsampling",), "convnext_tiny", "ConvNextForImageClassification"),
    (("+step=separate_downsampling", "data.in_chans=1"), "convnext_tiny", "ConvNextForImageClassification"),
    (("+step=separate_downsampling", "network.stem_stride=2"), None, "ConvNextForImageClassification"),
    (("+step=baseline", "base.width=64"), "resnet50", "ResNetForImageClassification"),
    (("+step=baseline",), None, "ResNetForImageClassification"),
    (("+step=baseline", "network.stem_stride=2"), None, None),
    (("+step=grn",), None, None), (("+step=layer_norm",), None, None),
])  # fmt: skip
def test_the_two_ends_have_the_names_and_weights_of_other_libraries(
    tmp_path: Path, overrides: tuple[str, ...], name: str | None, theirs: str | None
) -> None:
    import transformers

    spec, folder = export(tmp_path, *SIDE, *overrides)
    assert (folder / "timm").exists() == (name is not None)
    assert (folder / "transformers").exists() == (theirs is not None)
    if name is not None:
        assert json.loads((folder / "timm" / "config.json").read_text())["architecture"] == name
        assert_same(timm.create_model(f"local-dir:{folder / 'timm'}", pretrained=True), spec)
    if theirs is not None:
        model = getattr(transformers, theirs).from_pretrained(folder / "transformers")
        assert_same(model, spec)
        assert model.config.id2label[3] == "3" and model.config.num_labels == 10


def test_networks_between_the_ends_are_of_no_other_library() -> None:
    families = {step: family_of(roadmap.create_model(step, base="nano").spec) for step in load_roadmap().step_names}
    known = {"baseline": Family.resnet, "separate_downsampling": Family.convnext}
    assert {step: family for step, family in families.items() if family is not None} == known


@pytest.mark.parametrize("overrides", [
    ("+step=gelu",),
    pytest.param(("+step=separate_downsampling",), marks=pytest.mark.slow),
    pytest.param(("+step=grn",), marks=pytest.mark.slow),
    pytest.param(("+step=baseline",), marks=pytest.mark.slow),
    pytest.param(("roadmap=resnet_rs", "+step=resnet_d"), marks=pytest.mark.slow),
], ids=" ".join)  # fmt: skip
def test_onnx_runtime_computes_the_logits(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    import onnx
    import onnxruntime

    spec, folder = export(tmp_path, *SIDE, *overrides, options=("--onnx",))
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    model = roadmap.load(run_folder(spec), "cpu").model
    for batch_size in (1, 7):
        images = torch.randn(batch_size, spec.data.in_chans, 32, 32)
        (found,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = model(images)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4 * scale, rtol=0)


def test_an_onnx_file_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from roadmap.export import onnx as onnx_files

    original = onnx_files._export

    def export_another(model: nn.Module, images: torch.Tensor, path: Path) -> None:
        original(nn.Sequential(model, nn.Softmax(1)), images, path)

    monkeypatch.setattr(onnx_files, "_export", export_another)
    with pytest.raises(SpecError, match="--onnx: the logits differ by .* from those of the network"):
        export(tmp_path, *SIDE, "+step=gelu", "base.width=8", options=("--onnx",))
    assert not (tmp_path / "exported").exists()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SpecError, match=r"--onnx: needs onnxruntime; pip install 'roadmap\[onnx\]'"):
        export(tmp_path, *SIDE, "+step=gelu", options=("--onnx",))


def test_the_card_has_the_results_of_the_record(tmp_path: Path) -> None:
    write_run(tmp_path, 91.0, *SIDE, "+step=separate_downsampling", "seed=1")
    options = ("--card", "--license", "apache-2.0")
    _, folder = export(tmp_path, *SIDE, "+step=separate_downsampling", options=options)
    card = ModelCard.load(folder / "README.md")
    data: Any = card.data
    assert data.license == "apache-2.0" and data.library_name == "timm" and data.datasets == ["digits"]
    results = {result.metric_name: result.metric_value for result in data.eval_results}
    assert results == {"top-1 (%)": 90.0, "top-5 (%)": 99.0}
    assert "- Top-1: 90.00 % (95 % interval over the 10000 images: 89.40 to 90.58 %)." in card.text
    assert (
        "- Top-1 over 2 seeds of this setting: 90.50 ± 0.71 %, 95 % interval of the mean 84.15 to 96.85 %." in card.text
    )
    assert "| epochs | 3 |" in card.text and f"roadmap {' '.join(SIDE)} +step=separate_downsampling" in card.text
    for example in (
        f"local-dir:{folder}",
        f"local-dir:{folder}/timm",
        "ConvNextForImageClassification.from_pretrained",
    ):
        assert example in card.text
    for block in card.text.split("```python\n")[1:]:
        compile(block.split("```")[0], "card", "exec")


def test_the_average_of_the_weights_is_exported_on_request(tmp_path: Path) -> None:
    spec = make_run(tmp_path, *SIDE, "+step=gelu", "+ingredient=ema", ema={"top1": 77.0, "top5": 95.0})
    run = run_folder(spec)
    state = {
        key: value + 1 if value.is_floating_point() else value for key, value in torch.load(run / "model.pt").items()
    }
    torch.save(state, run / "model_ema.pt")
    assert export_command([str(run), "--to", str(tmp_path / "ema"), "--ema", "--card"]) == 0
    exported = timm.create_model(f"local-dir:{tmp_path / 'ema'}", pretrained=True).state_dict()
    assert all(torch.equal(exported[key], value) for key, value in state.items())
    assert "Top-1 of the average of the weights: 77.00 %." in (tmp_path / "ema" / "README.md").read_text("utf-8")
    without = make_run(tmp_path, *SIDE, "+step=gelu")
    refused = call_main("export", str(run_folder(without)), "--to", str(tmp_path / "none"), "--ema")
    assert refused.code == 2 and "has no model_ema.pt; the run has no moving average of its weights" in refused.err


def test_uploading_needs_a_token_and_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    spec = make_run(tmp_path, *SIDE, "+step=gelu")
    to = tmp_path / "exported"
    refused = call_main("export", str(run_folder(spec)), "--to", str(to), "--card", "--push", "owner/name")
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert (
        refused.err.startswith("error: --push=owner/name: could not be uploaded (") and f"{to} is kept" in refused.err
    )
    assert 'timm.create_model("hf-hub:owner/name", pretrained=True)' in (to / "README.md").read_text("utf-8")


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    spec = make_run(tmp_path, *SIDE, "+step=gelu")
    run = str(run_folder(spec))
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    for arguments, message in (
        ((run, "--to", str(full)), f"--to={full}: is not empty; give a new folder"),
        ((str(tmp_path / "absent"), "--to", str(tmp_path / "new")), "no such folder; "),
        ((run, "--to", "/dev/null/x"), "--to=/dev/null/x: /dev/null is not a writable folder"),
    ):
        refused = call_main("export", *arguments)
        assert refused.code == 2 and message in refused.err and refused.err.count("\n") == 1
    assert [path.name for path in full.iterdir()] == ["mine.txt"] and not (tmp_path / "new").exists()
