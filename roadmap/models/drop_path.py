"""Stochastic depth (Huang et al., "Deep networks with stochastic depth", ECCV 2016) and dropout (Srivastava et al.,
JMLR 2014) with reproducible draws."""

from __future__ import annotations

from collections.abc import Sequence

import timm.layers
import torch
from torch import Tensor, nn

from roadmap.runtime.random import uniform


class _DrawnFactors(nn.Module):
    """Base of layers that multiply their input by 0 or by 1 / (1 - rate). `draw_masks` decides for the next forward
    pass. Without it, PyTorch's generator decides."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.factor: Tensor | None = None  # 0 or 1 / (1 - rate)

    def take_factor(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Return the factors of this forward pass."""
        factor, self.factor = self.factor, None
        if factor is None:
            factor = _factors(torch.rand(tuple(shape), device=device), torch.tensor(1 - self.rate, device=device))
        return factor


class DropPath(_DrawnFactors):
    """Stochastic depth: (N, ...) -> (N, ...).

    In training, the layer sets an image's residual branch to 0 with probability `rate`, and multiplies the kept ones
    by 1 / (1 - rate). The factor has the shape (N,).
    """

    masks: Tensor | None = None  # (layers, N): the factors of all layers, kept by the first layer of a network

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        factor = self.take_factor(x.shape[:1], x.device)
        return x * factor.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


class Dropout(_DrawnFactors):
    """Dropout of features: (N, C) -> (N, C).

    In training, each feature is 0 with probability `rate`, and multiplied by 1 / (1 - rate) otherwise. The factor has
    the shape (N, C).
    """

    mask: Tensor | None = None  # the last factors, whose memory is used again

    def __init__(self, rate: float, features: int) -> None:
        super().__init__(rate)
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return x * self.take_factor(x.shape, x.device).to(x.dtype) if self.training else x


def _factors(draws: Tensor, kept: Tensor) -> Tensor:
    """Return 1 / kept where a draw is below the probability `kept`, else 0."""
    return (draws < kept).to(torch.float32) / kept


def replace_timm_drop_path(model: nn.Module) -> nn.Module:
    """Replace timm's DropPath layers of `model` by ours, in place, and return `model`."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, timm.layers.DropPath):
                setattr(module, name, DropPath(child.drop_prob))
    return model


def draw_masks(model: nn.Module, seed: int, epoch: int, iteration: int, positions: Tensor) -> None:
    """Decide for every DropPath of `model` which images of this training iteration keep their branch, and for every
    Dropout which features.

    `positions` (N,) int64, on the CPU, are the positions of the images in the global batch. The draws depend on them,
    so that processes that share a batch draw the same as one process.
    """
    _draw_dropout(model, seed, epoch, iteration, positions)
    layers = [module for module in model.modules() if isinstance(module, DropPath)]
    if not layers:
        return
    kept = torch.tensor([1 - layer.rate for layer in layers])
    draws = uniform(seed, positions, "drop_path", epoch, iteration, count=len(layers))
    # In one tensor: one transfer to the device for all layers. It stays the same tensor where a CUDA graph reads it.
    factors = _factors(draws, kept).T.contiguous()
    masks = layers[0].masks = _copy_to_device(factors, layers[0].masks, model)
    for layer, factor in zip(layers, masks.unbind(), strict=True):
        layer.factor = factor


def _draw_dropout(model: nn.Module, seed: int, epoch: int, iteration: int, positions: Tensor) -> None:
    for number, layer in enumerate(module for module in model.modules() if isinstance(module, Dropout)):
        draws = uniform(seed, positions, "dropout", number, epoch, iteration, count=layer.features)
        layer.mask = layer.factor = _copy_to_device(_factors(draws, torch.tensor(1 - layer.rate)), layer.mask, model)


def _copy_to_device(factors: Tensor, last: Tensor | None, model: nn.Module) -> Tensor:
    """Copy `factors` into `last`, or into a new tensor on the device of `model` if the shape differs."""
    if last is None or last.shape != factors.shape:
        last = torch.empty_like(factors, device=next(model.parameters()).device)
    return last.copy_(factors, non_blocking=True)
