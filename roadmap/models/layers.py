"""Layers of the networks. All activations and feature maps are (N, C, H, W)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import LayerNorm2d, SEModule
from torch import Tensor, nn

from roadmap.config.choices import BATCH_NORM, GELU, LAYER_NORM, RELU
from roadmap.config.schema import NetworkSpec
from roadmap.config.user_classes import import_class
from roadmap.models import cpu_kernels

__all__ = ["Conv2d", "DepthwiseConv2d", "GlobalResponseNorm", "LayerNorm", "LayerScale", "act", "chain", "conv", "norm"]

TINY = torch.finfo(torch.float32).tiny


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


# Layers whose output is always a new tensor, which their backward pass does not use: it may be overwritten. Not their
# subclasses: those of the user may use it.
OVERWRITABLE = (nn.Conv2d, Conv2d, DepthwiseConv2d, nn.BatchNorm2d, nn.LayerNorm, LayerNorm)


def norm(spec: NetworkSpec, channels: int) -> nn.Module:
    """Return the norm that the whole network uses: BatchNorm with ResNet's epsilon, LayerNorm with ConvNeXt's, or a
    class of the user, which is called with the number of channels."""
    if spec.norm == BATCH_NORM:
        return nn.BatchNorm2d(channels, eps=1e-5)
    if spec.norm == LAYER_NORM:
        return LayerNorm(channels, eps=1e-6)
    layer: nn.Module = import_class(spec.norm, "network.norm")(channels)
    return layer


def act(spec: NetworkSpec, *, inplace: bool = False) -> nn.Module:
    """Return the activation that the whole network uses: ReLU, GELU, or a class of the user, called without arguments.

    With `inplace`, a ReLU overwrites its input. `chain` sets it where that is safe.
    """
    if spec.activation in (RELU, GELU):
        return nn.ReLU(inplace) if spec.activation == RELU else nn.GELU()
    layer: nn.Module = import_class(spec.activation, "network.activation")()
    return layer


def squeeze_excitation(spec: NetworkSpec, channels: int) -> nn.Module:
    """Return squeeze-and-excitation (Hu et al., CVPR 2018) as in timm: (N, C, H, W) -> (N, C, H, W).

    The mean of each channel goes through two 1x1 convolutions with a ReLU between them and a sigmoid after them, and
    scales the channel. The hidden channels are the fraction `spec.squeeze_excitation`, rounded to a multiple of 8.
    """
    assert spec.squeeze_excitation is not None
    return SEModule(channels, rd_ratio=spec.squeeze_excitation)


def chain(layers: dict[str, nn.Module]) -> nn.Sequential:
    """Return the layers as one module that applies them in order.

    A ReLU works in place, which saves the memory of a feature map, only directly after a layer of this chain whose
    output may be overwritten. A ReLU at the start must not work in place: its input is also the input of the shortcut.
    """
    previous = None
    for layer in layers.values():
        if isinstance(layer, nn.ReLU):
            layer.inplace = type(previous) in OVERWRITABLE
        previous = layer
    return nn.Sequential(OrderedDict(layers))


def conv(
    spec: NetworkSpec, w_in: int, w_out: int, kernel: int, *, stride: int = 1, depthwise: bool = False, normed: bool
) -> nn.Conv2d:
    """Return a convolution; `normed` says that a norm follows it.

    It has a bias unless a BatchNorm follows it. This rule gives ResNet's convolutions (no bias) and ConvNeXt's (bias).
    A kernel that is not larger than its stride has no overlap and no padding (patchify stem, 2x2 downsampling).
    """
    return _make_conv(DepthwiseConv2d if depthwise else Conv2d, spec, w_in, w_out, kernel, stride, depthwise, normed)


def spatial_conv(spec: NetworkSpec, w_in: int, w_out: int, stride: int, *, normed: bool) -> nn.Module:
    """Return the spatial convolution of a block: see `conv`. It may be of the user's class `spec.conv`, which is called
    with the arguments of nn.Conv2d."""
    if spec.conv is None:
        return conv(spec, w_in, w_out, spec.kernel_size, stride=stride, depthwise=spec.depthwise, normed=normed)
    kind = import_class(spec.conv, "network.conv")
    return _make_conv(kind, spec, w_in, w_out, spec.kernel_size, stride, spec.depthwise, normed)


def _make_conv(
    kind: Callable[..., Any],
    spec: NetworkSpec,
    w_in: int,
    w_out: int,
    kernel: int,
    stride: int,
    depthwise: bool,
    normed: bool,
) -> Any:
    return kind(
        w_in,
        w_out,
        kernel,
        stride=stride,
        padding=0 if kernel <= stride else kernel // 2,
        groups=w_in if depthwise else 1,
        bias=not (normed and spec.norm == BATCH_NORM),
    )
