"""The networks of the roadmap from ResNet to ResNet-RS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from roadmap.config.choices import Stem
from roadmap.config.compose import compose_network
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import NetworkSpec, SpecError
from roadmap.models.complexity import measure_cost, measure_module
from roadmap.models.inspection import inspect_network
from roadmap.models.network import Network
from tests.models.specs import TINY, network_spec
from tests.models.test_inspection import assert_structure_of_forward_pass
from tests.models.test_network import assert_every_parameter_learns, train_once

STEPS = list(load_roadmap("resnet_rs").file.steps)


def spec_of(step: str, **fields: Any) -> NetworkSpec:
    return compose_network(step, roadmap="resnet_rs", **fields)


@pytest.mark.parametrize("step", ["baseline", "squeeze_excitation", "resnet_d"])
def test_every_parameter_gets_a_gradient(step: str) -> None:
    spec = replace(spec_of(step), **TINY | {"width": 16})
    assert_every_parameter_learns(train_once(spec, size=64))


@pytest.mark.parametrize("step", STEPS)
def test_structure_is_that_of_a_forward_pass(step: str) -> None:
    assert_structure_of_forward_pass(replace(spec_of(step), **TINY | {"width": 16}), 64)


@pytest.mark.parametrize("stride", [4, 2, 1])
def test_the_deep_stem_has_the_stride_of_the_stem(stride: int) -> None:
    network = Network(replace(spec_of("resnet_d"), **TINY | {"width": 16, "stem_stride": stride}))
    stem: nn.Module = network.stem
    assert stem(torch.randn(1, 3, 64, 64)).shape == (1, 16, 64 // stride, 64 // stride)
    convs = [module for module in stem.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [8, 8, 16, 16][: 4 if stride == 4 else 3]
    assert {conv.kernel_size for conv in convs} == {(3, 3)}


@pytest.mark.parametrize("base", ["resnet50", "resnet200"])
def test_the_last_step_costs_what_the_network_of_timm_costs(base: str) -> None:
    with torch.device("meta"):
        theirs = measure_module(timm.create_model(base.replace("resnet", "resnetrs")), torch.empty(1, 3, 256, 256))
    assert measure_cost(spec_of("resnet_d", base=base), 256) == theirs


@pytest.mark.parametrize("step", ["baseline", "separate_downsampling"])
def test_squeeze_and_excitation_scales_the_end_of_a_branch(step: str) -> None:
    network: Any = Network(network_spec(step, **TINY, squeeze_excitation=0.25))
    block = network.stages[0].blocks[0]
    *_, (name, layer) = block.branch.named_children()
    assert name == "se" and layer.fc1.out_channels == 8
    x = torch.rand(2, layer.fc1.in_channels, 8, 8) + 0.1
    scale = layer(x) / x
    assert torch.allclose(scale, scale.mean((2, 3), keepdim=True).expand_as(scale), rtol=1e-3)
    assert ((scale > 0) & (scale < 1)).all()


def test_the_pooled_shortcut_averages_before_the_convolution() -> None:
    network: Any = Network(replace(spec_of("resnet_d"), **TINY | {"width": 16}))
    block = network.stages[1].blocks[0]
    assert [type(layer) for layer in block.shortcut] == [nn.AvgPool2d, type(block.branch.pointwise1), nn.BatchNorm2d]
    assert block.shortcut.conv.stride == (1, 1)
    x = torch.arange(9.0).reshape(1, 1, 3, 3)  # of an odd map, the last window has fewer pixels
    assert block.shortcut.pool(x).flatten().tolist() == [2.0, 3.5, 6.5, 8.0]


def test_titles_of_the_new_layers() -> None:
    with torch.device("meta"):
        structure = inspect_network(Network(spec_of("resnet_d")))
    titles = {layer.title for _, layer in structure.named_layers()}
    assert {"squeeze-and-excitation", "dropout 0.25", "2×2 average pooling"} <= titles


def test_an_odd_width_has_no_deep_stem() -> None:
    with pytest.raises(SpecError, match="network.stem=deep: the deep stem has half of its channels inside"):
        Network(NetworkSpec(stem=Stem.deep, **TINY | {"width": 9}))
