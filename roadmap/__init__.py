"""Ablation study of the steps from ResNet-50 to ConvNeXt (Liu et al., "A ConvNet for the 2020s", CVPR 2022).

Examples:
    >>> import roadmap
    >>> roadmap.steps()                                      # names of the steps, in order
    >>> model = roadmap.create_model("inverted_bottleneck")  # a torch.nn.Module
    >>> spec = roadmap.compose("+step=gelu", "data=digits")  # the run that the command line would train
    >>> trained = roadmap.load("experiments/runs/NAME")      # the network of a run, with its weights
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from roadmap.config.schema import RunSpec
    from roadmap.inference import TrainedModel
    from roadmap.models.network import Network

__all__ = ["compose", "convert_weights", "create_model", "load", "steps"]
__version__ = "0.2.0"


def steps(roadmap: str = "convnext") -> list[str]:
    """Return the names of the steps of a roadmap in order; variants are not among them.

    Raises ValueError for an unknown roadmap.
    """
    from roadmap.config.roadmaps import load_roadmap

    return load_roadmap(roadmap).step_names


def compose(*overrides: str) -> RunSpec:
    """Return the validated spec of the run that `python run_roadmap.py OVERRIDES` would train.

    Raises ValueError, in one line that names the field, for an override that is unknown, mistyped or impossible.
    """
    from roadmap.config import compose as composition

    return composition.compose(*overrides)


def create_model(
    step: str,
    base: str = "resnet50",
    num_classes: int = 1000,
    in_chans: int = 3,
    roadmap: str = "convnext",
    **network_fields: Any,
) -> Network:
    """Return the network of a step or variant with initial weights: (N, in_chans, H, W) -> logits (N, num_classes).

    `network_fields` are fields of `roadmap.config.schema.NetworkSpec`, as `depths=[3, 4, 23, 3]` for a ResNet-101.
    Raises ValueError, in one line that names the field, for an unknown name or a network that is impossible.
    """
    from roadmap.config.compose import compose_network
    from roadmap.models.network import Network

    return Network(compose_network(step, base, num_classes, in_chans, roadmap, **network_fields))


def load(source: str | Path, device: str = "auto", ema: bool = False) -> TrainedModel:
    """Return the trained network of a run, with its spec, its record, its classes and its preprocessing.

    With `ema`, the weights are their moving average, which runs with `recipe.ema_decay` have.

    `source` is the folder of a run (`experiments/runs/NAME`), a folder that `roadmap export` has written, another
    folder with record.json and model.pt, or `hf-hub:OWNER/NAME`: a repository on the Hugging Face hub. Raises
    ValueError with a one-line message if the run is not completed or if one of its files is missing or damaged.

    Examples:
        >>> trained = load("experiments/runs/NAME")
        >>> trained.predict(PIL.Image.open("image.png"))  # probabilities (1, num_classes)
    """
    from roadmap import inference

    return inference.load(source, device, ema)


def convert_weights(
    state_dict: dict[str, Tensor], *, step: str, base: str = "resnet50", reverse: bool = False
) -> dict[str, Tensor]:
    """Return `state_dict` of torchvision's or timm's network with the names of ours, or with `reverse` the opposite.

    For `step="baseline"` the other network is a ResNet of torchvision or timm, for `separate_downsampling` a ConvNeXt
    of timm, for `grn` a ConvNeXt V2 of timm, for `resnet_d` of the roadmap `resnet_rs` a ResNet-RS of timm. Both
    networks compute the same logits. Raises ValueError for a step without such a network and for a key that the network
    does not have.
    """
    from roadmap.models import weights

    return weights.convert(state_dict, step=step, base=base, reverse=reverse)
