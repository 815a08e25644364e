"""Inspection of networks: the structure has the layers, the order and the sizes of a real forward pass."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from timm.layers import SEModule
from torch import nn

from roadmap.config.choices import NORMS, Reference
from roadmap.config.schema import NetworkSpec, RunSpec
from roadmap.models.inspection import inspect_network, structure_of_config
from roadmap.models.layers import GlobalResponseNorm, chain
from roadmap.models.network import Network
from roadmap.records.record import config_of
from tests.models.specs import STEPS, TINY, network_spec

Shape = tuple[int, ...]


def forward_pass(network: Network, image_size: int) -> tuple[list[tuple[str, Shape, Shape]], list[int]]:
    """Layers of a real forward pass in order, as (name, input shape, output shape), and the map side of each stage."""
    layers: list[tuple[str, Shape, Shape]] = []
    sides: list[int] = []

    def add_layer(name: str, _module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        layers.append((name, tuple(inputs[0].shape), tuple(output.shape)))

    def add_side(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        sides.append(output.shape[-1])

    inner: tuple[str, ...] = ()  # modules of which the structure knows only the whole
    for name, module in network.named_modules():
        if isinstance(module, SEModule):
            inner += (f"{name}.",)
        is_layer = isinstance(module, SEModule) or not list(module.children())
        if is_layer and not isinstance(module, nn.Identity) and not name.startswith(inner):
            module.register_forward_hook(partial(add_layer, name))
    for stage in network.stages:
        stage.register_forward_hook(add_side)
    with torch.no_grad():
        network.eval()(torch.zeros(1, network.spec.in_chans, image_size, image_size, device=network.head.weight.device))
    return layers, sides


def assert_structure_of_forward_pass(spec: NetworkSpec, image_size: int) -> None:
    network = Network(spec)
    structure = inspect_network(network)
    computed, sides = forward_pass(network, image_size)
    layers = [(name, layer) for name, layer in structure.named_layers() if layer.kind != "mean"]  # no module of its own
    assert [name for name, _ in layers] == [name for name, *_ in computed]
    for (name, layer), (_, shape_in, shape_out) in zip(layers, computed, strict=True):
        assert (layer.w_in, layer.w_out) == (shape_in[1], shape_out[1]), name
        assert layer.title, name
        if len(shape_in) == 4:
            assert layer.map_side(shape_in[2]) == shape_out[2], name
        if layer.kind in ("conv", "linear"):
            module: Any = network.get_submodule(name)
            assert module.weight.shape[:2] == (layer.w_out, layer.w_in // layer.groups), name
            assert ("bias" in dict(module.named_parameters())) is layer.bias, name
            assert module.weight.shape[2:] == (layer.kernel,) * (module.weight.ndim - 2), name
    assert structure.map_sides(image_size) == sides


@pytest.mark.parametrize("step", STEPS)
def test_structure_is_that_of_a_forward_pass(step: str) -> None:
    assert_structure_of_forward_pass(network_spec(step, **TINY), 64)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("base", ["micro", "resnet200"])
@pytest.mark.parametrize("step", STEPS)
def test_structure_in_all_bases_and_with_both_norms(step: str, base: str, norm: str) -> None:
    with torch.device("meta"):
        assert_structure_of_forward_pass(network_spec(step, base, norm=norm), 224)


@pytest.mark.parametrize(("stem_stride", "image_size"), [(4, 56), (2, 28), (1, 8)])
@pytest.mark.parametrize("step", ["baseline", "patchify_stem", "fewer_norms", "separate_downsampling"])
def test_structure_for_small_grey_images(step: str, stem_stride: int, image_size: int) -> None:
    assert_structure_of_forward_pass(network_spec(step, **TINY, in_chans=1, stem_stride=stem_stride), image_size)


FLAGS = (
    "depthwise", "inverted_bottleneck", "fewer_activations", "fewer_norms", "separate_downsampling", "grn",
)  # fmt: skip
SAMPLE = range(0, 2 ** len(FLAGS), 7)


@pytest.mark.parametrize(
    "bits", [pytest.param(i, marks=[] if i in SAMPLE else pytest.mark.slow) for i in range(2 ** len(FLAGS))]
)
def test_structure_of_subsets_of_the_steps(bits: int) -> None:
    fields: dict[str, Any] = {name: bool(bits >> i & 1) for i, name in enumerate(FLAGS)}
    spec = network_spec("baseline", **TINY, **fields, drop_path=0.2)
    assert_structure_of_forward_pass(spec, 32)
    if spec.depthwise:
        assert_structure_of_forward_pass(replace(spec, spatial_first=True, norm="layer_norm"), 32)


BLOCKS = {
    "baseline": "1×1 conv, BatchNorm, ReLU, 3×3 conv, BatchNorm, ReLU, 1×1 conv, BatchNorm, +, ReLU",
    "depthwise_conv": "1×1 conv, BatchNorm, ReLU, 3×3 depthwise conv, BatchNorm, ReLU, 1×1 conv, BatchNorm, "
    "layer scale 1e-06, stochastic depth 0.05, +, ReLU",
    "move_up_depthwise": "3×3 depthwise conv, BatchNorm, ReLU, 1×1 conv, BatchNorm, ReLU, 1×1 conv, BatchNorm, "
    "layer scale 1e-06, stochastic depth 0.05, +, ReLU",
    "large_kernel": "7×7 depthwise conv, BatchNorm, ReLU, 1×1 conv, BatchNorm, ReLU, 1×1 conv, BatchNorm, "
    "layer scale 1e-06, stochastic depth 0.05, +, ReLU",
    "gelu": "7×7 depthwise conv, BatchNorm, GELU, 1×1 conv, BatchNorm, GELU, 1×1 conv, BatchNorm, "
    "layer scale 1e-06, stochastic depth 0.05, +, GELU",
    "fewer_activations": "7×7 depthwise conv, BatchNorm, 1×1 conv, BatchNorm, GELU, 1×1 conv, BatchNorm, "
    "layer scale 1e-06, stochastic depth 0.05, +",
    "fewer_norms": "7×7 depthwise conv, BatchNorm, 1×1 conv, GELU, 1×1 conv, "
    "layer scale 1e-06, stochastic depth 0.05, +",
    "layer_norm": "7×7 depthwise conv, LayerNorm, 1×1 conv, GELU, 1×1 conv, "
    "layer scale 1e-06, stochastic depth 0.05, +",
    "grn": "7×7 depthwise conv, LayerNorm, 1×1 conv, GELU, global response norm, 1×1 conv, "
    "stochastic depth 0.05, +",
}  # fmt: skip


@pytest.mark.parametrize("step", BLOCKS)
def test_the_block_of_a_step(step: str) -> None:
    structure = inspect_network(Network(network_spec(step, **TINY)))
    block = structure.stages[1].blocks[1]
    assert not block.shortcut
    assert (
        ", ".join([*(layer.title for layer in block.branch), "+", *(layer.title for layer in block.after)])
        == (BLOCKS[step])
    )


def test_structure_of_a_recorded_config() -> None:
    """Enums are strings in a record; a reference network has no structure."""
    spec = network_spec("grn", **TINY, layer_scale=0.1)
    config = config_of(RunSpec(network=spec))["network"]
    assert config["norm"] == "layer_norm"
    assert structure_of_config(config) == inspect_network(Network(spec))
    assert structure_of_config(config | {"reference": Reference.swin.value}) is None


def test_a_network_on_the_meta_device_has_the_same_structure() -> None:
    spec = network_spec("fewer_norms", **TINY)
    with torch.device("meta"):
        on_meta = inspect_network(Network(spec))
    assert on_meta == inspect_network(Network(spec))
    values = [layer.value for _, layer in on_meta.named_layers() if layer.kind == "layer_scale"]
    assert values == [1e-6] * sum(spec.depths)


def test_an_unknown_module_is_named() -> None:
    network: Any = Network(network_spec("baseline", **TINY))
    network.stages[2].blocks[0].branch = chain({"spatial": nn.Conv2d(64, 128, 2, 2), "hardswish": nn.Hardswish()})
    with pytest.raises(TypeError, match=r"branch\.hardswish: unknown module type Hardswish"):
        inspect_network(network)


def test_a_module_at_an_unknown_place_is_named() -> None:
    network: Any = Network(network_spec("baseline", **TINY))
    network.stages[2].blocks[0].second_norm = GlobalResponseNorm(128)
    with pytest.raises(TypeError, match=r"stages\.2\.blocks\.0\.second_norm: GlobalResponseNorm"):
        inspect_network(network)


def test_a_kernel_that_is_not_square_is_refused() -> None:
    network = Network(network_spec("baseline", **TINY))
    network.stem = chain({"conv": nn.Conv2d(3, 8, (3, 5))})
    with pytest.raises(AssertionError, match="not a square size"):
        inspect_network(network)
