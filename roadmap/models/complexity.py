"""Counts parameters, multiply-adds and activations of a network on the meta device, without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from roadmap.config.names import one_line
from roadmap.config.schema import NetworkSpec, SpecError
from roadmap.models.network import build_network


@dataclass(frozen=True)
class Cost:
    """What a network costs. Multiply-adds and activations are those of one image."""

    params: int
    gmacs: float  # multiply-adds / 1e9
    activations: int  # elements of the outputs of convolutions and linear layers


def measure_cost(spec: NetworkSpec, image_size: int) -> Cost:
    """Return the cost of the network of `spec` for one square image of `image_size` pixels."""
    with torch.device("meta"):
        model = build_network(spec, image_size).eval()
        image = torch.empty(1, spec.in_chans, image_size, image_size)
    return measure_module(model, image)


def check_user_classes(spec: NetworkSpec, image_size: int) -> None:
    """Raise SpecError if the network of `spec` has classes of the user and cannot be computed with them."""
    if not spec.user_classes:
        return
    field, path = next(reversed(spec.user_classes.items()))
    try:
        measure_cost(spec, image_size)
    except SpecError:
        raise
    except Exception as error:  # whatever the code of the user raises
        reason = one_line(f"{type(error).__name__}: {error}")[:300]
        raise SpecError(f"{field}={path}: the network cannot be computed ({reason}); correct the class") from error


def measure_module(model: nn.Module, image: torch.Tensor) -> Cost:
    """Return the cost of `model` for `image` (1, C, H, W), both on the same device."""
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
