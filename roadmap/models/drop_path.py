"""Stochastic depth (Huang et al., "Deep networks with stochastic depth", ECCV 2016), with addressed draws."""

from __future__ import annotations

import timm.layers
import torch
from torch import Tensor, nn

from roadmap.runtime.random import uniform


class DropPath(nn.Module):
    """In training, drops the whole residual branch of an image with probability `rate`, and scales up the kept ones.

    N,... -> N,... What `draw` decided holds for the next forward pass; without it PyTorch's generator decides.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.factor: Tensor | None = None  # (N,), 0 or 1 / (1 - rate)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        factor, self.factor = self.factor, None
        if factor is None:
            factor = _keep(torch.rand(len(x), device=x.device), self.rate)
        return x * factor.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def _keep(draws: Tensor, rate: float) -> Tensor:
    return (draws < 1 - rate).to(torch.float32) / (1 - rate)


def replace_timm_drop_path(model: nn.Module) -> nn.Module:
    """`model`, built of timm's layers, with stochastic depth drawn as ours is."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, timm.layers.DropPath):
                setattr(module, name, DropPath(child.drop_prob))
    return model


def draw_masks(model: nn.Module, seed: int, epoch: int, step: int, positions: Tensor) -> None:
    """Decide for every DropPath of `model` which images of this step keep their branch.

    `positions` (N,) int64, on the CPU, says where the images stand in the global batch: processes that share a batch
    draw what one process would.
    """
    layers = [module for module in model.modules() if isinstance(module, DropPath)]
    if not layers:
        return
    device = next(model.parameters()).device
    draws = uniform(seed, positions, "drop_path", epoch, step, count=len(layers))
    for i, layer in enumerate(layers):
        layer.factor = _keep(draws[:, i], layer.rate).to(device, non_blocking=True)
