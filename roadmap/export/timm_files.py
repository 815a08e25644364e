"""A trained network as timm reads it: model.safetensors and config.json, for `timm.create_model("local-dir:DIR")`."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from roadmap.config.compose import compose_network
from roadmap.config.files import config_names
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import NetworkSpec, RunSpec, SpecError
from roadmap.export.families import Family, family_of
from roadmap.inference import TrainedModel
from roadmap.models.weights import convert
from roadmap.timm import ANY_NETWORK, PREFIX

WEIGHTS_NAME, CONFIG_NAME = "model.safetensors", "config.json"
SWIN = "swin_tiny_patch4_window7_224"


def write_registered(trained: TrainedModel, folder: Path) -> str:
    """Write the network under the name that `import roadmap.timm` registers; return that name."""
    spec = trained.spec
    if spec.network.reference is not None:
        name, arguments = SWIN, _swin_arguments(spec)
        classifier, first_conv = "head.fc", "patch_embed.proj"
    else:
        name, arguments = _architecture(spec)
        classifier, first_conv = "head", "stem.conv1" if spec.network.stem.value == "deep" else "stem.conv"
    _write(trained, folder, name, arguments, trained.model.state_dict(), (classifier, first_conv))
    return name


def write_native(trained: TrainedModel, folder: Path) -> str | None:
    """Write a ResNet or a ConvNeXt under timm's own name and return it; None if the network is not one of timm's."""
    network = trained.spec.network
    family = family_of(network)
    state = trained.model.state_dict()
    if family is Family.convnext and network.stem_stride in (4, 1):  # timm adds a downsampling to a stem of stride 2
        arguments = {"depths": network.depths, "dims": [network.width * 2**i for i in range(4)]}
        arguments |= {"patch_size": network.stem_stride, "in_chans": network.in_chans}
        _write(trained, folder, "convnext_tiny", arguments, _reverse(state, family), ("head.fc", "stem.0"))
        return "convnext_tiny"
    if family is Family.resnet and network.stem_stride == 4 and network.width == 64:  # timm's stem has 64 channels
        arguments = {"layers": network.depths, "in_chans": network.in_chans}
        _write(trained, folder, "resnet50", arguments, _reverse(state, family), ("fc", "conv1"))
        return "resnet50"
    return None


def _reverse(state: dict[str, Tensor], family: Family) -> dict[str, Tensor]:
    return convert(state, step=family.step, reverse=True)


def _architecture(spec: RunSpec) -> tuple[str, dict[str, Any]]:
    """Return a registered name, and the arguments with which it makes this network."""
    roadmap, step = spec.roadmap, spec.name
    try:
        registered = load_roadmap(roadmap)
        is_step = step in registered.steps and not registered.own_files
    except SpecError:  # a roadmap outside the package, whose folder is not given
        is_step = False
    name = f"{PREFIX}{step}" if is_step else ANY_NETWORK
    arguments: dict[str, Any] = {}
    if is_step:
        is_packaged = spec.base.name in config_names("base")
        base = spec.base.name if is_packaged else "resnet50"
        arguments = {"base": base, "roadmap": roadmap}
    else:
        base, step, roadmap = "resnet50", "baseline", "convnext"
    default = compose_network(step, base, roadmap=roadmap)
    for field in dataclasses.fields(NetworkSpec):
        value = getattr(spec.network, field.name)
        if value != getattr(default, field.name) and field.name not in ("num_classes", "heads"):
            arguments[field.name] = value.value if isinstance(value, Enum) else value
    return name, arguments


def _swin_arguments(spec: RunSpec) -> dict[str, Any]:
    network = spec.network
    assert network.heads is not None
    arguments = {"img_size": spec.data.image_size, "patch_size": network.stem_stride, "in_chans": network.in_chans}
    heads = [network.heads * 2**i for i in range(4)]
    return arguments | {"embed_dim": network.width, "depths": network.depths, "num_heads": heads}


def _write(
    trained: TrainedModel,
    folder: Path,
    architecture: str,
    arguments: dict[str, Any],
    state: dict[str, Tensor],
    layers: tuple[str, str],
) -> None:
    """Write model.safetensors and config.json; `layers` are the names of the classifier and the first convolution."""
    spec = trained.spec
    size = spec.data.image_size
    num_features = state[f"{layers[0]}.weight"].shape[1]
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": spec.network.num_classes,
        "num_features": num_features,
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [spec.network.in_chans, size, size],
            "fixed_input_size": spec.network.reference is not None,
            "interpolation": spec.recipe.interpolation,
            "crop_pct": 1.0 if spec.data.small_images else spec.recipe.test_crop,
            "crop_mode": "center",
            "mean": list(spec.data.mean),
            "std": list(spec.data.std),
            "num_classes": spec.network.num_classes,
            "pool_size": None,
            "classifier": layers[0],
            "first_conv": layers[1],
        },
    }
    if trained.class_names is not None and len(set(trained.class_names)) == len(trained.class_names):
        config["label_names"] = trained.class_names
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(state, folder)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_weights(state: dict[str, Tensor], folder: Path) -> None:
    """Write a state dict as model.safetensors."""
    save_file({key: value.cpu().contiguous() for key, value in state.items()}, folder / WEIGHTS_NAME, {"format": "pt"})
