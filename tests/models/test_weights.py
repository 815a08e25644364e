"""The ends of the road are the networks that other libraries ship: same weights, same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

import roadmap
from roadmap.config.compose import compose
from roadmap.config.schema import SpecError
from roadmap.models import weights
from roadmap.models.network import Network

SOURCES: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("torchvision resnet50", "baseline", torchvision.models.resnet50, {}),
    ("torchvision resnet101", "baseline", torchvision.models.resnet101, {"depths": [3, 4, 23, 3]}),
    ("torchvision resnet152", "baseline", torchvision.models.resnet152, {"depths": [3, 8, 36, 3]}),
    ("timm resnet50", "baseline", lambda: timm.create_model("resnet50"), {}),
    ("timm resnet101", "baseline", lambda: timm.create_model("resnet101"), {"depths": [3, 4, 23, 3]}),
    ("timm convnext_tiny", "separate_downsampling", lambda: timm.create_model("convnext_tiny"), {}),
    (
        "timm convnext_small",
        "separate_downsampling",
        lambda: timm.create_model("convnext_small"),
        {"depths": [3, 3, 27, 3]},
    ),
    (
        "timm convnext_base",
        "separate_downsampling",
        lambda: timm.create_model("convnext_base"),
        {"depths": [3, 3, 27, 3], "width": 128},
    ),
    ("timm convnextv2_tiny", "grn", lambda: timm.create_model("convnextv2_tiny"), {}),
]


def shake(model: nn.Module) -> None:
    """Random values where a fresh network has constants, so that a forgotten or swapped weight shows."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            low = 0.5 if name.endswith(("weight", "running_var", "gamma")) else -0.2
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + low)


@pytest.mark.parametrize(("step", "source", "fields"), [s[1:] for s in SOURCES], ids=[s[0] for s in SOURCES])
def test_logits_equal_the_source_models(step: str, source: Any, fields: dict[str, Any]) -> None:
    theirs = source().eval()
    shake(theirs)
    ours = roadmap.create_model(step, **fields).eval()
    converted = roadmap.convert_weights(theirs.state_dict(), step=step)
    ours.load_state_dict(converted)  # strict: key for key
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    back = roadmap.convert_weights(converted, step=step, reverse=True)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


def test_no_map_for_the_stations_between() -> None:
    with pytest.raises(SpecError, match="step=gelu"):
        roadmap.convert_weights({}, step="gelu")


def test_unknown_key_is_named() -> None:
    with pytest.raises(SpecError, match=r"state_dict\['layer5.0.conv9.weight'\]: no such weight in the source"):
        roadmap.convert_weights({"layer5.0.conv9.weight": torch.zeros(1)}, step="baseline")


@pytest.mark.parametrize("conv_mlp", [False, True])
@pytest.mark.parametrize(("step", "name"), [("separate_downsampling", "convnext_atto"), ("grn", "convnextv2_atto")])
def test_a_run_starts_from_a_file_of_timms_weights(tmp_path: Path, step: str, name: str, conv_mlp: bool) -> None:
    """Grey images, ten classes: the stem is summed over the colours, the classifier kept or made anew."""
    source = timm.create_model(name, num_classes=10, conv_mlp=conv_mlp)
    path = tmp_path / "atto.pt"
    torch.save({"state_dict": source.state_dict()}, path)
    shape = ("network.depths=[2,2,6,2]", "network.width=40", "network.stem_stride=4", "data.image_size=32")
    spec = compose(f"+step={step}", f"weights={path}", *shape)
    model = Network(spec.network)
    weights.load_into(model, spec)
    assert torch.equal(model.head.weight, source.head.fc.weight)
    assert torch.allclose(model.stem.conv.weight, source.stem[0].weight.sum(1, keepdim=True), atol=1e-6)
    last = source.stages[3].blocks[1].mlp.fc2.weight
    assert torch.equal(model.stages[3].blocks[1].branch.pointwise2.weight.flatten(1), last.flatten(1))


@pytest.mark.parametrize(("step", "other"), [("separate_downsampling", "convnextv2_atto"), ("grn", "convnext_atto")])
def test_timms_weights_of_the_other_convnext_do_not_fit(monkeypatch: Any, step: str, other: str) -> None:
    fetched = timm.create_model(other)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: fetched)
    shape = ("network.depths=[2,2,6,2]", "network.width=40", "data=cifar10", "new_head=true")
    spec = compose(f"+step={step}", f"weights=timm/{other}", *shape)
    with pytest.raises(SpecError, match=f"weights=timm/{other}: does not fit this network: .*(grn|layer_scale)"):
        weights.load_into(Network(spec.network), spec)


def test_another_number_of_classes_wants_a_new_head(tmp_path: Path) -> None:
    path = tmp_path / "ours.pt"
    torch.save(Network(compose("+step=gelu", "data=cifar100").network).state_dict(), path)
    words = ("+step=gelu", "data=cifar10", f"weights={path}")
    with pytest.raises(SpecError, match=r"has 100 classes, data=cifar10 has 10; new_head=true"):
        weights.load_into(Network(compose(*words).network), compose(*words))
    spec = compose(*words, "new_head=true")
    model = Network(spec.network)
    head = model.head.weight.clone()
    weights.load_into(model, spec)
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.stem.conv.weight, torch.load(path)["stem.conv.weight"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no weights", "is not a file of weights"),
        ({"stem.conv.weight": torch.zeros(2, 1, 1, 1)}, "does not fit this network"),
        ({"epoch": 3}, "holds no state dict"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    spec = compose("+step=gelu", f"weights={path}")
    with pytest.raises(SpecError, match=said) as caught:
        weights.load_into(Network(spec.network), spec)
    assert str(caught.value).startswith(f"weights={path}")


def test_timm_names_that_do_not_exist() -> None:
    spec = compose("+step=gelu", "weights=timm/resnet_of_oz")
    with pytest.raises(SpecError, match="weights=timm/resnet_of_oz: timm has no model"):
        weights.load_into(Network(spec.network), spec)
