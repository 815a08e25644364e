"""The network of every step: it learns in all of its parts, transforms commute, and its fields have their effect."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import roadmap
from roadmap.config.choices import Init, Stem
from roadmap.config.compose import compose, compose_network
from roadmap.config.paths import CONF
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import NetworkSpec, SpecError
from roadmap.models.layers import GlobalResponseNorm
from roadmap.models.network import Network
from tests.models.specs import STEPS, TINY, network_spec, run_spec

ROADMAP = load_roadmap()
TRANSFORMS = list(ROADMAP.steps["grn"].transforms)


def train_once(spec: NetworkSpec, size: int = 64) -> Network:
    """One forward and backward pass on three random images, with no branch dropped."""
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


@pytest.mark.parametrize("base", ["resnet50", pytest.param("resnet200", marks=pytest.mark.slow)])
@pytest.mark.parametrize("step", STEPS)
def test_every_parameter_of_every_step_gets_a_gradient(step: str, base: str) -> None:
    assert_every_parameter_learns(train_once(network_spec(step, base, **TINY)))


def compose_subset(names: tuple[str, ...], *more: str) -> NetworkSpec:
    transforms = [f"+transform=[{','.join(names)}]"] if names else []
    return compose(*transforms, *more).network


def has_its_needs(names: tuple[str, ...]) -> bool:
    return "move_up_depthwise" not in names or "depthwise_conv" in names


def assert_subset_is_the_same_in_any_order(names: tuple[str, ...], base: str) -> None:
    spec = compose_subset(names, f"base={base}")
    assert spec == compose_subset(tuple(ROADMAP.sort(names)), f"base={base}")
    assert_every_parameter_learns(train_once(replace(spec, depths=[1, 1, 2, 1], width=8), size=32))


subsets = (
    st.permutations(TRANSFORMS)
    .flatmap(lambda order: st.integers(0, len(order)).map(lambda count: tuple(order[:count])))
    .filter(has_its_needs)
)
bases = st.sampled_from(["nano", "resnet50", "resnet200"])


@settings(max_examples=8, deadline=None)
@given(names=subsets, base=bases)
def test_a_subset_of_transforms_is_the_same_network_in_any_order(names: tuple[str, ...], base: str) -> None:
    assert_subset_is_the_same_in_any_order(names, base)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(names=subsets, base=bases)
def test_many_subsets_of_transforms_are_the_same_network_in_any_order(names: tuple[str, ...], base: str) -> None:
    assert_subset_is_the_same_in_any_order(names, base)


@pytest.mark.slow
def test_every_pair_of_transforms_commutes() -> None:
    for pair in filter(has_its_needs, itertools.combinations(TRANSFORMS, 2)):
        assert compose_subset(pair, "base=resnet200") == compose_subset(pair[::-1], "base=resnet200"), pair


@pytest.mark.parametrize("step", [step for step in STEPS if ROADMAP.steps[step].before])
def test_every_step_changes_the_network_or_the_recipe(step: str) -> None:
    before = ROADMAP.steps[step].before
    assert before is not None
    new, old = run_spec(step), run_spec(before)
    assert (new.network, new.recipe) != (old.network, old.recipe)


@pytest.mark.parametrize(
    "step", [pytest.param(s, marks=[] if s == "separate_downsampling" else pytest.mark.slow) for s in ROADMAP.steps]
)
def test_the_transforms_of_a_step_compose_to_the_step(step: str) -> None:
    transforms = f"+transform=[{','.join(ROADMAP.steps[step].transforms)}]"
    whole, parts = compose(f"+step={step}"), compose(transforms)
    assert (whole.network, whole.recipe, whole.transforms) == (parts.network, parts.recipe, parts.transforms)


def count_modules(model: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize("step", ["baseline", "depthwise_conv", "separate_downsampling"])
@pytest.mark.parametrize(("init", "std"), [("kaiming", 0.02), ("trunc_normal", 0.02), ("trunc_normal", 0.05)])
def test_initial_weights_have_the_documented_deviation(step: str, init: str, std: float) -> None:
    """Kaiming: sqrt(2 / fan-out) in convolutions, PyTorch's own in the classifier. Truncated normal: `init_std`."""
    torch.manual_seed(0)
    network = Network(network_spec(step, depths=[1, 1, 1, 1], init=Init(init), init_std=std))
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        weight = module.weight.detach()
        fan_out = len(weight) * weight[0, 0].numel()
        expected = std if init == "trunc_normal" else math.sqrt(2 / fan_out)
        if init == "kaiming" and isinstance(module, nn.Linear):
            expected = 1 / math.sqrt(3 * module.in_features)  # uniform in +-1 / sqrt(fan-in)
        error = 5 * expected / math.sqrt(2 * weight.numel())
        assert float(weight.std()) == pytest.approx(expected, abs=error), name
        if module.bias is not None and (init == "trunc_normal" or isinstance(module, nn.Conv2d)):
            assert not module.bias.any(), name


@pytest.mark.parametrize("base", sorted(path.stem for path in (CONF / "base").glob("*.yaml")))
def test_the_deviation_is_that_of_the_paper_and_larger_in_narrow_bases(base: str) -> None:
    spec = compose("+step=gelu", f"base={base}")
    expected = max(0.02, 0.02 * math.sqrt(64 / spec.base.width))
    assert spec.network.init_std == pytest.approx(expected)
    assert (expected == 0.02) == base.startswith("resnet")
    assert compose_network("gelu", base).init_std == spec.network.init_std


@pytest.mark.parametrize(
    ("overrides", "std"),
    [
        (["base=pico", "base.width_factor=2"], 0.04),  # 16 channels
        (["base=pico", "base.width=4"], 0.08),
        (["base=resnet50", "base.width_factor=0.25"], 0.04),
        (["base=resnet50", "base.width_factor=2"], 0.02),
        (["base=pico", "base.init_std=0.02"], 0.02),
        (["base=pico", "network.init_std=0.03"], 0.03),
    ],
)
def test_the_deviation_follows_the_width_of_the_base(overrides: list[str], std: float) -> None:
    assert compose("+step=gelu", *overrides).network.init_std == pytest.approx(std)


def test_default_fields_give_a_resnet() -> None:
    model = Network(NetworkSpec(**TINY))
    assert count_modules(model, nn.ReLU) == 1 + 3 * 5 and count_modules(model, nn.MaxPool2d) == 1


def test_spec_fields_reach_the_network() -> None:
    convnext = Network(
        NetworkSpec(
            stem=Stem.patchify, depthwise=True, inverted_bottleneck=True, spatial_first=True, kernel_size=7,
            activation="gelu", fewer_activations=True, fewer_norms=True, norm="layer_norm",
            separate_downsampling=True, layer_scale=0.1, drop_path=0.2, init=Init.trunc_normal, **TINY,
        )
    )  # fmt: skip
    assert count_modules(convnext, nn.GELU) == 5  # one per block, none in the stem
    assert count_modules(convnext, nn.LayerNorm) == 5 + 1 + 3 + 1  # blocks, stem, downsampling, head
    assert count_modules(convnext, nn.BatchNorm2d) == 0
    rates = [m.rate for m in convnext.modules() if hasattr(m, "rate")]
    assert rates == pytest.approx([0.05, 0.1, 0.15, 0.2])
    kernels = {m.kernel_size for m in convnext.modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    assert kernels == {(7, 7)}
    for module in convnext.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.weight.abs().max() < 0.1 and module.bias is not None and not module.bias.any()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"fewer_norms": True},
        {"fewer_norms": True, "spatial_first": True, "depthwise": True},
        {"fewer_norms": True, "spatial_first": True, "depthwise": True, "fewer_activations": True},
        {"separate_downsampling": True},
        {"stem": Stem.patchify, "norm": "layer_norm", "separate_downsampling": True},
    ],
    ids=lambda fields: ", ".join(fields) or "resnet",
)
def test_a_convolution_has_a_bias_unless_a_batch_norm_follows_it(fields: dict[str, Any]) -> None:
    model = Network(NetworkSpec(**fields, **TINY))
    count = 0
    for chain in model.modules():
        layers = list(chain.children()) if isinstance(chain, nn.Sequential) else []
        for layer, following in itertools.zip_longest(layers, layers[1:]):
            if isinstance(layer, nn.Conv2d):
                assert (layer.bias is None) == isinstance(following, nn.BatchNorm2d), layer
                count += 1
    assert count == count_modules(model, nn.Conv2d)


@pytest.mark.parametrize("spatial_first", [False, True])
@pytest.mark.parametrize("fewer", [False, True])
def test_global_response_norm_is_between_activation_and_last_convolution(spatial_first: bool, fewer: bool) -> None:
    spec = NetworkSpec(grn=True, depthwise=True, inverted_bottleneck=True, spatial_first=spatial_first, **TINY)
    spec = replace(spec, fewer_activations=fewer, fewer_norms=fewer)
    network: Any = Network(spec)
    for stage in network.stages:
        for block in stage.blocks:
            i = list(dict(block.branch.named_children())).index("pointwise2")
            act, grn, conv = block.branch[i - 2 : i + 1]
            assert isinstance(act, nn.ReLU) and isinstance(grn, GlobalResponseNorm)
            assert grn.gamma.shape == grn.beta.shape == (conv.in_channels,) == (4 * conv.out_channels,)


@pytest.mark.parametrize("step", ["baseline", "patchify_stem", "separate_downsampling"])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_stem_stride(step: str, stride: int) -> None:
    model = Network(network_spec(step, **TINY, stem_stride=stride, in_chans=1)).eval()
    with torch.no_grad():
        assert model.stem(torch.randn(2, 1, 32, 32)).shape == (2, 8, 32 // stride, 32 // stride)
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)


def test_create_model_is_the_network_of_the_step() -> None:
    model = roadmap.create_model("grn", num_classes=7, in_chans=1, depths=[1, 1, 1, 1], width=8)
    assert model.spec == network_spec("grn", num_classes=7, in_chans=1, depths=[1, 1, 1, 1], width=8)


@pytest.mark.parametrize(
    ("fields", "message"),
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
def test_create_model_names_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        roadmap.create_model("baseline", **fields)
    assert message in str(caught.value) and "\n" not in str(caught.value)
