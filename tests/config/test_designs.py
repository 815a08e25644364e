"""Study designs: which networks a study has, and which network each is compared with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from roadmap.config.choices import Design
from roadmap.config.compose import compose
from roadmap.config.designs import Layout, Member, overrides_of, sampled_orders, study_layout
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import DesignSpec, SpecError

ROADMAP = load_roadmap()
CONVNEXT = ROADMAP.steps["separate_downsampling"].transforms


def layout(name: Design, **fields: Any) -> Layout:
    return study_layout(DesignSpec(name, **fields), ROADMAP)


def assert_composes(member: Member) -> None:
    spec = compose(*overrides_of(member.transforms, ROADMAP))
    assert set(spec.transforms) == set(member.transforms)


def test_leave_one_out_removes_each_transform_and_those_that_need_it() -> None:
    whole, *others = layout(Design.leave_one_out).members
    assert (whole.transforms, whole.against, whole.label) == (list(CONVNEXT), None, "nothing left out")
    assert len(others) == len(CONVNEXT) == 13
    for left_out, member in zip(CONVNEXT, others, strict=True):
        assert left_out not in member.transforms and member.against == whole.transforms
        removed = set(CONVNEXT) - set(member.transforms)
        assert removed == ({left_out, "move_up_depthwise"} if left_out == "depthwise_conv" else {left_out})
    labels = [member.label for member in others]
    assert "without ReLU → GELU" in labels and "without depthwise conv and move up depthwise conv" in labels


NEEDS = {"inverted_bottleneck": ["depthwise_conv"]}


def test_a_study_can_have_needs_of_its_own() -> None:
    """Without depthwise conv, the inverted bottleneck has dense convolutions on all its channels."""
    left_out = {
        frozenset(CONVNEXT) - set(member.transforms) for member in layout(Design.leave_one_out, needs=NEEDS).members
    }
    alone = {frozenset({name}) for name in CONVNEXT if name != "depthwise_conv"}
    assert left_out == {frozenset(), *alone, frozenset({"depthwise_conv", "inverted_bottleneck", "move_up_depthwise"})}
    added = [set(member.transforms) for member in layout(Design.add_one_in, needs=NEEDS).members]
    assert {"training_recipe", "depthwise_conv", "inverted_bottleneck"} in added
    for orders in (2, 8):
        attribution = layout(Design.attribution, orders=orders, needs=NEEDS)
        networks = [set(member.transforms) for member in attribution.members]
        assert all("depthwise_conv" in names for names in networks if "inverted_bottleneck" in names)
        assert attribution.needs == NEEDS and attribution.orders == layout(Design.attribution, orders=orders).orders
    recipe = layout(Design.recipe, needs={"cutmix": ["mixup"]}).members
    assert [member.label for member in recipe if "Mixup" in str(member.label)] == [
        "with Mixup and CutMix", "with Mixup", "without CutMix and Mixup",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "needs",
    [
        {"move_up_depthwise": ["depthwise_conv"]},  # as in its file
        {"gelu": ["large_kernel", "large_kernel"]},
        {"gelu": ["large_kernel"], "layer_norm": ["large_kernel"], "fewer_norms": ["layer_norm", "gelu"]},
    ],
)
def test_a_transform_that_several_need_is_added_once(needs: dict[str, list[str]]) -> None:
    added = layout(Design.add_one_in, needs=needs)
    assert all(len(set(member.transforms)) == len(member.transforms) for member in added.members)
    assert (added == layout(Design.add_one_in)) == ("gelu" not in needs)
    assert added.needs.get("gelu") == (["large_kernel"] if "gelu" in needs else None)
    assert added.needs.get("fewer_norms") == (["gelu", "layer_norm"] if "fewer_norms" in needs else None)  # sorted


@pytest.mark.parametrize(
    ("design", "needs", "message"),
    [
        (
            Design.leave_one_out,
            {"gelu": ["geluu"]},
            "design.needs.gelu: geluu is not in this design; did you mean",
        ),
        (Design.attribution, {"adamw": ["gelu"]}, "design.needs.adamw: adamw is not in this design; use one of"),
        (Design.recipe, {"adamw": ["gelu"]}, "design.needs.adamw: gelu is not in this design; use one of adamw, "),
        (
            Design.add_one_in,
            {"training_recipe": ["gelu"]},
            "design.needs.training_recipe: design.start=training_recipe has training_recipe without what it needs",
        ),
        (Design.grid, NEEDS, "design.needs: is only for the designs leave_one_out, add_one_in, attribution, recipe; "),
    ],
)
def test_needs_outside_of_the_design_are_refused(design: Design, needs: dict[str, list[str]], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        layout(design, needs=needs)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+design.needs.gelu=large_kernel", "design.needs.gelu=large_kernel: must be a list of the names of other"),
        ("+design.needs.gelu=[gelu]", r"design.needs.gelu=\['gelu'\]: must be a list of the names of other transforms"),
        (
            "+design.needs.gelu=[3]",
            r"design.needs.gelu=\[3\]: must be a list of the names of other transforms, as",
        ),
        ("+design.needs.gelu=[]", r"design.needs.gelu=\[\]: must be a list of the names of other transforms, as"),
        ("design.needs=3", "design.needs=3: must be a section; add its entries, as [+]design.needs.NAME=..."),
        ("design.needs.gelu=[grn]", "design.needs.gelu: unknown field; add it as [+]design.needs.gelu=..."),
    ],
)
def test_impossible_needs_are_refused(override: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        compose("design.name=leave_one_out", override)


def test_add_one_in_adds_each_transform_and_those_that_it_needs() -> None:
    start, *others = layout(Design.add_one_in).members
    assert start.transforms == ["training_recipe"] and len(others) == 12
    for added, member in zip(CONVNEXT[1:], others, strict=True):
        new = set(member.transforms) - {"training_recipe"}
        assert new == ({added, "depthwise_conv"} if added == "move_up_depthwise" else {added})
        assert member.against == start.transforms


def test_the_design_recipe_adds_and_leaves_out_each_ingredient() -> None:
    members = layout(Design.recipe).members
    assert len(members) == 2 + 2 * len(ROADMAP.ingredients)
    assert {tuple(member.against) for member in members if member.against is not None} == {(), ("training_recipe",)}


@pytest.mark.parametrize("design", [Design.leave_one_out, Design.add_one_in, Design.recipe])
@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_the_networks_of_a_design_compose(design: Design, every: int) -> None:
    for member in layout(design).members[::every]:
        assert_composes(member)


def test_all_ingredients_together_are_the_enhanced_recipe() -> None:
    everything = compose(f"+ingredient=[{','.join(ROADMAP.ingredients)}]", "base=micro")
    enhanced = compose("+step=training_recipe", "base=micro")
    everything.recipe.name = enhanced.recipe.name
    assert everything.recipe == enhanced.recipe and everything.network == enhanced.network


def test_each_ingredient_changes_the_recipe() -> None:
    baseline = compose("base=micro").recipe
    for name in ROADMAP.ingredients:
        assert compose(f"+ingredient=[{name}]", "base=micro").recipe != baseline, name


def test_a_network_is_selected_by_its_step_only_if_it_is_that_step() -> None:
    """The name of a network may look like that of a step."""
    step = ROADMAP.steps["gelu"]
    named = replace(ROADMAP, file=replace(ROADMAP.file, steps={**ROADMAP.file.steps, "gelu-large_kernel": step}))
    names = [name for name in step.transforms if name != "large_kernel"]
    assert overrides_of(names, named) == [f"+transform=[{','.join(names)}]"]


def test_sampled_orders_are_followed_by_their_reverse() -> None:
    orders = sampled_orders(CONVNEXT, 6, seed=3)
    assert all(sorted(order) == sorted(CONVNEXT) for order in orders)
    assert orders[1::2] == [order[::-1] for order in orders[::2]]
    assert len({tuple(order) for order in orders}) == 6
    assert sampled_orders(CONVNEXT, 8, seed=3)[:6] == orders
    assert sampled_orders(CONVNEXT, 6, seed=4) != orders


def test_attribution_has_the_networks_of_its_orders_once() -> None:
    members = layout(Design.attribution, orders=2).members
    networks = [frozenset(member.transforms) for member in members]
    assert frozenset() in networks and frozenset(CONVNEXT) in networks and len(set(networks)) == len(networks)
    assert len(networks) < 2 * 12 + 2  # a transform without its needs has no effect yet: no network of its own
    assert all("depthwise_conv" in names for names in networks if "move_up_depthwise" in names)


def test_an_ingredient_without_effect_is_refused() -> None:
    """`grn` removes layer scale and the ingredient adds it; the network can follow only one of them."""
    with pytest.raises(SpecError, match="grn and layer_scale both set network.layer_scale"):
        compose("+transform=[grn]", "+ingredient=[layer_scale]")


def test_a_reference_cannot_be_combined() -> None:
    with pytest.raises(SpecError, match="transform=swin: is a complete network; leave gelu out"):
        compose("+transform=[swin,gelu]")
    with pytest.raises(SpecError, match="network.heads=5: must divide network.width=24"):
        compose("+transform=swin", "network.heads=5")


def test_width_and_depth_factors() -> None:
    network = compose("+step=increase_width").network
    larger = compose("+step=increase_width", "base.width_factor=1.5", "base.depth_factor=2").network
    assert larger.width == 1.5 * network.width and larger.depths == [2 * blocks for blocks in network.depths]
    with pytest.raises(SpecError, match="base.width_factor=-1"):
        compose("base.width_factor=-1")
