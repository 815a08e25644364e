"""The layers that the networks are made of. Activations and feature maps are N,C,H,W throughout."""

from __future__ import annotations

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from roadmap.config.schema import Activation, NetworkSpec, Norm
from roadmap.models import cpu_kernels

__all__ = ["GlobalResponseNorm", "LayerScale", "act", "conv", "norm"]

TINY = torch.finfo(torch.float32).tiny


class LayerScale(nn.Module):
    """x * gamma, one learned factor per channel (Table 5; Touvron et al., "Going deeper with image transformers")."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:  # N,C,H,W
        return x * self.gamma.view(-1, 1, 1)


class GlobalResponseNorm(nn.Module):
    """x + gamma * (x * n) + beta, N,C,H,W; n is a channel's L2 norm over its map, divided by the mean of all channels'.

    Woo et al., "ConvNeXt V2" (arXiv:2301.00808), section 4; the identity at the start. Computed in float32, under
    autocast too; the result has the dtype of x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # N,C,H,W
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # Clamped: a root has no gradient at 0. Not torch's own norm, which takes 2 to 7 times as long on CPUs.
        norms = wide.square().sum((2, 3), keepdim=True).clamp(min=TINY).sqrt()
        n = norms / (norms.mean(1, keepdim=True) + 1e-6)
        return (wide * (1 + self.gamma.view(-1, 1, 1) * n) + self.beta.view(-1, 1, 1)).to(x.dtype)


class Conv2d(nn.Conv2d):
    """A convolution over all channels, N,C,H,W -> N,C',H',W', as `kernels` computes it."""

    def forward(self, x: Tensor) -> Tensor:
        return cpu_kernels.conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0])


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution, N,C,H,W -> N,C,H/stride,W/stride, as `kernels` computes it."""

    def forward(self, x: Tensor) -> Tensor:
        return cpu_kernels.depthwise_conv2d(x, self.weight, self.bias, self.stride[0])


class LayerNorm(LayerNorm2d):
    """Over the channels of each pixel, N,C,H,W, in the dtype that `kernels` chooses."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(cpu_kernels.to_float32(x))


def norm(spec: NetworkSpec, channels: int) -> nn.Module:
    """The network's one kind of norm: BatchNorm with ResNet's epsilon, or LayerNorm over C with ConvNeXt's."""
    if spec.norm is Norm.batch_norm:
        return nn.BatchNorm2d(channels, eps=1e-5)
    return LayerNorm(channels, eps=1e-6)


def act(spec: NetworkSpec) -> nn.Module:
    return nn.ReLU(inplace=True) if spec.activation is Activation.relu else nn.GELU()


def conv(
    spec: NetworkSpec, w_in: int, w_out: int, kernel: int, *, stride: int = 1, depthwise: bool = False, normed: bool
) -> nn.Conv2d:
    """A convolution; `normed` says that a norm follows it. It has a bias exactly where no BatchNorm does.

    That one rule gives ResNet's convolutions (no bias) and ConvNeXt's (bias) alike. A kernel no larger than its
    stride does not overlap and is not padded (patchify stem, 2x2 downsampling).
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
