"""Layers: in-place activations and global response normalization."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from roadmap.config.choices import NORMS
from roadmap.config.schema import NetworkSpec
from roadmap.models.layers import GlobalResponseNorm, act, chain, conv, norm
from roadmap.models.network import Block, BlockSpec, Network
from tests.models.specs import STEPS, TINY, network_spec

RELU = NetworkSpec(activation="relu", **TINY)


def test_a_branch_that_starts_with_an_activation_keeps_the_shortcut() -> None:
    """The input of the branch is also the input of the shortcut; an in-place ReLU would overwrite it."""
    torch.manual_seed(0)
    spatial, last = conv(RELU, 32, 32, 3, normed=True), norm(RELU, 32)
    block = Block(BlockSpec(RELU, 0, w_in=32, w_mid=8, w_out=32, stride=1, drop_path=0.0))
    block.branch = chain({"act": act(RELU), "spatial": spatial, "norm": last})
    block.eval()
    x = torch.randn(2, 32, 4, 4)
    before = x.clone()
    y = block(x)
    assert torch.equal(x, before)
    expected = (before + last(nn.functional.conv2d(before.relu(), spatial.weight, padding=1))).relu()
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", [nn.Identity(), nn.Dropout(0.5), nn.Flatten(0, 0), GlobalResponseNorm(8)])
def test_an_activation_keeps_what_is_not_known_to_be_a_new_tensor(first: nn.Module) -> None:
    layers = chain({"first": first, "act": act(RELU)}).eval()
    x = torch.randn(2, 8, 4, 4)
    before = x.clone()
    assert (layers(x) >= 0).all() and torch.equal(x, before)


@pytest.mark.parametrize("kind", NORMS)
def test_an_activation_after_a_convolution_or_a_norm_works_in_place(kind: str) -> None:
    spec = NetworkSpec(activation="relu", norm=kind, **TINY)
    layers: Any = chain(
        {"conv": conv(spec, 8, 8, 1, normed=False), "act": act(spec), "norm": norm(spec, 8), "end": act(spec)}
    )
    assert layers.act.inplace and layers.end.inplace
    assert isinstance(act(NetworkSpec(activation="gelu")), nn.GELU)


@pytest.mark.parametrize("step", STEPS)
def test_every_relu_of_the_roadmap_works_in_place(step: str) -> None:
    """It saves the memory of one feature map each."""
    with torch.device("meta"):
        model = Network(network_spec(step, **TINY))
    assert all(module.inplace for module in model.modules() if isinstance(module, nn.ReLU))


def grn_in_float64(x: torch.Tensor, layer: GlobalResponseNorm) -> torch.Tensor:
    """The formula of the paper, term by term."""
    x, gamma, beta = x.double(), layer.gamma.double()[:, None, None], layer.beta.double()[:, None, None]
    norms = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
    return gamma * (x * (norms / (norms.mean(1, keepdim=True) + 1e-6))) + beta + x


def random_grn(channels: int) -> GlobalResponseNorm:
    layer = GlobalResponseNorm(channels)
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def test_global_response_norm_is_its_formula() -> None:
    layer = random_grn(6)
    x = torch.randn(3, 6, 5, 4)
    assert torch.equal(GlobalResponseNorm(6)(x), x)
    assert torch.allclose(layer(x).double(), grn_in_float64(x, layer), rtol=1e-5, atol=1e-6)
    layer.double()

    def function(x: torch.Tensor, *_parameters: torch.Tensor) -> torch.Tensor:
        return layer(x)

    assert torch.autograd.gradcheck(function, (x.double().requires_grad_(), *layer.parameters()))


def test_global_response_norm_computes_in_float32_under_autocast() -> None:
    """Its only error is the last rounding, to the 8 bits of a bfloat16."""
    layer = random_grn(24)
    x = (3 + torch.randn(2, 24, 32, 32)).bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    exact = grn_in_float64(x, layer)
    assert y.dtype is torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    assert ((y.double() - exact).abs() <= 2.0**-7.99 * exact.abs() + 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_global_response_norm_has_gradients_where_channels_are_zero(dtype: torch.dtype) -> None:
    layer = random_grn(4)
    for zeros in (slice(0, 2), slice(0, 4)):
        x = torch.randn(2, 4, 3, 3, dtype=dtype)
        x[:, zeros] = 0
        x.requires_grad_()
        layer(x).sum().backward()
        assert x.grad is not None and torch.isfinite(x.grad).all()
