"""The two ends of the roadmap in other libraries: which networks are a ResNet or a ConvNeXt there."""

from __future__ import annotations

import dataclasses
from enum import Enum

from roadmap.config.choices import GELU, LAYER_NORM, Stem
from roadmap.config.schema import NetworkSpec

# Fields that change sizes or the training only. Both families have networks with any value of them.
FREE = {
    "depths", "width", "stem_stride", "num_classes", "in_chans", "heads", "drop_path", "dropout", "init", "init_std",
}  # fmt: skip


class Family(Enum):
    """A kind of network of timm and transformers; `step` is the step of ours that is one."""

    resnet = "baseline"
    convnext = "separate_downsampling"

    @property
    def step(self) -> str:
        """Name of the step."""
        return self.value


FIELDS = {  # the other fields, where they differ from the defaults of NetworkSpec
    Family.resnet: {"stem": Stem.conv},
    Family.convnext: {
        "stem": Stem.patchify, "depthwise": True, "inverted_bottleneck": True, "spatial_first": True, "kernel_size": 7,
        "activation": GELU, "fewer_activations": True, "fewer_norms": True, "norm": LAYER_NORM,
        "separate_downsampling": True,
    },
}  # fmt: skip


def family_of(network: NetworkSpec) -> Family | None:
    """Return the family of a network, or None: most steps are networks of this package only."""
    for family, fields in FIELDS.items():
        expected = dataclasses.replace(NetworkSpec(), **fields)  # type: ignore[arg-type]
        names = {field.name for field in dataclasses.fields(NetworkSpec)} - FREE - {"layer_scale"}
        has_layer_scale = network.layer_scale is not None
        if has_layer_scale == (family is Family.convnext) and all(
            getattr(network, name) == getattr(expected, name) for name in names
        ):
            return family
    return None
