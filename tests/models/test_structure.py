"""Structures as data: titles and descriptions of layers, sizes of feature maps."""

from __future__ import annotations

import subprocess
import sys

import pytest

from roadmap.models.inspection import inspect_network
from roadmap.models.network import Network
from roadmap.models.structure import Block, Layer, Stage, Structure
from tests.models.specs import network_spec


def test_descriptions_of_layers() -> None:
    structure = inspect_network(Network(network_spec("separate_downsampling", width=24)))
    assert [layer.description for layer in structure.stem] == ["4×4 conv 3 → 24, stride 4, bias", "LayerNorm"]
    assert [layer.description for layer in structure.stages[2].blocks[1].layers] == [
        "7×7 depthwise conv 96 → 96, bias", "LayerNorm", "1×1 conv 96 → 384, bias", "GELU",
        "1×1 conv 384 → 96, bias", "layer scale 1e-06", "stochastic depth 0.041",
    ]  # fmt: skip
    assert [layer.description for layer in structure.head] == [
        "global average pooling", "LayerNorm", "classifier 192 → 1,000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "title", "detail"),
    [
        (Layer("conv", "conv", 8, 16, kernel=3, stride=2, padding=1), "3×3 conv", "stride 2"),
        (Layer("conv", "conv", 8, 8, kernel=5, padding=2, groups=8, bias=True), "5×5 depthwise conv", "bias"),
        (Layer("pool", "pool", 8, 8, kernel=3, stride=2, padding=1), "3×3 max pooling", "stride 2"),
        (Layer("grn", "grn", 8, 8), "global response norm", ""),
        (Layer("norm", "norm", 8, 8, form="BatchNorm"), "BatchNorm", ""),
    ],
)
def test_title_and_detail(layer: Layer, title: str, detail: str) -> None:
    assert (layer.title, layer.detail) == (title, detail)


def test_an_unknown_kind_has_no_title() -> None:
    with pytest.raises(KeyError, match="attention"):
        _ = Layer("attention", "attention", 8, 8).title


def test_map_sides_and_names_follow_the_order_of_computation() -> None:
    stem = [Layer("conv", "conv", 3, 8, kernel=7, stride=2, padding=3), Layer("pool", "pool", 8, 8, 3, 2, 1)]
    strided = Layer("branch.spatial", "conv", 8, 8, kernel=3, stride=2, padding=1)
    shortcut = Layer("shortcut.conv", "conv", 8, 8, stride=2)
    block, act = Block(8, 8, [strided], [shortcut], []), Layer("act", "act", 8, 8, form="ReLU")
    down = Layer("conv", "conv", 8, 8, kernel=2, stride=2)
    stages = [Stage([], [block]), Stage([down], [Block(8, 8, [], [], [act])])]
    structure = Structure(stem, stages, [Layer("mean", "mean", 8, 8)])
    assert structure.map_sides(33) == [5, 2]  # 33 -> 17 -> 9 -> 5 -> 2
    assert [name for name, _ in structure.named_layers()] == [
        "stem.conv", "stem.pool", "stages.0.blocks.0.shortcut.conv", "stages.0.blocks.0.branch.spatial",
        "stages.1.downsample.conv", "stages.1.blocks.0.act", "mean",
    ]  # fmt: skip


def test_the_module_does_not_import_torch() -> None:
    """The report reads structures and must start without torch."""
    program = "import sys, roadmap.models.structure; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
