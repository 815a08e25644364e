"""The anatomy told from a config is that of the network that is really built."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import nn

from roadmap.config.compose import compose_network
from roadmap.config.schema import NetworkSpec, Norm, RunSpec
from roadmap.config.steps import all_steps
from roadmap.models.drop_path import DropPath
from roadmap.models.layers import GlobalResponseNorm, LayerScale
from roadmap.models.network import Network
from roadmap.models.structure import Layer, Structure, structure_of
from roadmap.records.record import config_of

network = cache(compose_network)
STEPS = [step for step in all_steps() if step != "resnextify"]


def told(spec: NetworkSpec) -> Structure:
    return structure_of(config_of(RunSpec(network=spec))["network"])


def describe(spec: NetworkSpec, name: str, module: nn.Module, w_in: int, w_out: int) -> Layer:
    """The layer that this module is, by its class and attributes alone."""
    layer = Layer(name, "", w_in, w_out)
    if isinstance(module, nn.Conv2d):
        (kernel, _), (stride, _), (padding, _) = module.kernel_size, module.stride, module.padding
        shape = {"kernel": kernel, "stride": stride, "padding": padding, "groups": module.groups}
        assert (module.in_channels, module.out_channels) == (w_in, w_out)
        return replace(layer, kind="conv", **shape, bias=module.bias is not None)
    if isinstance(module, nn.MaxPool2d):
        return replace(layer, kind="pool", kernel=module.kernel_size, stride=module.stride, padding=module.padding)
    if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
        form = "batch_norm" if isinstance(module, nn.BatchNorm2d) else "layer_norm"
        return replace(layer, kind="norm", form=form)
    if isinstance(module, nn.ReLU | nn.GELU):
        return replace(layer, kind="act", form=type(module).__name__.lower())
    if isinstance(module, LayerScale):
        return replace(layer, kind="layer_scale", value=spec.layer_scale)
    if isinstance(module, DropPath):
        return replace(layer, kind="drop_path", value=module.rate)
    if isinstance(module, nn.Linear):
        return replace(layer, kind="linear", bias=module.bias is not None)
    assert isinstance(module, GlobalResponseNorm)
    return replace(layer, kind="grn")


def built(spec: NetworkSpec, image_size: int) -> tuple[list[tuple[str, Layer]], list[int]]:
    """The layers of the network in the order in which an image passes them, and the side of each stage's map."""
    found: list[tuple[str, Layer]] = []
    sides: list[int] = []

    def see(name: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found.append((name, describe(spec, name, module, inputs[0].shape[1], output.shape[1])))

    with torch.device("meta"):
        model = Network(spec).eval()
        for name, module in model.named_modules():
            leaf = not list(module.children()) and not isinstance(module, nn.Identity)
            if leaf:
                module.register_forward_hook(partial(see, name))
        for stage in model.stages:
            stage.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
        model(torch.empty(1, spec.in_chans, image_size, image_size))
    return found, sides


def assert_told_as_built(spec: NetworkSpec, image_size: int) -> None:
    layers, sides = built(spec, image_size)
    body = told(spec)
    own = [(path, layer) for path, layer in body.named() if layer.kind != "mean"]  # no module: Network.forward's own
    assert [path for path, _ in own] == [path for path, _ in layers]
    for (path, layer), (_, module) in zip(own, layers, strict=True):
        assert layer.value == pytest.approx(module.value), path
        assert replace(layer, name=path, value=None) == replace(module, value=None), path
    assert body.sides(image_size) == sides


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("step", STEPS)
def test_every_step_and_variant_is_told_as_it_is_built(step: str, norm: Norm) -> None:
    assert_told_as_built(replace(network(step, "micro"), norm=norm), 224)


@pytest.mark.parametrize(
    ("base", "stem_stride", "image_size"), [("resnet200", 4, 224), ("nano", 2, 28), ("nano", 1, 8)]
)
@pytest.mark.parametrize("step", ["baseline", "patchify_stem", "fewer_norms", "separate_downsampling"])
def test_so_it_is_in_other_bases_and_for_small_images(step: str, base: str, stem_stride: int, image_size: int) -> None:
    assert_told_as_built(replace(network(step, base), in_chans=1, stem_stride=stem_stride), image_size)


FREE = {
    "depthwise": (False, True), "inverted_bottleneck": (False, True), "fewer_activations": (False, True),
    "fewer_norms": (False, True), "separate_downsampling": (False, True), "grn": (False, True),
}  # fmt: skip


@pytest.mark.parametrize("bits", range(2 ** len(FREE)))
def test_so_are_the_combinations_off_the_road(bits: int) -> None:
    chosen: dict[str, Any] = {name: values[bits >> i & 1] for i, (name, values) in enumerate(FREE.items())}
    spec = replace(network("baseline", "nano"), **chosen, drop_path=0.2)
    assert_told_as_built(spec, 32)
    if spec.depthwise:
        assert_told_as_built(replace(spec, spatial_first=True, norm=Norm.layer_norm), 32)


def test_layers_in_words() -> None:
    body = told(network("separate_downsampling", "resnet50"))
    assert [layer.words for layer in body.stem] == ["4×4 conv 3 → 96, stride 4, bias", "LayerNorm"]
    assert [layer.words for layer in body.stages[2].blocks[1].layers] == [
        "7×7 depthwise conv 384 → 384, bias", "LayerNorm", "1×1 conv 384 → 1,536, bias", "GELU",
        "1×1 conv 1,536 → 384, bias", "layer scale 1e-06", "stochastic depth 0.041",
    ]  # fmt: skip
    assert [layer.words for layer in body.head] == ["global average pooling", "LayerNorm", "classifier 768 → 1,000"]
