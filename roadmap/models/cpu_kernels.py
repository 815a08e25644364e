"""Faster forms of what PyTorch computes slowly on a CPU: same results, other order of sums.

A network's convolutions come here. Which form a shape gets depends on the shape, the dtype and the processor alone,
so that runs repeat to the bit; the thresholds were measured on one core of a Zen 4 with AVX512-BF16, PyTorch 2.15.
`python benchmarks/kernels.py` says what the forms are worth together. Maps are N,C,H,W, best in channels_last; so are
the results. Elsewhere than on x86 CPUs, and after `use(False)`, everything is PyTorch's own.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["conv2d", "depthwise_conv2d", "enable", "keep_memory", "to_float32"]

SMALL_MAP = 64  # pixels: up to here a convolution of windows is faster as a matrix product ...
MOST_ROWS = 8192  # ... of so many windows; a bf16 product over 65536 of them dies of SIGFPE in oneDNN
STRIP = 3  # columns: oneDNN has a fast weight gradient for depthwise kernels that are no wider

_fast = True


def enable(fast: bool) -> None:
    """Switch the fast forms on (as at the start) or off, for the whole process."""
    global _fast  # noqa: PLW0603
    _fast = fast


def _fast_for(x: Tensor) -> bool:
    return _fast and x.device.type == "cpu" and _is_x86()


@cache
def _is_x86() -> bool:
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")


@cache
def keep_memory() -> bool:
    """Let this process keep the memory that it frees, up to its peak; whether that worked (glibc on Linux only).

    glibc else hands the larger feature maps back after use, and each step pays up to 6,000 page faults to get them
    again: 22 % more images/s for base=nano, +step=increase_width at 32 pixels, nothing where all maps are small.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # another C library has none
    m_trim_threshold, m_mmap_threshold = -1, -3
    if mallopt is None or not (mallopt(m_mmap_threshold, 2**30) or mallopt(m_mmap_threshold, 2**25)):
        return False  # older ones take no more than 32 MiB
    return bool(mallopt(m_trim_threshold, 2**30))


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """A convolution over all channels. N,C,H,W and C',C,k,k -> N,C',H',W'.

    Where each pixel is in at most one window, the windows of a small map are the rows of one matrix product. oneDNN
    rearranges the weights of a convolution at each call, which costs more than the product of few rows. Forward and
    backward of 1x1 kernels in bf16 (fp32) run 3.5 to 4.7 (2.4 to 3.5) times as fast on 1x1 maps, 1.6 to 2 (1.2 to
    1.5) times on 2x2 maps, 1.1 to 1.3 (0.9 to 1.3) times on 4x4 and 8x8 maps, and no faster on larger ones.
    """
    kernel, (height, width) = weight.shape[-1], x.shape[2:]
    if kernel == 1 and stride > 1 and x.device.type == "cpu":
        # Thinned out first, the same product: PyTorch 2.15's oneDNN corrupts memory in the backward pass of strided
        # 1x1 convolutions from fewer than 10 to 16 channels or fewer (seen on a Zen 4, float32 and bfloat16).
        return conv2d(_subsample(x, stride), weight, bias, 1, padding)
    if _fast_for(x) and kernel == 2 * padding + 1 and max(height, width) <= min(stride, padding + 1):
        weight = weight[:, :, padding : padding + height, padding : padding + width]  # one window, filled in part
    elif not _fast_for(x) or kernel != stride or padding > 0:
        return F.conv2d(x, weight, bias, stride, padding)
    tall, wide = weight.shape[2:]
    pixels = (height // tall) * (width // wide)
    if pixels > SMALL_MAP or len(x) * pixels > MOST_ROWS:
        return F.conv2d(x, weight, bias, (tall, wide))
    return _windows(x, weight, bias)


def _subsample(x: Tensor, stride: int) -> Tensor:
    """x[:, :, ::stride, ::stride], whose gradient is in channels_last too."""
    return x.permute(0, 2, 3, 1)[:, ::stride, ::stride].permute(0, 3, 1, 2)


def _windows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution whose stride is its kernel, as a matrix product: a row for each window, a column for each C'."""
    tall, wide = weight.shape[2:]
    n, c, rows, columns = len(x), x.shape[1], x.shape[2] // tall, x.shape[3] // wide
    x = x[:, :, : rows * tall, : columns * wide].permute(0, 2, 3, 1)
    x = x.reshape(n, rows, tall, columns, wide * c).transpose(2, 3).reshape(n, rows, columns, tall * wide * c)
    return F.linear(x, weight.permute(0, 2, 3, 1).flatten(1), bias).permute(0, 3, 1, 2)


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """A depthwise convolution padded by half its kernel. N,C,H,W and C,1,k,k -> N,C,H',W'; H' = H / stride, rounded up.

    The part of the kernel that no pixel of a small map meets is left out; a 1x1 map meets one number a channel.
    With the fast forms off, it is float32 under autocast too: oneDNN's bf16 gradients take 2 to 100 times as long.
    """
    autocast = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if x.device.type != "cpu":
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, len(weight))
    with torch.autocast("cpu", enabled=False):
        if not _fast_for(x):
            x = x.float() if autocast else x
            return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, len(weight))
        dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
        centre, up, left = weight.shape[-1] // 2, *(min(weight.shape[-1] // 2, side - 1) for side in x.shape[2:])
        weight = weight[:, :, centre - up : centre + up + 1, centre - left : centre + left + 1].to(dtype)
        x, bias = x.to(dtype), None if bias is None else bias.to(dtype)
        if weight[0].numel() > 1:
            return _Depthwise.apply(x, weight, bias, stride)
        y = (_subsample(x, stride) if stride > 1 else x) * weight.view(-1, 1, 1)
        return y if bias is None else y + bias.view(-1, 1, 1)


class _Depthwise(torch.autograd.Function):
    """oneDNN's depthwise convolution, with gradients in forms that oneDNN computes fast.

    Its weight gradient is fast for kernels of at most 3 columns on maps no smaller than the kernel. So wide kernels
    are done in strips of 3 columns, each with its own part of a padded map, and low maps get their padding before.
    Milliseconds for 7x7, plain -> strips: 24 channels, 8x8, batch 128: bf16 5.8 -> 0.8, fp32 2.8 -> 0.8; 384, 8x8, 64:
    39 -> 3.1, 25 -> 10; 48, 4x4, 128: 3.3 -> 0.5, 1.7 -> 0.6; 96, 56x56, 8: 54 -> 7, 35 -> 12.

    A strided convolution is one of stride 1 of whose result most is thrown away: its gradients are those of stride 1
    with zeros in between. In bf16 that is 16 -> 0.3 ms for the input (3x3, 24 channels, 8x8, batch 128).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride, _padding(weight), 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = dweight = None
        dbias = dy.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        if ctx.stride > 1:
            thinned, dy = dy, torch.zeros_like(x, memory_format=torch.channels_last)
            dy[:, :, :: ctx.stride, :: ctx.stride] = thinned
        if ctx.needs_input_grad[0]:
            dx, _ = _gradients(dy, x, weight, _padding(weight), of_x=True)
        if ctx.needs_input_grad[1]:
            dweight = _weight_gradient(dy, x, weight)
        return dx, dweight, dbias, None


def _padding(weight: Tensor) -> tuple[int, int]:
    return weight.shape[2] // 2, weight.shape[3] // 2


def _weight_gradient(dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Of a depthwise convolution of stride 1."""
    (tall, wide), (height, width), (rows, columns) = weight.shape[2:], x.shape[2:], _padding(weight)
    if wide <= STRIP and tall <= height and wide <= width:
        return _gradients(dy, x, weight, (rows, columns), of_x=False)[1]
    before = 0 if tall <= height else rows
    x = F.pad(x, (columns, columns, before, before))
    strips = []
    for i in range(0, wide, STRIP):
        strip = weight[..., i : i + STRIP]
        part = x[..., i : i + width + strip.shape[3] - 1].contiguous(memory_format=torch.channels_last)
        strips.append(_gradients(dy, part, strip, (rows - before, 0), of_x=False)[1])
    return torch.cat(strips, 3)


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], *, of_x: bool) -> list[Tensor]:
    """PyTorch's own gradients of a depthwise convolution of stride 1: of x, or else of the weights."""
    which = [of_x, not of_x, False]
    gradient = torch.ops.aten.convolution_backward
    return gradient(dy, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), which)[:2]


def to_float32(x: Tensor) -> Tensor:
    """A map as layer norm takes it fastest: bf16 as float32.

    In ns per number, forward and backward, bf16 -> fp32: 11.4 -> 2.1 of 24 channels, 1.5 -> 0.8 of 384; casts: 0.1.
    """
    return x.float() if x.dtype is torch.bfloat16 and _fast_for(x) else x
