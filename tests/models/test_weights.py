"""Weight conversion: with the same weights, known networks have the same logits as in the libraries that ship them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
import torchvision
from torch import nn

import roadmap
from roadmap.config.compose import compose, compose_network
from roadmap.config.schema import SpecError
from roadmap.models import weights
from roadmap.models.network import Network

SOURCES: dict[str, tuple[str, dict[str, Any]]] = {  # source: step, fields of the network
    "torchvision.resnet50": ("baseline", {}),
    "timm.resnet50": ("baseline", {}),
    "timm.convnext_tiny": ("separate_downsampling", {}),
    "timm.convnextv2_tiny": ("grn", {}),
    "torchvision.resnet101": ("baseline", {"depths": [3, 4, 23, 3]}),
    "torchvision.resnet152": ("baseline", {"depths": [3, 8, 36, 3]}),
    "timm.resnet101": ("baseline", {"depths": [3, 4, 23, 3]}),
    "timm.convnext_small": ("separate_downsampling", {"depths": [3, 3, 27, 3]}),
    "timm.convnext_base": ("separate_downsampling", {"depths": [3, 3, 27, 3], "width": 128}),
    "timm.resnetrs50": ("resnet_d", {}),
    "timm.resnetrs101": ("resnet_d", {"depths": [3, 4, 23, 3]}),
    "timm.resnetrs200": ("resnet_d", {"depths": [3, 24, 36, 3]}),
}


def source_model(source: str) -> nn.Module:
    """A network of another library with random weights, also where a new network has constants (norms, biases, layer
    scale), so that a forgotten or swapped weight changes the logits."""
    library, name = source.split(".")
    with torch.device("meta"):  # no initialisation, which takes longer than the test
        model: nn.Module = timm.create_model(name) if library == "timm" else getattr(torchvision.models, name)()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(1)
    for key, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif tensor.is_floating_point():
            low = 0.5 if key.endswith(("weight", "running_var", "gamma")) else -0.2
            tensor.uniform_(low, low + 0.5, generator=generator)
        else:
            tensor.zero_()
    return model.eval()


@pytest.mark.parametrize(
    "source", [pytest.param(s, marks=pytest.mark.slow if fields else []) for s, (_, fields) in SOURCES.items()]
)
def test_logits_equal_those_of_the_source(source: str) -> None:
    step, fields = SOURCES[source]
    theirs = source_model(source)
    with torch.device("meta"):
        ours = Network(compose_network(step, roadmap=weights.NAMES[step][0], **fields)).eval()
    converted = roadmap.convert_weights(theirs.state_dict(), step=step)
    ours.load_state_dict(converted, assign=True)  # strict: key for key
    images = torch.randn(1, 3, 100, 100, generator=torch.Generator().manual_seed(2))
    if sum(ours.spec.depths) > 60:  # so many layers with random weights amplify the rounding of float32
        theirs, ours, images = copy.deepcopy(theirs).double(), copy.deepcopy(ours).double(), images.double()
    with torch.no_grad():
        expected, logits = theirs(images), ours(images)
    assert expected.std() > 0
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    back = roadmap.convert_weights(converted, step=step, reverse=True)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


def test_the_steps_between_have_no_names_elsewhere() -> None:
    with pytest.raises(SpecError, match="step=gelu: no other library has this network; choose baseline, "):
        roadmap.convert_weights({}, step="gelu")


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(SpecError, match=r"state_dict\['layer5.0.conv9.weight'\]: no such weight in the source"):
        roadmap.convert_weights({"layer5.0.conv9.weight": torch.zeros(1)}, step="baseline")


@pytest.mark.parametrize("conv_mlp", [False, True])
@pytest.mark.parametrize(("step", "name"), [("separate_downsampling", "convnext_atto"), ("grn", "convnextv2_atto")])
def test_a_run_starts_from_a_file_of_timm_weights(tmp_path: Path, step: str, name: str, conv_mlp: bool) -> None:
    """Grey images, ten classes: the stem is summed over the colours, the classifier is kept."""
    source: Any = timm.create_model(name, num_classes=10, conv_mlp=conv_mlp)
    path = tmp_path / "atto.pt"
    torch.save({"state_dict": source.state_dict()}, path)
    shape = ("network.depths=[2,2,6,2]", "network.width=40", "network.stem_stride=4", "data.image_size=32")
    spec = compose(f"+step={step}", f"weights={path}", *shape)
    model: Any = Network(spec.network)
    weights.load_into(model, spec)
    assert torch.equal(model.head.weight, source.head.fc.weight)
    assert torch.allclose(model.stem.conv.weight, source.stem[0].weight.sum(1, keepdim=True), atol=1e-6)
    last = source.stages[3].blocks[1].mlp.fc2.weight
    assert torch.equal(model.stages[3].blocks[1].branch.pointwise2.weight.flatten(1), last.flatten(1))


@pytest.mark.parametrize(("step", "other"), [("separate_downsampling", "convnextv2_atto"), ("grn", "convnext_atto")])
def test_timm_weights_of_the_other_convnext_do_not_fit(monkeypatch: pytest.MonkeyPatch, step: str, other: str) -> None:
    source = timm.create_model(other)
    monkeypatch.setattr(timm, "create_model", Mock(return_value=source))
    shape = ("network.depths=[2,2,6,2]", "network.width=40", "data=cifar10", "new_head=true")
    spec = compose(f"+step={step}", f"weights=timm/{other}", *shape)
    with pytest.raises(SpecError, match=f"weights=timm/{other}: does not fit this network: .*(grn|layer_scale)"):
        weights.load_into(Network(spec.network), spec)


def test_another_number_of_classes_needs_a_new_head(tmp_path: Path) -> None:
    path = tmp_path / "ours.pt"
    torch.save(Network(compose("+step=gelu", "data=cifar100").network).state_dict(), path)
    spec = compose("+step=gelu", "data=cifar10", f"weights={path}")
    with pytest.raises(SpecError, match=r"has 100 classes, data=cifar10 has 10; new_head=true"):
        weights.load_into(Network(spec.network), spec)
    spec.new_head = True
    model: Any = Network(spec.network)
    head = model.head.weight.clone()
    weights.load_into(model, spec)
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.stem.conv.weight, torch.load(path)["stem.conv.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights", "cannot be read as a weights file"),
        ({"stem.conv.weight": torch.zeros(2, 1, 1, 1)}, "does not fit this network"),
        ({"epoch": 3}, "contains no state dict"),
    ],
)
def test_files_without_suitable_weights(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    spec = compose("+step=gelu", f"weights={path}")
    with pytest.raises(SpecError, match=message) as caught:
        weights.load_into(Network(spec.network), spec)
    assert str(caught.value).startswith(f"weights={path}")


def test_an_unknown_timm_model_is_refused() -> None:
    spec = compose("+step=gelu", "weights=timm/resnet_of_oz")
    with pytest.raises(SpecError, match="weights=timm/resnet_of_oz: timm has no model"):
        weights.load_into(Network(spec.network), spec)
