"""A ResNet or a ConvNeXt as Hugging Face transformers reads it: model.safetensors and config.json.

transformers itself is not needed. The names of the weights are those of `ResNetForImageClassification` and
`ConvNextForImageClassification`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from roadmap.config.schema import NetworkSpec
from roadmap.export.families import Family, family_of
from roadmap.export.timm_files import CONFIG_NAME, save_weights
from roadmap.inference import TrainedModel
from roadmap.models.weights import Names, rename

# As in `roadmap.models.weights`: (our name, name in the source). {i}: stage, {j}: block, {p}: weight, bias, ...
BLOCK = "resnet.encoder.stages.{i}.layers.{j}"
RESNET_NAMES: Names = (
    ("stem.conv.{p}", "resnet.embedder.embedder.convolution.{p}"),
    ("stem.norm.{p}", "resnet.embedder.embedder.normalization.{p}"),
    *(
        (f"stages.{{i}}.blocks.{{j}}.branch.{ours}{kind}.{{p}}", f"{BLOCK}.layer.{number}.{theirs}.{{p}}")
        for number, ours in enumerate(("pointwise1", "spatial", "pointwise2"))
        for kind, theirs in (("", "convolution"), ("_norm", "normalization"))
    ),
    ("stages.{i}.blocks.{j}.shortcut.conv.{p}", BLOCK + ".shortcut.convolution.{p}"),
    ("stages.{i}.blocks.{j}.shortcut.norm.{p}", BLOCK + ".shortcut.normalization.{p}"),
    ("head.{p}", "classifier.1.{p}"),
)
LAYER = "convnext.encoder.stages.{i}.layers.{j}"
CONVNEXT_NAMES: Names = (
    ("stem.conv.{p}", "convnext.embeddings.patch_embeddings.{p}"),
    ("stem.norm.{p}", "convnext.embeddings.layernorm.{p}"),
    ("stages.{i}.downsample.norm.{p}", "convnext.encoder.stages.{i}.downsampling_layer.0.{p}"),
    ("stages.{i}.downsample.conv.{p}", "convnext.encoder.stages.{i}.downsampling_layer.1.{p}"),
    ("stages.{i}.blocks.{j}.branch.spatial.{p}", LAYER + ".dwconv.{p}"),
    ("stages.{i}.blocks.{j}.branch.norm.{p}", LAYER + ".layernorm.{p}"),
    ("stages.{i}.blocks.{j}.branch.pointwise1.{p}", LAYER + ".pwconv1.{p}"),
    ("stages.{i}.blocks.{j}.branch.pointwise2.{p}", LAYER + ".pwconv2.{p}"),
    ("stages.{i}.blocks.{j}.layer_scale.gamma", LAYER + ".layer_scale_parameter"),
    ("head_norm.{p}", "convnext.layernorm.{p}"),
    ("head.{p}", "classifier.{p}"),
)


def write_transformers(trained: TrainedModel, folder: Path) -> str | None:
    """Write the network for transformers and return the name of its class; None if transformers does not have it."""
    network = trained.spec.network
    family = family_of(network)
    if family is Family.convnext:
        name, names, config = "ConvNextForImageClassification", CONVNEXT_NAMES, _convnext_config(network)
    elif family is Family.resnet and network.stem_stride == 4:
        name, names, config = "ResNetForImageClassification", RESNET_NAMES, _resnet_config(network)
    else:
        return None
    labels = trained.class_names or [f"class {i}" for i in range(network.num_classes or 0)]
    config = {"architectures": [name], **config, "depths": network.depths, "num_channels": network.in_chans}
    config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    folder.mkdir(parents=True)
    save_weights(rename(trained.model.state_dict(), names, True, family.step), folder)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return name


def _resnet_config(network: NetworkSpec) -> dict[str, Any]:
    widths = {"embedding_size": network.width, "hidden_sizes": [4 * network.width * 2**i for i in range(4)]}
    return {"model_type": "resnet", "layer_type": "bottleneck", "hidden_act": "relu", **widths}


def _convnext_config(network: NetworkSpec) -> dict[str, Any]:
    config = {"model_type": "convnext", "hidden_sizes": [network.width * 2**i for i in range(4)], "num_stages": 4}
    scale = {"layer_scale_init_value": network.layer_scale, "layer_norm_eps": 1e-6}
    return {**config, "patch_size": network.stem_stride, "hidden_act": "gelu", **scale}
