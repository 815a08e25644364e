"""Roadmaps: the packaged ones, what is checked in a file, and the names that follow from them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

import roadmap
from roadmap.config.compose import compose
from roadmap.config.paths import CONF
from roadmap.config.roadmap_files import parse_roadmap
from roadmap.config.roadmaps import load_roadmap, roadmap_names
from roadmap.config.schema import SpecError
from roadmap.config.transform_files import read_transforms

CONVNEXT = load_roadmap()


def test_the_default_roadmap_has_the_steps_of_the_paper_in_order() -> None:
    assert roadmap.steps() == [
        "baseline", "training_recipe", "stage_ratio", "patchify_stem", "depthwise_conv", "increase_width",
        "inverted_bottleneck", "move_up_depthwise", "large_kernel", "gelu", "fewer_activations", "fewer_norms",
        "layer_norm", "separate_downsampling", "grn",
    ]  # fmt: skip


def test_roadmap_and_published_tables_agree() -> None:
    for table in (10, 11):
        reference = CONVNEXT.reference(table)
        assert list(reference.steps) == CONVNEXT.step_names[:-1]
        assert {row.step for row in reference.rows} == {*reference.steps, *CONVNEXT.file.variants, "swin"}
    used = {name for step in CONVNEXT.steps.values() for name in step.transforms} | {"swin"}
    in_paper = {name for name in [*used, *CONVNEXT.ingredients] if CONVNEXT.section_of(name)}
    assert used | CONVNEXT.ingredients.keys() == in_paper | {"swin", "grn"}
    assert CONVNEXT.base_section == "2"


@pytest.mark.parametrize("name", roadmap_names())
def test_each_step_of_each_roadmap_composes(name: str) -> None:
    for step in load_roadmap(name).steps:
        spec = compose(f"roadmap={name}", f"+step={step}")
        assert spec.roadmap == name and spec.base.name == load_roadmap(name).file.base
        assert list(spec.transforms) == list(load_roadmap(name).steps[step].transforms)


@pytest.mark.parametrize("group", ["base", "data"])
def test_presets_do_not_set_the_fields_that_transforms_set(group: str) -> None:
    set_by_transforms = {path for info in CONVNEXT.transforms.values() for path in info.sets}
    for path in (CONF / group).glob("*.yaml"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert not {f"{group}.{key}" for key in config} & set_by_transforms, path


def test_an_alias_is_its_step() -> None:
    alias, step = compose("+step=resnextify", "base=resnet200"), compose("+step=increase_width", "base=resnet200")
    assert alias == step and alias.name == "increase_width"


@pytest.mark.parametrize(
    ("transforms", "name", "label"),
    [
        ([], "baseline", "baseline"),
        (["training_recipe"], "training_recipe", "enhanced recipe"),
        (["gelu", "depthwise_conv"], "baseline+depthwise_conv+gelu", "baseline with depthwise conv, ReLU → GELU"),
        (["swin"], "swin", "Swin Transformer"),
    ],
)
def test_names_and_labels_say_what_differs_from_the_nearest_step(transforms: list[str], name: str, label: str) -> None:
    assert (CONVNEXT.network_name(transforms), CONVNEXT.network_label(transforms)) == (name, label)


def test_a_step_without_one_of_its_transforms_is_named_after_the_step() -> None:
    transforms = [name for name in CONVNEXT.steps["separate_downsampling"].transforms if name != "gelu"]
    assert CONVNEXT.network_name(transforms) == "separate_downsampling-gelu"
    assert CONVNEXT.network_label(transforms).endswith(" without ReLU → GELU")


def test_a_step_with_two_transforms_has_both_labels() -> None:
    roadmap = load_roadmap("resnet_rs")
    transforms = roadmap.steps["resnet_d"].transforms
    assert roadmap.network_name(transforms) == "resnet_d"
    assert roadmap.network_label(transforms) == "deep stem, pooled shortcut"


def test_needs_are_added_and_unmet_needs_removed() -> None:
    assert CONVNEXT.with_needs(["move_up_depthwise"]) == ["depthwise_conv", "move_up_depthwise"]
    assert CONVNEXT.without_unmet_needs(["move_up_depthwise", "gelu"]) == ["gelu"]


def test_the_recipe_counts_as_its_ingredients_beside_single_ones() -> None:
    assert CONVNEXT.differing(["training_recipe", "gelu"], ["training_recipe"]) == (["gelu"], [])
    others = [name for name in CONVNEXT.ingredients if name != "mixup"]
    assert CONVNEXT.differing(["training_recipe"], others) == (["mixup"], [])


def parse(text: str) -> Any:
    return parse_roadmap(yaml.safe_load(text), "conf/roadmap/mine.yaml", read_transforms())


EXAMPLE = """
title: My roadmap
base: nano
steps:
  - baseline: []
  - training_recipe
  - wide_kernel: [depthwise_conv, kernel_9]
variants:
  wide_kernel: [kernel_11, both: [depthwise_conv, kernel_5]]
aliases: {dw9: wide_kernel}
"""


def test_the_example_of_the_format_is_read() -> None:
    file = parse(EXAMPLE)
    assert {name: step.transforms for name, step in file.steps.items()} == {
        "baseline": (),
        "training_recipe": ("training_recipe",),
        "wide_kernel": ("training_recipe", "depthwise_conv", "kernel_9"),
    }
    assert {name: step.transforms for name, step in file.variants.items()} == {
        "kernel_11": ("training_recipe", "kernel_11"),
        "both": ("training_recipe", "depthwise_conv", "kernel_5"),
    }
    assert file.variants["both"].before == file.steps["wide_kernel"].before == "training_recipe"
    assert (file.aliases, file.start, file.full, file.bases) == (
        {"dw9": "wide_kernel"},
        "baseline",
        "wide_kernel",
        ("nano",),
    )


MISTAKES = {
    "unknown key": ("tilte: x", "tilte: unknown key; use title, base, steps"),
    "no list": ("steps: gelu", "steps: must be a list; add '- NAME'"),
    "empty": ("steps: []", "steps: must be a list"),
    "two in one entry": ("steps: [{a: [], b: []}]", "steps: write one step in each entry"),
    "no transforms": ("steps: [a: gelu]", "steps.a: must be a list of transforms"),
    "unknown transform": ("steps: [gelo]", "steps.gelo: gelo is no file in conf/transform or conf/ingredient"),
    "a name of a step": ("steps: ['a b': []]", "steps: 'a b' must be a name of 1 to 64 ASCII letters"),
    "a number as a step": ("steps: [3]", "steps: '3' must be a name"),
    "a number in quotes": ("steps: ['5': []]", "steps: '5' must be a name"),
    "a reserved name": ("steps: [ingredients: []]", "steps: 'ingredients' must be a name"),
    "a hyphen": ("steps: [a-b: []]", "steps: 'a-b' must be a name"),
    "twice": ("steps: [baseline: [], baseline: [gelu]]", "steps.baseline: occurs twice"),
    "a transform twice": ("steps: [gelu, a: [gelu]]", "steps.a: gelu is there already"),
    "nothing new": ("steps: [baseline: [], a: []]", "steps.a: adds no transform"),
    "unmet need": ("steps: [move_up_depthwise]", "steps.move_up_depthwise: move_up_depthwise needs depthwise_conv"),
    "a reference network": ("steps: [swin]", "steps.swin: swin is a complete network"),
    "variant of no step": ("variants: {a: [gelu]}", "variants.a: is no step of this roadmap"),
    "variant with the name of a step": (
        "variants: {wide_kernel: [baseline: [gelu]]}",
        "variants.wide_kernel.baseline: is the name of another step",
    ),
    "variants without names": ("variants: [gelu]", "variants: must be a section"),
    "alias of no step": ("aliases: {a: b}", "aliases.a: b is no step of this roadmap"),
    "alias that is a step": ("aliases: {baseline: wide_kernel}", "aliases.baseline: is the name of a step"),
    "title": ("title: 3", "title: must be 1 to 80 printable characters in one line; write it in quotes"),
    "base": ("base: [nano]", "must be the name of a file in conf/base"),
    "start": ("start: gelu", "start: gelu is no step of this roadmap"),
    "full": ("full: [a]", "full: ['a'] is no step of this roadmap"),
    "reference": ("reference: ../mine.csv", "reference: must be a file NAME.csv beside this file"),
    "section without title": ("sections: {a: {color: '#ffffff'}}", "sections.a.title: must be 1 to 80 printable"),
    "section with a key": ("sections: {a: {title: x, name: y}}", "sections.a.name: unknown key"),
    "colour": ("sections: {a: {title: x, color: red}}", "sections.a.color: must be a colour"),
    "section of nothing": (
        "sections: {a: {title: x, transforms: [nope]}}",
        "sections.a.transforms: nope is no transform",
    ),
    "two sections": (
        "sections: {a: {title: x, transforms: [gelu]}, b: {title: y, transforms: [gelu]}}",
        "sections.b.transforms: gelu is in another section",
    ),
    "published_at": ("published_at: {size: 3}", "published_at.size: unknown key"),
    "published bases": ("published_at: {bases: nano}", "published_at.bases: must be a list of bases"),
    "published size": ("published_at: {image_size: 8}", "published_at.image_size: must be a number of pixels"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_names_the_file_and_the_key(mistake: str) -> None:
    change, message = MISTAKES[mistake]
    content = yaml.safe_load(EXAMPLE) | yaml.safe_load(change)
    with pytest.raises(SpecError) as caught:
        parse(yaml.safe_dump(content, sort_keys=False))
    assert str(caught.value).startswith("conf/roadmap/mine.yaml: ") and "\n" not in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["title", "base", "steps"])
def test_a_missing_key_is_named(key: str) -> None:
    content = yaml.safe_load(EXAMPLE)
    del content[key]
    with pytest.raises(SpecError, match=f"conf/roadmap/mine.yaml: {key}: is required"):
        parse(yaml.safe_dump(content, sort_keys=False))


def test_an_unknown_roadmap_is_refused() -> None:
    with pytest.raises(SpecError, match="roadmap=convnet: unknown; did you mean convnext?"):
        compose("roadmap=convnet", "+step=gelu")
    for overrides in (["roadmap=convnext,resnet_rs"], ["roadmap=convnext", "roadmap=resnet_rs"], ["roadmap=glob(*)"]):
        with pytest.raises(SpecError, match="one roadmap per command"):
            compose(*overrides)
    with pytest.raises(SpecError, match="step=dropout: unknown; "):
        compose("+step=dropout")  # a step of another roadmap


def test_the_name_of_a_network_cannot_be_set() -> None:
    for field in ("name", "label"):
        with pytest.raises(SpecError, match=f"{field}=mine: cannot be set; the roadmap names the network"):
            compose(f"{field}=mine")


def test_transforms_of_two_roadmaps_combine() -> None:
    spec = compose("+step=separate_downsampling", "+transform=[squeeze_excitation]", "+ingredient=[dropout]")
    assert spec.name == "separate_downsampling+dropout+squeeze_excitation"
    assert (spec.network.squeeze_excitation, spec.network.dropout) == (0.25, 0.25)
    with pytest.raises(SpecError, match="patchify_stem and deep_stem both set network.stem; leave one of them out"):
        compose("+step=patchify_stem", "+transform=[deep_stem]")
    with pytest.raises(SpecError, match="network.pool_shortcut=true: there is no strided shortcut"):
        compose("+step=separate_downsampling", "+transform=[pooled_shortcut]")


def test_other_defaults_of_designs_come_from_the_roadmap() -> None:
    assert (CONVNEXT.file.start, CONVNEXT.file.full) == ("training_recipe", "separate_downsampling")
    file = load_roadmap("resnet_rs").file
    assert (file.start, file.full) == ("baseline", "resnet_d")
