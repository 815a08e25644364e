"""Steps of the roadmap and their transforms, read from conf/step, conf/transform and conf/ingredient.

These files are the only list of steps. A step file includes the previous step and the step's own transform. The
roadmap is the longest chain of steps without variants.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

from roadmap.config import paths
from roadmap.config.files import read_yaml
from roadmap.config.schema import SpecError
from roadmap.config.step_files import Files, Step, Transform, read_steps, read_transforms


@cache
def all_transforms() -> Files[Transform]:
    """Return the transforms of conf/transform and the ingredients, by name.

    Files that cannot be read are left out; they are in `errors`. A look-up of an unknown name raises SpecError.
    """
    return read_transforms()


@cache
def all_ingredients() -> dict[str, Transform]:
    """Return the parts of which the enhanced recipe consists, by name: the files of conf/ingredient all of whose fields
    have the same value in conf/recipe/modern.yaml. `ema` is not one of them."""
    enhanced = {f"recipe.{name}": value for name, value in read_yaml(paths.CONF / "recipe" / "modern.yaml").items()}
    enhanced = {"recipe.decay_norms_and_biases": False} | enhanced
    return {
        name: info
        for name, info in all_transforms().items()
        if info.group == "ingredient" and info.sets.items() <= enhanced.items()
    }


@cache
def all_steps() -> Files[Step]:
    """Return every step of conf/step by name, including aliases (`resnextify`) and variants; see `all_transforms`."""
    return read_steps(all_transforms())


def check_files(overrides: list[str]) -> None:
    """Raise SpecError if the overrides select a step, a transform or an ingredient whose file cannot be used."""
    for override in overrides:
        group, _, value = override.lstrip("+").partition("=")
        if group in ("step", "transform", "ingredient"):
            files = all_steps() if group == "step" else all_transforms()
            for name in value.strip("[]").split(","):
                if name.strip(" '\"") in files.errors:
                    raise files.errors[name.strip(" '\"")]


@cache
def ordered_steps(beyond_paper: bool = True) -> list[Step]:
    """Return the steps of the roadmap in order: the longest chain of steps without a variant, from its start.

    With `beyond_paper` False, the chain ends before the first transform without a section of the paper.
    """

    def on_roadmap(step: Step) -> bool:
        infos = [all_transforms()[name] for name in step.transforms]
        return not any(info.variant or not (beyond_paper or info.section) for info in infos)

    candidates = [step for step in all_steps().values() if on_roadmap(step) and _adds_transform(step)]
    if not candidates:
        raise next(iter(all_steps().errors.values()), SpecError("conf/step: has no step; add baseline.yaml"))
    step: Step | None = max(candidates, key=lambda step: (len(step.transforms), step.name))
    chain = []
    while step is not None:
        chain.append(step)
        step = all_steps()[step.before] if step.before else None
    return chain[::-1]


def _adds_transform(step: Step) -> bool:
    """Return whether the step adds a transform; an alias of the previous step (`resnextify`) does not."""
    return step.before is None or step.transforms != all_steps()[step.before].transforms


def step_names() -> list[str]:
    """Return the names of the roadmap's steps in order."""
    return [step.name for step in ordered_steps()]


def sort_transforms(names: list[str]) -> list[str]:
    """Return transforms in the order of the roadmap, then those of other steps, then those of no step, each by name."""
    position: dict[str, int] = {}
    for rank, steps in enumerate([ordered_steps(), list(all_steps().values())]):
        for step in steps:
            for i, name in enumerate(step.transforms):
                position.setdefault(name, 1000 * rank + i)
    return sorted(names, key=lambda name: (position.get(name, 2000), name))


def without_unmet_needs(names: list[str]) -> list[str]:
    """Return `names` without the transforms whose needs are not among them."""
    while unmet := [name for name in names if not set(all_transforms()[name].needs) <= set(names)]:
        names = [name for name in names if name not in unmet]
    return names


def with_needs(names: list[str]) -> list[str]:
    """Return `names`, preceded by the transforms that they need."""
    while missing := [need for name in names for need in all_transforms()[name].needs if need not in names]:
        names = [*missing, *names]
    return names


def differing_transforms(names: list[str], others: list[str]) -> tuple[list[str], list[str]]:
    """Return the transforms that only `names` has and those that only `others` has.

    Where one of the two has single ingredients, the enhanced recipe (`training_recipe`) counts as all its ingredients.
    """
    if set(all_ingredients()) & {*names, *others}:
        names, others = _expand_recipe(names), _expand_recipe(others)
    return [name for name in names if name not in others], [name for name in others if name not in names]


def _expand_recipe(names: list[str]) -> list[str]:
    ingredients = all_ingredients() if "training_recipe" in names else ()
    return [name for name in [*names, *ingredients] if name != "training_recipe"]


# Fields of the recipe -> fields of the network that take their value from them (conf/config.yaml).
INTERPOLATED_BY = {f"recipe.{name}": f"network.{name}" for name in ("layer_scale", "drop_path", "init")}


def check_conflicts(names: list[str]) -> None:
    """Raise SpecError if two transforms set the same field to different values."""
    set_by: dict[str, tuple[str, Any]] = {}
    for name in sort_transforms(names):
        for path, value in all_transforms()[name].sets.items():
            field = INTERPOLATED_BY.get(path, path)
            other, other_value = set_by.setdefault(field, (name, value))
            if other_value != value:
                raise SpecError(f"transform={name}: {other} and {name} both set {field}; leave one of them out")


def name_of_transforms(names: list[str]) -> str:
    """Return the step that these transforms make, or the nearest step with additions (+) and omissions (-).

    Examples: `gelu`, `baseline+depthwise_conv+gelu`, `separate_downsampling-gelu`. A reference network keeps its name.
    """
    if any(all_transforms()[name].reference for name in names):
        return "+".join(sort_transforms(names))
    step, added, omitted = _nearest_step(frozenset(names))
    return "+".join([step, *added]) + "".join(f"-{name}" for name in omitted)


def label_of_transforms(names: list[str]) -> str:
    """Return the network's label in tables: a step's last transform, or the nearest step and the differences."""

    def labels(transforms: list[str]) -> str:
        return ", ".join(all_transforms()[name].label for name in transforms)

    if any(all_transforms()[name].reference for name in names):
        return labels(names)
    step, added, omitted = _nearest_step(frozenset(names))
    of_step = all_steps()[step].transforms if step in all_steps() else ()
    label = all_transforms()[of_step[-1]].label if of_step else {"ingredients": "all ingredients"}.get(step, step)
    return label + (f" with {labels(added)}" if added else "") + (f" without {labels(omitted)}" if omitted else "")


def note_on_names(networks: Iterable[Collection[str]]) -> str | None:
    """Return a note if the names of these networks may depend on a step whose file cannot be read, else None."""
    errors = all_steps().errors
    steps = [set(step.transforms) for step in all_steps().values()]
    if not errors or all(set(names) in steps for names in networks):
        return None
    first = next(iter(errors.values()))
    return f"note: {first}. Without this step, a network may have another name, and its finished run is not found"


@cache
def _nearest_step(names: frozenset[str]) -> tuple[str, list[str], list[str]]:
    """Return a step ("ingredients": all ingredients), the transforms to add to it, and those to omit from it."""
    steps = {step.name: set(step.transforms) for step in all_steps().values() if _adds_transform(step)}
    steps |= {"ingredients": set(all_ingredients())}
    nearest = min(steps, key=lambda name: (len(names ^ steps[name]), -len(steps[name]), name))
    return nearest, sort_transforms(list(names - steps[nearest])), sort_transforms(list(steps[nearest] - names))
