"""The network of every row: what it costs, that it learns in all of its parts, and that transforms compose."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import roadmap
from roadmap import cost
from roadmap.analysis import published
from roadmap.config.compose import compose, compose_network
from roadmap.config.schema import Activation, Init, NetworkSpec, Norm, SpecError, Stem
from roadmap.config.steps import all_steps, ordered_steps, sort_transforms
from roadmap.models.layers import GlobalResponseNorm
from roadmap.models.network import Network

NAMES = [step for step in all_steps() if step != "resnextify"]
PATH = list(ordered_steps()[-1].transforms)
TINY: dict[str, Any] = {"depths": [1, 2, 1, 1], "width": 8, "num_classes": 5}


@pytest.fixture(scope="module")
def rows() -> list[list[Any]]:
    """base, step, params, gmacs, paper_gmacs of every row of both regimes."""
    found: list[list[Any]] = cost.table().to_numpy().tolist()
    return found


def test_costs_of_every_row_of_both_regimes(golden: Any, rows: list[list[Any]]) -> None:
    found = [[base, step, params, round(gmacs, 3)] for base, step, params, gmacs, _ in rows]
    assert found == golden("costs", found)
    assert len(found) == 34


def test_counted_costs_are_the_papers_but_for_the_two_rows_that_slip(rows: list[list[Any]]) -> None:
    for base, step, _, gmacs, printed in rows:
        agrees = abs(gmacs - printed) < 0.0075  # the paper prints two decimals
        assert agrees is ((base, step) not in published.SLIPS), (base, step)


@pytest.mark.parametrize(
    ("step", "params"), [("baseline", 25_557_032), ("separate_downsampling", 28_589_128), ("grn", 28_635_496)]
)
def test_ends_of_the_road_have_the_published_number_of_parameters(step: str, params: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in roadmap.create_model(step).parameters()) == params


def train_once(spec: NetworkSpec, size: int = 64) -> Network:
    """One forward and backward pass on three random images, no branch dropped."""
    torch.manual_seed(0)
    model = Network(replace(spec, drop_path=0.0))
    images = torch.randn(3, spec.in_chans, size, size)
    logits = model(images)
    assert logits.shape == (3, spec.num_classes)
    assert torch.isfinite(logits).all()
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    return model


def assert_every_parameter_learns(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("base", ["resnet50", "resnet200"])
@pytest.mark.parametrize("step", NAMES)
def test_every_parameter_gets_a_gradient_at_every_station(step: str, base: str) -> None:
    assert_every_parameter_learns(train_once(compose_network(step, base, **TINY)))


def of_transforms(names: tuple[str, ...], *more: str) -> NetworkSpec:
    chosen = [f"+transform=[{','.join(names)}]"] if names else []
    return compose(*chosen, *more).network


def without_unmet_needs(names: tuple[str, ...]) -> bool:
    return "move_up_depthwise" not in names or "depthwise_conv" in names


subsets = st.permutations(PATH).flatmap(
    lambda order: st.integers(0, len(order)).map(lambda count: tuple(order[:count]))
)


@settings(max_examples=25, deadline=None)
@given(names=subsets.filter(without_unmet_needs), base=st.sampled_from(["nano", "resnet50", "resnet200"]))
def test_any_subset_in_any_order_is_the_network_of_road_order(names: tuple[str, ...], base: str) -> None:
    spec = of_transforms(names, f"base={base}")
    assert spec == of_transforms(tuple(sort_transforms(list(names))), f"base={base}")
    small = replace(spec, depths=[1, 1, 2, 1], width=8)
    assert_every_parameter_learns(train_once(small, size=32))


@pytest.mark.slow
def test_every_pair_of_transforms_commutes() -> None:
    for pair in itertools.combinations(PATH, 2):
        if not without_unmet_needs(pair):
            continue
        assert of_transforms(pair, "base=resnet200") == of_transforms(pair[::-1], "base=resnet200"), pair


@pytest.mark.parametrize("step", [step.name for step in all_steps().values() if step.before])
def test_every_step_changes_the_network_or_the_recipe(step: str) -> None:
    before = all_steps()[step].before
    assert before is not None
    here, there = compose(f"+step={step}", "base=resnet50"), compose(f"+step={before}", "base=resnet50")
    same = here.network == there.network and here.recipe == there.recipe
    assert same is (step == "resnextify")


@pytest.mark.slow
def test_the_transforms_in_order_are_the_step() -> None:
    for step in all_steps().values():
        whole, parts = compose(f"+step={step.name}"), compose(f"+transform=[{','.join(step.transforms)}]")
        assert (whole.network, whole.recipe, whole.transforms) == (parts.network, parts.recipe, parts.transforms)


def test_spec_fields_reach_the_network() -> None:
    def count(model: nn.Module, kind: type) -> int:
        return sum(isinstance(module, kind) for module in model.modules())

    plain = Network(NetworkSpec(**TINY))
    assert count(plain, nn.ReLU) == 1 + 3 * 5 and count(plain, nn.MaxPool2d) == 1
    convnext = Network(
        NetworkSpec(
            stem=Stem.patchify, depthwise=True, inverted_bottleneck=True, spatial_first=True, kernel_size=7,
            activation=Activation.gelu, fewer_activations=True, fewer_norms=True, norm=Norm.layer_norm,
            separate_downsampling=True, layer_scale=0.1, drop_path=0.2, init=Init.trunc_normal, **TINY,
        )
    )  # fmt: skip
    assert count(convnext, nn.GELU) == 5  # one a block, none in the stem
    assert count(convnext, nn.LayerNorm) == 5 + 1 + 3 + 1  # blocks, stem, downsampling, head
    assert count(convnext, nn.BatchNorm2d) == 0
    rates = [m.rate for m in convnext.modules() if hasattr(m, "rate")]
    assert rates == pytest.approx([0.05, 0.1, 0.15, 0.2])
    kernels = {m.kernel_size for m in convnext.modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    assert kernels == {(7, 7)}
    for module in convnext.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.weight.abs().max() < 0.1 and module.bias is not None and not module.bias.any()


def grn_by_its_formula(x: torch.Tensor, layer: GlobalResponseNorm) -> torch.Tensor:
    """In float64, term by term."""
    x, gamma, beta = x.double(), layer.gamma.double()[:, None, None], layer.beta.double()[:, None, None]
    norms = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
    return gamma * (x * (norms / (norms.mean(1, keepdim=True) + 1e-6))) + beta + x


def some_grn(channels: int) -> GlobalResponseNorm:
    layer = GlobalResponseNorm(channels)
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def test_global_response_norm_is_its_formula() -> None:
    layer = some_grn(6)
    x = torch.randn(3, 6, 5, 4)
    assert torch.equal(GlobalResponseNorm(6)(x), x)
    assert torch.allclose(layer(x).double(), grn_by_its_formula(x, layer), rtol=1e-5, atol=1e-6)
    layer.double()
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x.double().requires_grad_(), *layer.parameters()))


def test_global_response_norm_computes_in_float32_under_autocast() -> None:
    """Its only error is the last rounding, to the 8 bits of a bfloat16."""
    layer = some_grn(24)
    x = (3 + torch.randn(2, 24, 32, 32)).bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    exact = grn_by_its_formula(x, layer)
    assert y.dtype is torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    assert ((y.double() - exact).abs() <= 2.0**-7.99 * exact.abs() + 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dead_channels_leave_global_response_norm_its_gradients(dtype: torch.dtype) -> None:
    layer = some_grn(4)
    for dead in (slice(0, 2), slice(0, 4)):
        x = torch.randn(2, 4, 3, 3, dtype=dtype)
        x[:, dead] = 0
        x.requires_grad_()
        layer(x).sum().backward()
        assert x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("spatial_first", [False, True])
@pytest.mark.parametrize("fewer", [False, True])
def test_global_response_norm_stands_between_activation_and_last_convolution(spatial_first: bool, fewer: bool) -> None:
    spec = NetworkSpec(grn=True, depthwise=True, inverted_bottleneck=True, spatial_first=spatial_first, **TINY)
    spec = replace(spec, fewer_activations=fewer, fewer_norms=fewer)
    for stage in Network(spec).stages:
        for block in stage.blocks:
            i = list(dict(block.branch.named_children())).index("pointwise2")
            act, grn, conv = block.branch[i - 2 : i + 1]
            assert isinstance(act, nn.ReLU) and isinstance(grn, GlobalResponseNorm)
            assert grn.gamma.shape == grn.beta.shape == (conv.in_channels,) == (4 * conv.out_channels,)


@pytest.mark.parametrize("step", ["baseline", "patchify_stem", "separate_downsampling"])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_stem_stride(step: str, stride: int) -> None:
    model = roadmap.create_model(step, stem_stride=stride, in_chans=1, **TINY).eval()
    with torch.no_grad():
        assert model.stem(torch.randn(2, 1, 32, 32)).shape == (2, 8, 32 // stride, 32 // stride)
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)


def test_a_dropped_branch_leaves_the_shortcut() -> None:
    """Stochastic depth at work: in training, a block whose branch is dropped is the identity."""
    spec = compose_network("separate_downsampling", **TINY, drop_path=0.9, layer_scale=1.0)
    block = Network(spec).train().stages[3].blocks[0]
    torch.manual_seed(0)
    x = torch.randn(64, 64, 2, 2)
    same = (block(x) == x).flatten(1).all(1).float().mean()
    assert 0.7 < same < 1.0
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width": -3}, "network.width=-3"),
        ({"depths": [1, 1, 1]}, "network.depths"),
        ({"kernel_size": 4}, "network.kernel_size=4"),
        ({"stem_stride": 3}, "network.stem_stride=3"),
        ({"num_classes": 0}, "network.num_classes=0"),
        ({"spatial_first": True}, "depthwise"),
        ({"layer_scale": -1.0}, "network.layer_scale"),
        ({"drop_path": 1.5}, "network.drop_path"),
        ({"colour": 1}, "network.colour"),
        ({"width": "wide"}, "network.width"),
    ],
)
def test_create_model_names_the_field(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        roadmap.create_model("baseline", **fields)
    assert said in str(caught.value) and "\n" not in str(caught.value)
