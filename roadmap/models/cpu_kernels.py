"""Fast CPU kernels for convolutions that PyTorch computes slowly: same results, in another order of summation.

The convolutions of a network call this module. The kernel depends only on the shape, the dtype and the processor, so
that runs repeat bit for bit. The thresholds were measured on one core of a Zen 4 with AVX512-BF16, with PyTorch 2.15.
`python benchmarks/kernels.py` measures the speed-up of all kernels together. Feature maps are (N, C, H, W); the memory
format channels_last is the fastest, and the results have it. PyTorch's own functions are used on devices other than x86
CPUs, after `enable(False)`, and while a network is traced or exported. A traced network must not contain a kernel that
was chosen for one batch size.
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

__all__ = ["conv2d", "depthwise_conv2d", "enable", "is_traced", "keep_memory", "to_float32"]

# A convolution without overlap is faster as a matrix product up to MAX_PIXELS pixels of the output map and MAX_ROWS
# windows of the batch. A bf16 product over 65536 windows ends with SIGFPE in oneDNN.
MAX_PIXELS = 64
MAX_ROWS = 8192
STRIP_COLUMNS = 3  # oneDNN has a fast weight gradient for depthwise kernels of at most 3 columns

# Evaluated once: inside of the layers, these two functions would break the graph of torch.compile.
IS_X86 = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")

_fast = True


def enable(fast: bool) -> bool:
    """Switch the fast kernels on (the default) or off, for the whole process, and return the previous setting."""
    global _fast
    before, _fast = _fast, fast
    return before


def _uses_fast_kernels(x: Tensor) -> bool:
    return _fast and x.device.type == "cpu" and not is_traced() and IS_X86


def is_traced() -> bool:
    """Return whether torch.export (also for ONNX and AOTInductor) or torch.jit.trace records the operations now.

    torch.compile is not included: it compiles again for another batch size if a kernel depends on the batch size.
    """
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


@cache
def keep_memory() -> bool:
    """Let this process keep freed memory, up to its peak, and return whether that worked (only glibc on Linux).

    By default, glibc returns the memory of larger feature maps to the system after use. Each training iteration then
    has up to 6,000 page faults to get it again. Keeping it gives 22 % more images/s for base=nano,
    +step=increase_width at 32 pixels, and no gain where all feature maps are small.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # None: another C library
    m_trim_threshold, m_mmap_threshold = -1, -3
    if mallopt is None or not (mallopt(m_mmap_threshold, 2**30) or mallopt(m_mmap_threshold, 2**25)):
        return False  # older versions accept at most 32 MiB
    return bool(mallopt(m_trim_threshold, 2**30))


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Return a convolution over all channels: x (N, C, H, W) and weight (C', C, k, k) -> (N, C', H', W').

    Where each pixel is in at most one window, the windows of a small map become the rows of one matrix product. The
    reason is that oneDNN rearranges the weights of a convolution at each call, which takes longer than a product of
    few rows. Forward and backward pass of 1x1 kernels in bf16 (fp32) run 3.5 to 4.7 (2.4 to 3.5) times as fast on 1x1
    maps, 1.6 to 2 (1.2 to 1.5) times on 2x2 maps, 1.1 to 1.3 (0.9 to 1.3) times on 4x4 and 8x8 maps, and no faster on
    larger maps.
    """
    kernel, (height, width) = weight.shape[-1], x.shape[2:]
    if kernel == 1 and stride > 1 and x.device.type == "cpu":
        # Subsampling first gives the same result. PyTorch 2.15's oneDNN corrupts memory in the backward pass of strided
        # 1x1 convolutions from fewer than 10 input channels to 16 or fewer output channels (seen on a Zen 4, float32
        # and bfloat16).
        return conv2d(_subsample(x, stride), weight, bias, 1, padding)
    if _uses_fast_kernels(x) and kernel == 2 * padding + 1 and max(height, width) <= min(stride, padding + 1):
        # One window covers the whole map. Only the part of the kernel that meets pixels counts.
        weight = weight[:, :, padding : padding + height, padding : padding + width]
    elif not _uses_fast_kernels(x) or kernel != stride or padding > 0:
        return F.conv2d(x, weight, bias, stride, padding)
    kernel_height, kernel_width = weight.shape[2:]
    pixels = (height // kernel_height) * (width // kernel_width)
    if pixels > MAX_PIXELS or len(x) * pixels > MAX_ROWS:
        return F.conv2d(x, weight, bias, (kernel_height, kernel_width))
    return _conv2d_as_product(x, weight, bias)


def _subsample(x: Tensor, stride: int) -> Tensor:
    """Return x[:, :, ::stride, ::stride], with a gradient in channels_last too."""
    return x.permute(0, 2, 3, 1)[:, ::stride, ::stride].permute(0, 3, 1, 2)


def _conv2d_as_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a convolution whose stride is its kernel, as a matrix product: one row per window, one column per C'."""
    height, width = weight.shape[2:]  # of the kernel
    n, c, rows, columns = len(x), x.shape[1], x.shape[2] // height, x.shape[3] // width
    x = x[:, :, : rows * height, : columns * width].permute(0, 2, 3, 1)
    x = x.reshape(n, rows, height, columns, width * c).transpose(2, 3).reshape(n, rows, columns, height * width * c)
    return F.linear(x, weight.permute(0, 2, 3, 1).flatten(1), bias).permute(0, 3, 1, 2)


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Return a depthwise convolution with a padding of half the kernel.

    x (N, C, H, W) and weight (C, 1, k, k) -> (N, C, H', W'), where H' is H / stride, rounded up.

    The part of the kernel that meets no pixel of a small map is left out. On a 1x1 map, one number per channel is
    left. With the fast kernels off, it computes in float32 under autocast too: oneDNN's bf16 gradients take 2 to 100
    times as long.
    """
    autocast = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if x.device.type != "cpu":
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, len(weight))
    with torch.autocast("cpu", enabled=False):
        if not _uses_fast_kernels(x):
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

    oneDNN's weight gradient is fast for kernels of at most 3 columns on maps that are not smaller than the kernel.
    Wide kernels are therefore computed in strips of 3 columns, each with its own part of a padded map. Maps with fewer
    rows than the kernel are padded before. Milliseconds for 7x7, plain -> strips (channels, map, batch):
    24, 8x8, 128: bf16 5.8 -> 0.8, fp32 2.8 -> 0.8; 384, 8x8, 64: 39 -> 3.1, 25 -> 10; 48, 4x4, 128: 3.3 -> 0.5,
    1.7 -> 0.6; 96, 56x56, 8: 54 -> 7, 35 -> 12.

    A strided convolution is a convolution of stride 1 of which only every stride-th row and column is kept. Its
    gradients are those of stride 1 with zeros in between. In bf16, this reduces 16 ms to 0.3 ms for the gradient of
    the input (3x3, 24 channels, 8x8, batch 128).
    """

    @staticmethod
    def forward(  # pyrefly: ignore[bad-override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride, _padding(weight), 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        x, weight = ctx.saved_tensors
        dx = dweight = None
        dbias = dy.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        if ctx.stride > 1:
            strided, dy = dy, torch.zeros_like(x, memory_format=torch.channels_last)
            dy[:, :, :: ctx.stride, :: ctx.stride] = strided
        if ctx.needs_input_grad[0]:
            dx, _ = _gradients(dy, x, weight, _padding(weight), of_x=True)
        if ctx.needs_input_grad[1]:
            dweight = _weight_gradient(dy, x, weight)
        return dx, dweight, dbias, None


def _padding(weight: Tensor) -> tuple[int, int]:
    return weight.shape[2] // 2, weight.shape[3] // 2


def _weight_gradient(dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the weight gradient of a depthwise convolution of stride 1."""
    (kernel_height, kernel_width), (height, width), (rows, columns) = weight.shape[2:], x.shape[2:], _padding(weight)
    if kernel_width <= STRIP_COLUMNS and kernel_height <= height and kernel_width <= width:
        return _gradients(dy, x, weight, (rows, columns), of_x=False)[1]
    padded_rows = 0 if kernel_height <= height else rows
    x = F.pad(x, (columns, columns, padded_rows, padded_rows))
    strips = []
    for i in range(0, kernel_width, STRIP_COLUMNS):
        strip = weight[..., i : i + STRIP_COLUMNS]
        part = x[..., i : i + width + strip.shape[3] - 1].contiguous(memory_format=torch.channels_last)
        strips.append(_gradients(dy, part, strip, (rows - padded_rows, 0), of_x=False)[1])
    return torch.cat(strips, 3)


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], *, of_x: bool) -> list[Tensor]:
    """Return PyTorch's gradients (of x, of the weight) of a depthwise convolution of stride 1.

    Only the gradient of x (`of_x`) or only that of the weight is computed.
    """
    mask = [of_x, not of_x, False]
    backward = torch.ops.aten.convolution_backward
    return backward(dy, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), mask)[:2]


def to_float32(x: Tensor) -> Tensor:
    """Return the feature map in the dtype that is fastest for layer norm: bf16 becomes float32.

    Nanoseconds per number, forward and backward pass, bf16 -> fp32: 11.4 -> 2.1 for 24 channels, 1.5 -> 0.8 for 384.
    The casts take 0.1.
    """
    return x.float() if x.dtype is torch.bfloat16 and _uses_fast_kernels(x) else x
