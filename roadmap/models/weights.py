"""Weights from other sources: ResNets of torchvision and timm, ResNet-RS and ConvNeXts (V1, V2) of timm, and files of
our own runs.

The steps `baseline`, `separate_downsampling`, `grn` and `resnet_d` are known networks. Their weights are converted by a
map of names, key by key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roadmap.config.compose import compose_network
from roadmap.config.names import one_line
from roadmap.config.schema import RunSpec, SpecError

Names = tuple[tuple[str, str], ...]
LINEAR = r"\.(mlp\.fc|pwconv)\d\.weight$"  # 1x1 convolutions that other libraries store as linear layers
# (our name, name in the source). {i}: stage, from 0; {l}: stage, from 1; {j}: block; {p}: weight, bias, ...
RESNET_NAMES = (
    ("stem.conv.{p}", "conv1.{p}"),
    ("stem.norm.{p}", "bn1.{p}"),
    ("stages.{i}.blocks.{j}.branch.pointwise1.{p}", "layer{l}.{j}.conv1.{p}"),
    ("stages.{i}.blocks.{j}.branch.pointwise1_norm.{p}", "layer{l}.{j}.bn1.{p}"),
    ("stages.{i}.blocks.{j}.branch.spatial.{p}", "layer{l}.{j}.conv2.{p}"),
    ("stages.{i}.blocks.{j}.branch.spatial_norm.{p}", "layer{l}.{j}.bn2.{p}"),
    ("stages.{i}.blocks.{j}.branch.pointwise2.{p}", "layer{l}.{j}.conv3.{p}"),
    ("stages.{i}.blocks.{j}.branch.pointwise2_norm.{p}", "layer{l}.{j}.bn3.{p}"),
    ("stages.{i}.blocks.{j}.shortcut.conv.{p}", "layer{l}.{j}.downsample.0.{p}"),
    ("stages.{i}.blocks.{j}.shortcut.norm.{p}", "layer{l}.{j}.downsample.1.{p}"),
    ("head.{p}", "fc.{p}"),
)
CONVNEXT_NAMES = (
    ("stem.conv.{p}", "stem.0.{p}"),
    ("stem.norm.{p}", "stem.1.{p}"),
    ("stages.{i}.downsample.norm.{p}", "stages.{i}.downsample.0.{p}"),
    ("stages.{i}.downsample.conv.{p}", "stages.{i}.downsample.1.{p}"),
    ("stages.{i}.blocks.{j}.branch.spatial.{p}", "stages.{i}.blocks.{j}.conv_dw.{p}"),
    ("stages.{i}.blocks.{j}.branch.norm.{p}", "stages.{i}.blocks.{j}.norm.{p}"),
    ("stages.{i}.blocks.{j}.branch.pointwise1.{p}", "stages.{i}.blocks.{j}.mlp.fc1.{p}"),
    ("stages.{i}.blocks.{j}.branch.pointwise2.{p}", "stages.{i}.blocks.{j}.mlp.fc2.{p}"),
    ("stages.{i}.blocks.{j}.layer_scale.gamma", "stages.{i}.blocks.{j}.gamma"),
    ("head_norm.{p}", "head.norm.{p}"),
    ("head.{p}", "head.fc.{p}"),
)
CONVNEXT_V2_NAMES = (
    *(names for names in CONVNEXT_NAMES if "layer_scale" not in names[0]),
    ("stages.{i}.blocks.{j}.branch.grn.gamma", "stages.{i}.blocks.{j}.mlp.grn.weight"),
    ("stages.{i}.blocks.{j}.branch.grn.beta", "stages.{i}.blocks.{j}.mlp.grn.bias"),
)
RESNET_RS_NAMES = (
    *((f"stem.conv{n}.{{p}}", f"conv1.{index}.{{p}}") for n, index in ((1, 0), (2, 3), (3, 6))),
    *((f"stem.norm{n}.{{p}}", f"conv1.{index}.{{p}}") for n, index in ((1, 1), (2, 4))),
    ("stem.norm3.{p}", "bn1.{p}"),
    ("stem.conv4.{p}", "maxpool.0.{p}"),
    ("stem.norm4.{p}", "maxpool.1.{p}"),
    *(names for names in RESNET_NAMES if not names[0].startswith("stem") and ".shortcut." not in names[0]),
    ("stages.{i}.blocks.{j}.branch.se.fc1.{p}", "layer{l}.{j}.se.fc1.{p}"),
    ("stages.{i}.blocks.{j}.branch.se.fc2.{p}", "layer{l}.{j}.se.fc2.{p}"),
    ("stages.{i}.blocks.{j}.shortcut.conv.{p}", "layer{l}.{j}.downsample.1.{p}"),
    ("stages.{i}.blocks.{j}.shortcut.norm.{p}", "layer{l}.{j}.downsample.2.{p}"),
)
NAMES = {  # step -> its roadmap, and the names of its weights
    "baseline": ("convnext", RESNET_NAMES),
    "separate_downsampling": ("convnext", CONVNEXT_NAMES),
    "grn": ("convnext", CONVNEXT_V2_NAMES),
    "resnet_d": ("resnet_rs", RESNET_RS_NAMES),
}


def convert(
    state_dict: dict[str, Tensor], *, step: str, base: str = "resnet50", reverse: bool = False
) -> dict[str, Tensor]:
    """Convert a state dict of the source library to ours; with `reverse`, ours to the source's.

    The names do not depend on depth and width, so networks of any depth and width convert. timm stores the 1x1
    convolutions of a ConvNeXt block as linear layers, (out, in), except in its smallest ConvNeXts. Ours are
    (out, in, 1, 1), and become linear layers with `reverse`.

    Raises SpecError for a step without such a network in the other libraries, and for a key that the network does not
    have.
    """
    if step not in NAMES:
        raise SpecError(f"step={step}: no other library has this network; choose {', '.join(NAMES)}")
    roadmap, names = NAMES[step]
    compose_network(step, base, roadmap=roadmap)  # raises for an unknown base
    return rename(state_dict, names, reverse, step)


def rename(state_dict: dict[str, Tensor], names: Names, reverse: bool, step: str) -> dict[str, Tensor]:
    """Return a state dict of the source library with our names, or with `reverse` the opposite, by a table of names.

    Raises SpecError for a key that is not in the table; `step` is part of the message.
    """
    converted = {}
    for key, value in state_dict.items():
        new_key = _rename(key, names, reverse)
        if new_key is None:
            owner = "network" if reverse else "source"
            raise SpecError(f"state_dict[{key!r}]: no such weight in the {owner} of {step}; check the model and step")
        if not re.search(LINEAR, new_key if reverse else key):
            converted[new_key] = value
        else:
            converted[new_key] = value.flatten(1) if reverse else value.reshape(*value.shape[:2], 1, 1)
    return converted


def _rename(key: str, names: Names, reverse: bool) -> str | None:
    for ours, theirs in names:
        source, target = (ours, theirs) if reverse else (theirs, ours)
        match = re.fullmatch(_pattern(source), key)
        if match:
            groups: dict[str, Any] = match.groupdict()
            if "l" in groups:
                groups["i"] = int(groups["l"]) - 1
            elif "i" in groups:
                groups["l"] = int(groups["i"]) + 1
            return target.format(**groups)
    return None


def _pattern(template: str) -> str:
    parts = {"i": r"(?P<i>\d+)", "l": r"(?P<l>\d+)", "j": r"(?P<j>\d+)", "p": r"(?P<p>\w+)"}
    return re.sub(r"\\\{(\w)\\\}", lambda match: parts[match.group(1)], re.escape(template))


def load_into(model: nn.Module, spec: RunSpec) -> None:
    """Load the weights of `spec.weights` into `model`: `timm/NAME` (downloaded) or a file.

    Where the number of input channels differs, the stem is adapted as timm does it (grey images: summed over the
    colours). Where the number of classes differs, `spec.new_head` keeps the new classifier of `model`.

    Raises SpecError for another number of classes without `spec.new_head`, for weights that cannot be read, and for
    weights of another network.
    """
    source = str(spec.weights)
    weights = _from_timm(source) if source.startswith("timm/") else _from_file(source)
    weights, own = _convert_known(weights, source), model.state_dict()
    weights = _adapt_stem(weights, own)
    if "head.weight" in weights and weights["head.weight"].shape[0] != own["head.weight"].shape[0]:
        if not spec.new_head:
            classes, wanted = weights["head.weight"].shape[0], own["head.weight"].shape[0]
            reason = f"has {classes} classes, data={spec.data.name} has {wanted}"
            raise SpecError(f"weights={source}: {reason}; new_head=true trains a new classifier")
        weights |= {key: own[key] for key in ("head.weight", "head.bias")}
    for key in sorted(own.keys() | weights.keys()):
        expected, actual = (list(d[key].shape) if key in d else "missing" for d in (own, weights))
        if expected != actual:
            reason = f"does not fit this network: {key} is {actual} in the weights, {expected} in the network"
            raise SpecError(f"weights={source}: {reason}; choose weights of the same network")
    model.load_state_dict(weights)


def _from_timm(source: str) -> dict[str, Tensor]:
    import timm

    name = source.removeprefix("timm/")
    if not timm.is_model(name.split(".")[0]):
        raise SpecError(f"weights={source}: timm has no model {name}; timm.list_models() lists them")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        reason = one_line(error)[:200] or type(error).__name__
        raise SpecError(f"weights={source}: could not be downloaded ({reason}); give a file instead") from error


def _from_file(source: str) -> dict[str, Tensor]:
    path = Path(source)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state_dict: Any = load_file(path)
        else:
            state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = f"cannot be read as a weights file ({type(error).__name__})"
        raise SpecError(f"weights={source}: {reason}; give a .pt or .safetensors file") from error
    for key in ("state_dict", "model"):
        if isinstance(state_dict, dict) and isinstance(state_dict.get(key), dict):
            state_dict = state_dict[key]
    if not isinstance(state_dict, dict) or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise SpecError(f"weights={source}: contains no state dict; save model.state_dict()")
    return {str(key).removeprefix("module."): value for key, value in state_dict.items()}


def _convert_known(weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the weights under our names if they are those of a ResNet or a ConvNeXt, else as they are."""
    try:
        if "layer1.0.conv1.weight" in weights:
            return convert(weights, step="resnet_d" if "conv1.0.weight" in weights else "baseline")
        if "stages.0.blocks.0.conv_dw.weight" in weights:
            v2 = "stages.0.blocks.0.mlp.grn.weight" in weights
            return convert(weights, step="grn" if v2 else "separate_downsampling")
    except SpecError as error:
        raise SpecError(f"weights={source}: {error}") from error
    return weights


def _adapt_stem(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    from timm.models import adapt_input_conv

    key = "stem.conv1.weight" if "stem.conv1.weight" in own else "stem.conv.weight"
    if key in weights and weights[key].shape[1] == 3 != own[key].shape[1]:
        return weights | {key: adapt_input_conv(own[key].shape[1], weights[key])}
    return weights
