"""Layers of the networks. All activations and feature maps are (N, C, H, W)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from roadmap.config.choices import Activation, Norm
from roadmap.config.schema import NetworkSpec
from roadmap.models import cpu_kernels

__all__ = ["Conv2d", "DepthwiseConv2d", "GlobalResponseNorm", "LayerNorm", "LayerScale", "act", "chain", "conv", "norm"]

TINY = torch.finfo(torch.float32).tiny
# Layers whose output is always a new tensor, which their backward pass does not use: it may be overwritten.
OVERWRITABLE = (nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm)


class LayerScale(nn.Module):
    """x * gamma, (N, C, H, W) -> (N, C, H, W), with one learned factor per channel.

    Table 5 of the paper; Touvron et al., "Going deeper with image transformers" (ICCV 2021). `initial` is the value
    of gamma before training.
    """

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.view(-1, 1, 1)


class GlobalResponseNorm(nn.Module):
    """x + gamma * (x * n) + beta, (N, C, H, W) -> (N, C, H, W).

    n is the L2 norm of a channel over its map, divided by the mean of these norms over all channels. Woo et al.,
    "ConvNeXt V2" (arXiv:2301.00808), section 4. Before training, gamma and beta are 0 and the layer is the identity.
    It computes in float32, under autocast too. The result has the dtype of x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # Clamped, because a square root has no gradient at 0. torch's own norm takes 2 to 7 times as long on CPUs.
        norms = wide.square().sum((2, 3), keepdim=True).clamp(min=TINY).sqrt()
        n = norms / (norms.mean(1, keepdim=True) + 1e-6)
        return (wide * (1 + self.gamma.view(-1, 1, 1) * n) + self.beta.view(-1, 1, 1)).to(x.dtype)


class Conv2d(nn.Conv2d):
    """A convolution over all channels, (N, C, H, W) -> (N, C', H', W'), computed by `cpu_kernels.conv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_tracing():  # `cpu_kernels` compares sizes, which are tensors during tracing
            return super().forward(input)
        return cpu_kernels.conv2d(input, self.weight, self.bias, self.stride[0], int(self.padding[0]))


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution, (N, C, H, W) -> (N, C, H / stride, W / stride), computed by
    `cpu_kernels.depthwise_conv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        if cpu_kernels.is_traced():
            return super().forward(input)
        return cpu_kernels.depthwise_conv2d(input, self.weight, self.bias, self.stride[0])


class LayerNorm(LayerNorm2d):
    """Layer normalization over the channels of each pixel, (N, C, H, W) -> (N, C, H, W), in the dtype that
    `cpu_kernels.to_float32` chooses."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(cpu_kernels.to_float32(x))


def norm(spec: NetworkSpec, channels: int) -> nn.Module:
    """Return the norm that the whole network uses: BatchNorm with ResNet's epsilon, or LayerNorm with ConvNeXt's."""
    if spec.norm is Norm.batch_norm:
        return nn.BatchNorm2d(channels, eps=1e-5)
    return LayerNorm(channels, eps=1e-6)


def act(spec: NetworkSpec, *, inplace: bool = False) -> nn.Module:
    """Return the activation that the whole network uses: ReLU or GELU.

    With `inplace`, a ReLU overwrites its input. `chain` sets it where that is safe.
    """
    return nn.ReLU(inplace) if spec.activation is Activation.relu else nn.GELU()


def chain(layers: dict[str, nn.Module]) -> nn.Sequential:
    """Return the layers as one module that applies them in order.

    A ReLU works in place, which saves the memory of a feature map, only directly after a layer of this chain whose
    output may be overwritten. A ReLU at the start must not work in place: its input is also the input of the shortcut.
    """
    previous = None
    for layer in layers.values():
        if isinstance(layer, nn.ReLU):
            layer.inplace = isinstance(previous, OVERWRITABLE)
        previous = layer
    return nn.Sequential(OrderedDict(layers))


def conv(
    spec: NetworkSpec, w_in: int, w_out: int, kernel: int, *, stride: int = 1, depthwise: bool = False, normed: bool
) -> nn.Conv2d:
    """Return a convolution; `normed` says that a norm follows it.

    It has a bias unless a BatchNorm follows it. This rule gives ResNet's convolutions (no bias) and ConvNeXt's (bias).
    A kernel that is not larger than its stride has no overlap and no padding (patchify stem, 2x2 downsampling).
    """
    kind = DepthwiseConv2d if depthwise else Conv2d
    return kind(
        w_in,
        w_out,
        kernel,
        stride=stride,
        padding=0 if kernel <= stride else kernel // 2,
        groups=w_in if depthwise else 1,
        bias=not (normed and spec.norm is Norm.batch_norm),
    )
