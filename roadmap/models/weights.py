"""Weights from elsewhere: torchvision's and timm's ResNets, timm's ConvNeXts (V2 too), and our own runs' files.

The two ends of the road, and the station beyond, are known networks, so their weights carry over by a map of names, key
for key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roadmap.config.compose import compose_network
from roadmap.config.schema import RunSpec, SpecError

# (ours, theirs); {i} a stage from 0, {l} the same from 1, {j} a block, {p} what comes after: weight, bias, ...
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
NAMES = {"baseline": RESNET_NAMES, "separate_downsampling": CONVNEXT_NAMES, "grn": CONVNEXT_V2_NAMES}


def convert(
    state_dict: dict[str, Tensor], *, step: str, base: str = "resnet50", reverse: bool = False
) -> dict[str, Tensor]:
    """Theirs to ours; with `reverse`, ours to theirs. Depth and width may be any, the names do not depend on them.

    timm writes a ConvNeXt block's 1x1 convolutions as linear layers, (out, in), in its smallest ones alone as what they
    are; ours are (out, in, 1, 1), and linear layers with `reverse`.
    Raises SpecError for a step that has no counterpart and for a key that such a network does not have.
    """
    if step not in NAMES:
        raise SpecError(f"step={step}: no other library has this network; there are maps for {', '.join(NAMES)}")
    compose_network(step, base)  # an unknown base is refused
    converted = {}
    for key, value in state_dict.items():
        new = _rename(key, NAMES[step], reverse)
        if new is None:
            raise SpecError(
                f"state_dict[{key!r}]: no such weight in the {'network' if reverse else 'source'} of {step}"
            )
        if not re.search(r"\.mlp\.fc\d\.weight$", new if reverse else key):
            converted[new] = value
        else:
            converted[new] = value.flatten(1) if reverse else value.reshape(*value.shape[:2], 1, 1)
    return converted


def _rename(key: str, names: tuple[tuple[str, str], ...], reverse: bool) -> str | None:
    for ours, theirs in names:
        source, target = (ours, theirs) if reverse else (theirs, ours)
        match = re.fullmatch(_pattern(source), key)
        if match:
            found: dict[str, Any] = match.groupdict()
            if "l" in found:
                found["i"] = int(found["l"]) - 1
            elif "i" in found:
                found["l"] = int(found["i"]) + 1
            return target.format(**found)
    return None


def _pattern(template: str) -> str:
    parts = {"i": r"(?P<i>\d+)", "l": r"(?P<l>\d+)", "j": r"(?P<j>\d+)", "p": r"(?P<p>\w+)"}
    return re.sub(r"\\\{(\w)\\\}", lambda match: parts[match.group(1)], re.escape(template))


def load_into(model: nn.Module, spec: RunSpec) -> None:
    """Start `model` from `spec.weights`: `timm/NAME` (downloaded) or a file.

    A stem of another number of input channels is adapted as timm does (grey: summed over the colours). Another number
    of classes is refused unless `spec.new_head`, which keeps the fresh classifier. Raises SpecError in one line.
    """
    source = str(spec.weights)
    weights = _ours(_from_timm(source) if source.startswith("timm/") else _from_file(source), source)
    own = model.state_dict()
    weights = _adapt_stem(weights, own)
    if "head.weight" in weights and weights["head.weight"].shape[0] != own["head.weight"].shape[0]:
        theirs, wanted = weights["head.weight"].shape[0], own["head.weight"].shape[0]
        if not spec.new_head:
            what = f"has {theirs} classes, data={spec.data.name} has {wanted}; new_head=true trains a new classifier"
            raise SpecError(f"weights={source}: {what}")
        weights |= {key: own[key] for key in ("head.weight", "head.bias")}
    for key in sorted(own.keys() | weights.keys()):
        ours, theirs = (list(d[key].shape) if key in d else "none" for d in (own, weights))
        if ours != theirs:
            raise SpecError(f"weights={source}: does not fit this network: {key} is {theirs} there and {ours} here")
    model.load_state_dict(weights)


def _from_timm(source: str) -> dict[str, Tensor]:
    import timm

    name = source.removeprefix("timm/")
    if not timm.is_model(name.split(".")[0]):
        raise SpecError(f"weights={source}: timm has no model {name}")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SpecError(f"weights={source}: could not be fetched ({reason}); give a file instead") from error


def _from_file(source: str) -> dict[str, Tensor]:
    path = Path(source)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SpecError(f"weights={source}: is not a file of weights ({type(error).__name__})") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SpecError(f"weights={source}: holds no state dict")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _ours(weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Renamed to ours if they are a ResNet's or a ConvNeXt's."""
    try:
        if "layer1.0.conv1.weight" in weights:
            return convert(weights, step="baseline")
        if "stages.0.blocks.0.conv_dw.weight" in weights:
            v2 = "stages.0.blocks.0.mlp.grn.weight" in weights
            return convert(weights, step="grn" if v2 else "separate_downsampling")
    except SpecError as error:
        raise SpecError(f"weights={source}: {error}") from error
    return weights


def _adapt_stem(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    from timm.models import adapt_input_conv

    key = "stem.conv.weight"
    if key in weights and weights[key].shape[1] == 3 != own[key].shape[1]:
        return weights | {key: adapt_input_conv(own[key].shape[1], weights[key])}
    return weights
