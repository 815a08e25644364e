"""The layers that the networks are made of. Activations and feature maps are N,C,H,W throughout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn

from roadmap.spec import Activation, NetworkSpec, Norm

__all__ = ["DropPath", "LayerScale", "act", "conv", "norm"]


class LayerScale(nn.Module):
    """x * gamma, one learned factor per channel (Table 5; Touvron et al., "Going deeper with image transformers")."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:  # N,C,H,W
        return x * self.gamma.view(-1, 1, 1)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution; on a CPU always in float32, N,C,H,W -> N,C,H,W.

    oneDNN's bfloat16 kernels for it are slower than its float32 ones, backward by up to 10 times: on two cores with
    AVX512-BF16 a whole training step of a depthwise row runs 1 to 4 times as fast with it (base=nano, 8 and 32 pixels).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


class StridedPointwiseConv2d(nn.Conv2d):
    """A strided 1x1 convolution (the shortcut's), N,C,H,W -> N,C',H/stride,W/stride.

    On a CPU the map is thinned out first, the same product: PyTorch 2.15's oneDNN corrupts memory in the backward pass
    of strided 1x1 convolutions from fewer than 10 to 16 channels or fewer (seen on a Zen 4, float32 and bfloat16).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        down, right = self.stride
        return F.conv2d(x[:, :, ::down, ::right], self.weight, self.bias)


def norm(spec: NetworkSpec, channels: int) -> nn.Module:
    """The network's one kind of norm: BatchNorm with ResNet's epsilon, or LayerNorm over C with ConvNeXt's."""
    if spec.norm is Norm.batch_norm:
        return nn.BatchNorm2d(channels, eps=1e-5)
    return LayerNorm2d(channels, eps=1e-6)


def act(spec: NetworkSpec) -> nn.Module:
    return nn.ReLU(inplace=True) if spec.activation is Activation.relu else nn.GELU()


def conv(
    spec: NetworkSpec, w_in: int, w_out: int, kernel: int, *, stride: int = 1, depthwise: bool = False, normed: bool
) -> nn.Conv2d:
    """A convolution; `normed` says that a norm follows it. It has a bias exactly where no BatchNorm does.

    That one rule gives ResNet's convolutions (no bias) and ConvNeXt's (bias) alike. A kernel no larger than its
    stride does not overlap and is not padded (patchify stem, 2x2 downsampling).
    """
    kind = nn.Conv2d
    if depthwise:
        kind = DepthwiseConv2d
    elif kernel == 1 and stride > 1:
        kind = StridedPointwiseConv2d
    return kind(
        w_in,
        w_out,
        kernel,
        stride=stride,
        padding=0 if kernel <= stride else kernel // 2,
        groups=w_in if depthwise else 1,
        bias=not (normed and spec.norm is Norm.batch_norm),
    )
