"""Parameters, multiply-adds and activations of a network, counted on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from roadmap.config.schema import NetworkSpec
from roadmap.models.network import build


@dataclass(frozen=True)
class Cost:
    params: int
    gmacs: float
    activations: int  # numbers that convolutions and linear layers put out, for one image


def measure(spec: NetworkSpec, image_size: int) -> Cost:
    """The cost of the network of `spec` for one square image of `image_size` pixels."""
    with torch.device("meta"):
        model = build(spec, image_size).eval()
        image = torch.empty(1, spec.in_chans, image_size, image_size)
    return measure_module(model, image)


def measure_module(model: nn.Module, image: torch.Tensor) -> Cost:
    activations = 0

    def add(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal activations
        activations += output.numel()

    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    params = sum(parameter.numel() for parameter in model.parameters())
    return Cost(params, counter.get_total_flops() / 2e9, activations)
