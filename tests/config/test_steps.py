"""Steps, transforms and ingredients: their files agree, their order is the roadmap, and names follow from them."""

from __future__ import annotations

import pytest
import yaml

import roadmap
from roadmap.analysis import published
from roadmap.config.compose import compose
from roadmap.config.paths import CONF
from roadmap.config.steps import (
    Step,
    all_ingredients,
    all_steps,
    all_transforms,
    differing_transforms,
    label_of_transforms,
    name_of_transforms,
    ordered_steps,
    sort_transforms,
    with_needs,
    without_unmet_needs,
)

BEYOND_PAPER = ["grn"]


def test_the_roadmap_has_the_steps_of_the_paper_in_order() -> None:
    assert roadmap.steps() == [
        "baseline", "training_recipe", "stage_ratio", "patchify_stem", "depthwise_conv", "increase_width",
        "inverted_bottleneck", "move_up_depthwise", "large_kernel", "gelu", "fewer_activations", "fewer_norms",
        "layer_norm", "separate_downsampling", "grn",
    ]  # fmt: skip


def test_files_of_steps_and_transforms_and_the_published_tables_agree() -> None:
    files = {path.stem for path in (CONF / "step").glob("*.yaml")}
    variants = {name for name, info in all_transforms().items() if info.variant}
    assert files == {*roadmap.steps(), *variants, "resnextify"}
    assert {path.stem for path in (CONF / "transform").glob("*.yaml")} == {*roadmap.steps()[1:], *variants, "swin"}
    for table in published.TABLES.values():
        assert {row.step for row in table} == files - {"resnextify", *BEYOND_PAPER} | {"swin"}
        assert [row.step for row in table if row.adopted] == [step.name for step in ordered_steps(beyond_paper=False)]
    for name, info in all_transforms().items():
        in_paper = info.section.startswith(("2.", "A.")) or info.reference
        assert info.label and in_paper is (name not in BEYOND_PAPER), name


@pytest.mark.parametrize("group", ["base", "data"])
def test_presets_do_not_set_the_fields_that_transforms_set(group: str) -> None:
    set_by_transforms = {path for info in all_transforms().values() for path in info.sets}
    for path in (CONF / group).glob("*.yaml"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert not {f"{group}.{key}" for key in config} & set_by_transforms, path


def test_a_new_step_with_a_known_transform_does_not_change_the_roadmap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's step that uses a transform out of its order leaves all names and orders unchanged."""
    before = [(name, sort_transforms(list(step.transforms)), name_of_transforms(list(step.transforms)))
              for name, step in all_steps().items()]  # fmt: skip
    steps = {**all_steps(), "vanilla_gelu": Step("vanilla_gelu", "baseline", ("gelu",))}
    monkeypatch.setattr("roadmap.config.steps.all_steps", lambda: steps)
    ordered_steps.cache_clear()
    for name, transforms, expected in before:
        assert (sort_transforms(transforms[::-1]), name_of_transforms(transforms)) == (transforms, expected), name
    assert name_of_transforms(["gelu"]) == "vanilla_gelu"
    ordered_steps.cache_clear()


def test_resnextify_is_increase_width() -> None:
    alias, step = compose("+step=resnextify", "base=resnet200"), compose("+step=increase_width", "base=resnet200")
    assert alias == step
    assert name_of_transforms(list(alias.transforms)) == "increase_width"


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
    assert (name_of_transforms(transforms), label_of_transforms(transforms)) == (name, label)


def test_a_step_without_one_of_its_transforms_is_named_after_the_step() -> None:
    transforms = [name for name in all_steps()["separate_downsampling"].transforms if name != "gelu"]
    assert name_of_transforms(transforms) == "separate_downsampling-gelu"
    assert label_of_transforms(transforms).endswith(" without ReLU → GELU")


def test_needs_are_added_and_unmet_needs_removed() -> None:
    assert with_needs(["move_up_depthwise"]) == ["depthwise_conv", "move_up_depthwise"]
    assert without_unmet_needs(["move_up_depthwise", "gelu"]) == ["gelu"]


def test_the_recipe_counts_as_its_ingredients_beside_single_ones() -> None:
    assert differing_transforms(["training_recipe", "gelu"], ["training_recipe"]) == (["gelu"], [])
    others = [name for name in all_ingredients() if name != "mixup"]
    assert differing_transforms(["training_recipe"], others) == (["mixup"], [])
