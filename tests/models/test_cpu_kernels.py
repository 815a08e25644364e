"""The fast CPU kernels give PyTorch's results, for all shapes, memory formats and dtypes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadmap.models import cpu_kernels, layers
from roadmap.models.complexity import measure_module
from roadmap.models.network import Network
from tests.models.specs import network_spec

Arguments = tuple[Tensor, Tensor, Tensor | None, int, int]  # x, weight, bias, stride, padding

# batch, channels, height, width, kernel, stride
DEPTHWISE = [
    (2, 3, 8, 8, 3, 1), (2, 5, 8, 8, 3, 2), (3, 4, 8, 8, 7, 1), (3, 4, 8, 8, 7, 2), (2, 16, 8, 8, 11, 1),
    (2, 24, 4, 4, 7, 1), (2, 3, 4, 4, 9, 2), (2, 3, 4, 4, 5, 1), (4, 8, 2, 2, 3, 1), (4, 8, 2, 2, 3, 2),
    (4, 8, 2, 2, 11, 1), (4, 8, 1, 1, 7, 1), (1, 8, 1, 1, 3, 2), (1, 6, 7, 7, 7, 1), (1, 2, 14, 14, 7, 1),
    (2, 4, 3, 9, 5, 1), (2, 4, 1, 6, 7, 1), (2, 4, 5, 1, 3, 2), (2, 4, 7, 5, 7, 2), (1, 1, 3, 3, 1, 1),
]  # fmt: skip
# batch, channels in and out, height, width, kernel, stride, padding
DENSE = [
    (4, 8, 16, 4, 4, 1, 1, 0), (1, 8, 16, 1, 1, 1, 1, 0), (3, 8, 4, 7, 5, 1, 2, 0), (2, 8, 4, 16, 16, 1, 1, 0),
    (2, 3, 8, 32, 32, 4, 4, 0), (2, 6, 8, 8, 8, 2, 2, 0), (2, 6, 8, 5, 7, 2, 2, 0), (2, 3, 8, 64, 64, 4, 4, 0),
    (4, 8, 6, 1, 1, 3, 1, 1), (4, 8, 6, 2, 2, 3, 2, 1), (4, 8, 6, 1, 2, 3, 2, 1), (4, 8, 6, 2, 2, 3, 1, 1),
    (4, 8, 6, 2, 2, 7, 2, 3), (4, 8, 6, 1, 1, 7, 4, 3), (2, 8, 6, 8, 8, 3, 2, 1), (1, 1, 4, 8, 8, 7, 2, 3),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _enable_afterwards() -> Iterator[None]:
    yield
    cpu_kernels.enable(True)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, _padding: int) -> Tensor:
    return cpu_kernels.depthwise_conv2d(x, weight, bias, stride)


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    return F.conv2d(x, weight, bias, stride, padding, 1, x.shape[1] // weight.shape[1])


def make_arguments(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], stride: int, padding: int) -> Arguments:
    torch.manual_seed(0)
    x = torch.randn(x_shape).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(weight_shape), torch.randn(weight_shape[0]), stride, padding


CASES = [
    *[(depthwise, make_arguments((n, c, h, w), (c, 1, k, k), s, k // 2)) for n, c, h, w, k, s in DEPTHWISE],
    *[(cpu_kernels.conv2d, make_arguments((n, c, h, w), (o, c, k, k), s, p)) for n, c, o, h, w, k, s, p in DENSE],
]
NAMES = [
    f"{function.__name__}-{tuple(args[0].shape)}-{tuple(args[1].shape)}-stride{args[3]}" for function, args in CASES
]
every_case = pytest.mark.parametrize(("function", "arguments"), CASES, ids=NAMES)
Function = Callable[..., Tensor]


def results(function: Function, arguments: Arguments, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The output, and the gradients of x, weight and bias for a fixed random gradient of the output."""
    *tensors, stride, padding = arguments
    leaves = [tensor.to(dtype).detach().requires_grad_() for tensor in tensors if tensor is not None]
    y = function(*leaves, stride, padding)
    torch.manual_seed(1)
    return [y, *torch.autograd.grad(y, leaves, torch.randn(y.shape).to(y.dtype))]


def assert_close(ours: list[Tensor], exact: list[Tensor], tolerance: float) -> None:
    """Every number is within `tolerance` times the largest of its tensor."""
    for tensor, expected in zip(ours, exact, strict=True):
        assert tensor.shape == expected.shape
        assert (tensor.double() - expected).abs().max() <= tolerance * expected.abs().max()


@every_case
def test_float32_equals_pytorch(function: Function, arguments: Arguments) -> None:
    exact = results(plain, arguments, torch.float64)
    ours = results(function, arguments)
    assert_close(ours, exact, 1e-5)
    if arguments[0].shape[1] > 1:  # with one channel, the two memory formats are the same
        assert ours[0].is_contiguous(memory_format=torch.channels_last)
    nchw = (arguments[0].contiguous(), *arguments[1:])
    assert_close(results(function, nchw), exact, 1e-5)
    cpu_kernels.enable(False)
    assert_close(results(function, arguments), exact, 1e-5)


@every_case
def test_bfloat16_under_autocast_is_as_exact_as_bfloat16(function: Function, arguments: Arguments) -> None:
    exact = results(plain, arguments, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        ours = results(function, arguments)
    assert ours[0].dtype is torch.bfloat16
    assert all(gradient.dtype is torch.float32 for gradient in ours[1:])
    assert_close(ours, exact, 0.02)


@every_case
def test_results_repeat_bit_for_bit(function: Function, arguments: Arguments) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        first, second = results(function, arguments), results(function, arguments)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@every_case
def test_gradient_of_the_weight_alone(function: Function, arguments: Arguments) -> None:
    x, weight, _, stride, padding = arguments
    leaf = weight.clone().requires_grad_()
    y = function(x, leaf, None, stride, padding)
    y.sum().backward()
    exact = weight.double().requires_grad_()
    expected = plain(x.double(), exact, None, stride, padding)
    expected.sum().backward()
    assert leaf.grad is not None and exact.grad is not None
    assert_close([y, leaf.grad], [expected, exact.grad], 1e-5)
    with torch.no_grad():
        assert not function(x, leaf, None, stride, padding).requires_grad


@pytest.mark.parametrize("shape", [s for s in DEPTHWISE if s[0] * s[1] * s[2] * s[3] * s[4] < 2000], ids=str)
def test_gradcheck_of_depthwise(shape: tuple[int, ...]) -> None:
    n, c, h, w, k, stride = shape
    arguments = make_arguments((n, c, h, w), (c, 1, k, k), stride, k // 2)
    tensors = [tensor.double().requires_grad_() for tensor in arguments[:3] if tensor is not None]
    function = partial(cpu_kernels.depthwise_conv2d, stride=stride)
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("step", ["baseline", "inverted_bottleneck", "large_kernel", "separate_downsampling"])
@pytest.mark.parametrize("size", [8, 32])
def test_networks_have_the_same_gradients_with_and_without_fast_kernels(step: str, size: int) -> None:
    """In float64, so that rounding is too small to hide an error."""
    fields: dict[str, Any] = {"depths": [1, 1, 2, 1], "width": 8, "num_classes": 5, "drop_path": 0.0}
    torch.manual_seed(0)
    model = Network(network_spec(step, stem_stride=max(1, size // 8), **fields)).double()
    images = torch.randn(4, 3, size, size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    gradients = []
    for fast in (True, False):
        cpu_kernels.enable(fast)
        loss = F.cross_entropy(model(images), torch.arange(4))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)


def test_disabled_kernels_are_plain_pytorch() -> None:
    cpu_kernels.enable(False)
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    for layer in (layers.Conv2d(8, 8, 1), layers.DepthwiseConv2d(8, 8, 7, padding=3, groups=8)):
        assert type(layer(x).grad_fn).__name__ == "ConvolutionBackward0"
    assert cpu_kernels.to_float32(x.bfloat16()).dtype is torch.bfloat16


def test_other_devices_use_plain_convolutions() -> None:
    """The costs counted on the meta device are therefore those of convolutions."""
    with torch.device("meta"):
        layer, x = nn.Conv2d(8, 16, 1), torch.empty(1, 8, 4, 4)
        ours = layers.Conv2d(8, 16, 1)
    assert measure_module(ours, x) == measure_module(layer, x)


def test_freed_memory_is_kept() -> None:
    """In a process of its own, because the setting cannot be undone."""
    program = (
        "import resource, torch\nfrom roadmap.models import cpu_kernels\n"
        "kept = cpu_kernels.keep_memory(); faults = []\n"
        "for i in range(20): torch.empty(3 << 22).fill_(1); faults.append(resource.getrusage(0).ru_minflt)\n"
        "assert cpu_kernels.keep_memory() == kept; print(kept, faults[-1] - faults[-4])"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    kept, faults = process.stdout.split()
    assert kept == "False" or int(faults) < 1000
