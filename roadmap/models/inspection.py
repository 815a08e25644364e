"""Reads the structure of a network from its modules.

The drawings of the report come from here, so that they show the network that is trained. A module of an unknown type
raises an error: a new operator is added to `_describe` and to `Layer.title` in `roadmap.models.structure`.
"""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any

import torch
from timm.layers import SEModule
from torch import nn

from roadmap.config.schema import NetworkSpec
from roadmap.config.user_classes import is_user_class
from roadmap.models.drop_path import Dropout, DropPath
from roadmap.models.layers import GlobalResponseNorm, LayerScale
from roadmap.models.network import Block, Network, Stage
from roadmap.models.structure import Block as BlockStructure
from roadmap.models.structure import Layer, Structure
from roadmap.models.structure import Stage as StageStructure


def structure_of_config(config: dict[str, Any]) -> Structure | None:
    """Return the structure of the network that a record describes; None for a reference network (Swin).

    `config` holds the fields of `NetworkSpec` as plain values: `record["config"]["network"]`. The network is built on
    the meta device, which allocates no memory for weights.
    """
    if config.get("reference") is not None:
        return None
    enums = {field.name: type(field.default) for field in fields(NetworkSpec) if isinstance(field.default, Enum)}
    values: dict[str, Any] = {name: enums[name](value) if name in enums else value for name, value in config.items()}
    with torch.device("meta"):
        return inspect_network(Network(NetworkSpec(**values)))


def inspect_network(network: Network) -> Structure:
    """Return the structure of `network`, read from its modules.

    Raises TypeError for a module of an unknown type, and for a module at a place that is not inspected.
    """
    stem, channels = _chain(network.stem, "", network.spec.in_chans)
    stages = []
    for stage in network.stages:
        assert isinstance(stage, Stage)
        stages.append(_stage(stage, channels))
        channels = stages[-1].w_out
    head_norm, channels = _chain(network.head_norm, "head_norm", channels)
    mean = Layer("mean", "mean", channels, channels)  # a call in `Network.forward`, not a module
    dropout, _ = _chain(network.dropout, "dropout", channels)
    classifier, _ = _chain(network.head, "head", channels)
    structure = Structure(stem, stages, [mean, *head_norm, *dropout, *classifier])
    _check_complete(network, structure)
    return structure


def _stage(stage: Stage, channels: int) -> StageStructure:
    downsample, channels = _chain(stage.downsample, "", channels)
    blocks = []
    for block in stage.blocks:
        blocks.append(_block(block, channels) if isinstance(block, Block) else _user_block(block, stage, channels))
        channels = blocks[-1].w_out
    return StageStructure(downsample, blocks)


def _block(block: Block, w_in: int) -> BlockStructure:
    branch, w_out = _chain(block.branch, "branch", w_in)
    for name in ("layer_scale", "drop_path"):
        branch += _chain(block.get_submodule(name), name, w_out)[0]
    shortcut, _ = _chain(block.shortcut, "shortcut", w_in)
    after, _ = _chain(block.act, "act", w_out)
    return BlockStructure(w_in, w_out, branch, shortcut, after)


def _user_block(block: nn.Module, stage: Stage, w_in: int) -> BlockStructure:
    """Return a block of the user's class as one layer: what happens in it is not known here."""
    is_first = block is stage.blocks[0]
    stride = stage.first_stride if is_first else 1
    layer = Layer("", "block", w_in, stage.w_out, stride, stride, form=type(block).__name__)
    return BlockStructure(w_in, stage.w_out, [layer], [], [])


def _chain(module: nn.Module, name: str, channels: int) -> tuple[list[Layer], int]:
    """Return the layers of `module` (a layer, an identity or a sequence of them) and the channels of its output.

    `name` is the name of the module, `channels` the channels of its input.
    """
    if isinstance(module, nn.Identity):
        return [], channels
    if not isinstance(module, nn.Sequential):
        layer = _describe(name, module, channels)
        return [layer], layer.w_out
    layers: list[Layer] = []
    for child_name, child in module.named_children():
        more, channels = _chain(child, f"{name}.{child_name}".removeprefix("."), channels)
        layers += more
    return layers, channels


def _describe(name: str, module: nn.Module, channels: int) -> Layer:
    """Return the layer that `module` is; `channels` are those of its input."""
    match module:
        case nn.Conv2d():
            kernel, stride, padding = map(_square, (module.kernel_size, module.stride, module.padding))
            assert module.in_channels == channels and _square(module.dilation) == 1, name
            bias = module.bias is not None
            return Layer(name, "conv", channels, module.out_channels, kernel, stride, padding, module.groups, bias)
        case nn.MaxPool2d():
            kernel, stride, padding = map(_square, (module.kernel_size, module.stride, module.padding))
            return Layer(name, "pool", channels, channels, kernel, stride, padding)
        case nn.Linear():
            return Layer(name, "linear", channels, module.out_features, bias=module.bias is not None)
        case nn.BatchNorm2d():
            return Layer(name, "norm", channels, channels, form="BatchNorm")
        case nn.LayerNorm():
            return Layer(name, "norm", channels, channels, form="LayerNorm")
        case nn.ReLU():
            return Layer(name, "act", channels, channels, form="ReLU")
        case nn.GELU():
            return Layer(name, "act", channels, channels, form="GELU")
        case GlobalResponseNorm():
            return Layer(name, "grn", channels, channels)
        case SEModule():
            return Layer(name, "se", channels, channels)
        case nn.AvgPool2d():
            kernel, stride = map(_square, (module.kernel_size, module.stride))
            return Layer(name, "pool", channels, channels, kernel, stride, form="average")
        case Dropout():
            return Layer(name, "dropout", channels, channels, value=module.rate)
        case LayerScale():
            return Layer(name, "layer_scale", channels, channels, value=module.initial)
        case DropPath():
            return Layer(name, "drop_path", channels, channels, value=module.rate)
    if is_user_class(type(module)):
        w_out = getattr(module, "out_channels", channels)
        return Layer(name, "block", channels, w_out, form=type(module).__name__)
    raise TypeError(f"{name}: unknown module type {type(module).__qualname__}; add it to roadmap/models/inspection.py")


def _square(size: int | str | tuple[int, ...]) -> int:
    """Return the one number of a size that is the same in height and width."""
    height, width = size if isinstance(size, tuple) else (size, size)
    assert isinstance(height, int) and height == width, f"{size} is not a square size in pixels"
    return height


def _check_complete(network: Network, structure: Structure) -> None:
    """Raise TypeError if a layer of `network` is missing in `structure`."""
    inspected = {name.rstrip(".") for name, _ in structure.named_layers()}
    for name, module in network.named_modules():
        is_layer = not list(module.children()) and not isinstance(module, nn.Identity)
        parts = name.split(".")  # a module in an inspected layer, such as squeeze-and-excitation, belongs to that layer
        if is_layer and not any(".".join(parts[: i + 1]) in inspected for i in range(len(parts))):
            kind = type(module).__qualname__
            raise TypeError(f"{name}: {kind} is not inspected; add it to roadmap/models/inspection.py")
