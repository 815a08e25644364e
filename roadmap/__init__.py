"""The road from ResNet-50 to ConvNeXt as an ablation study (Liu et al., "A ConvNet for the 2020s", CVPR 2022).

>>> import roadmap
>>> roadmap.steps()                                   # the stations, in order
>>> model = roadmap.create_model("inverted_bottleneck")
>>> spec = roadmap.compose("+step=gelu", "data=digits")  # what the command line would run
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from roadmap.config.schema import RunSpec
    from roadmap.models.network import Network

__all__ = ["compose", "convert_weights", "create_model", "steps"]
__version__ = "0.1.0"


def steps() -> list[str]:
    """The names of the stations, in the order of the road, from `baseline` on."""
    from roadmap.config.steps import step_names

    return step_names()


def compose(*overrides: str) -> RunSpec:
    """The typed run spec that `python run_roadmap.py OVERRIDES` would run; see `roadmap.config.compose`."""
    from roadmap.config.compose import compose

    return compose(*overrides)


def create_model(
    step: str, base: str = "resnet50", num_classes: int = 1000, in_chans: int = 3, **network_fields: Any
) -> Network:
    """The network of a station or variant, freshly initialised: (N, in_chans, H, W) -> (N, num_classes).

    `network_fields` are fields of `roadmap.spec.NetworkSpec`, as `depths=[3, 4, 23, 3]` for a ResNet-101.
    Raises ValueError, naming the field, for anything unknown or without meaning.
    """
    from roadmap.config.compose import compose_network
    from roadmap.models.network import Network

    return Network(compose_network(step, base, num_classes, in_chans, **network_fields))


def convert_weights(
    state_dict: dict[str, Tensor], *, step: str, base: str = "resnet50", reverse: bool = False
) -> dict[str, Tensor]:
    """Rename the weights of torchvision's or timm's ResNet (for `baseline`), of timm's ConvNeXt (for
    `separate_downsampling`) or ConvNeXt V2 (for `grn`) to ours, or with `reverse` ours to theirs; see
    `roadmap.weights.convert`."""
    from roadmap.models import weights

    return weights.convert(state_dict, step=step, base=base, reverse=reverse)
