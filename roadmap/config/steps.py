"""The stations of the road, read from the files in conf/step, conf/transform and conf/ingredient: there is no second
list.

A step file includes the step before it and its own transform; the road is the longest chain of them without variants.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from roadmap.config.paths import CONF
from roadmap.config.schema import SpecError


@dataclass(frozen=True)
class Transform:
    name: str
    label: str
    section: str  # of the paper
    variant: bool
    needs: tuple[str, ...]  # transforms without which it has no meaning
    reference: bool
    sets: dict[str, Any]  # field path -> value, as written


@dataclass(frozen=True)
class Step:
    name: str
    before: str | None  # the step that it includes
    transforms: tuple[str, ...]  # all that made it, in order; its own is the last


@cache
def all_transforms() -> dict[str, Transform]:
    """Those of conf/transform, and the ingredients."""
    return {
        path.stem: _read_transform(path) for path in sorted((CONF / "transform").glob("*.yaml"))
    } | all_ingredients()


@cache
def all_ingredients() -> dict[str, Transform]:
    """Of the enhanced recipe, in conf/ingredient: together they make it of the baseline's."""
    return {path.stem: _read_transform(path) for path in sorted((CONF / "ingredient").glob("*.yaml"))}


def differing_transforms(names: list[str], others: list[str]) -> tuple[list[str], list[str]]:
    """The transforms that only `names` has, and those that only `others` has; the enhanced recipe counts as its
    ingredients beside single ones."""
    if set(all_ingredients()) & {*names, *others}:
        names, others = ([*some, *(all_ingredients() if "training_recipe" in some else ())] for some in (names, others))
        names, others = ([name for name in some if name != "training_recipe"] for some in (names, others))
    return [name for name in names if name not in others], [name for name in others if name not in names]


def without_unmet_needs(names: list[str]) -> list[str]:
    """Those of `names` whose needs are among them."""
    while lacking := [name for name in names if not set(all_transforms()[name].needs) <= set(names)]:
        names = [name for name in names if name not in lacking]
    return names


def with_needs(names: list[str]) -> list[str]:
    """`names` and what they need."""
    while more := [need for name in names for need in all_transforms()[name].needs if need not in names]:
        names = [*more, *names]
    return names


def _read_transform(path: Path) -> Transform:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem not in (content or {}).get("transforms", {}):
        raise SpecError(f"{path.name}: has no entry transforms.{path.stem} with a label")
    info = content["transforms"][path.stem]
    sets: dict[str, Any] = {}
    for default in content.pop("defaults", []):  # - override /recipe: modern
        if isinstance(default, dict):
            sets |= {key.removeprefix("override /"): value for key, value in default.items()}
    del content["transforms"]
    _flatten(content, "", sets)
    needs, reference = tuple(info.get("needs", ())), info.get("reference", False)
    return Transform(
        path.stem, info["label"], info.get("section", ""), info.get("variant", False), needs, reference, sets
    )


def _flatten(content: dict[str, Any], prefix: str, into: dict[str, Any]) -> None:
    for key, value in content.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{key}.", into)
        else:
            into[prefix + key] = value


@cache
def all_steps() -> dict[str, Step]:
    """Every file in conf/step, other names of a station (`resnextify`) and variants included."""
    files = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONF / "step").glob("*.yaml")}
    steps: dict[str, Step] = {}

    def read(name: str) -> Step:
        if name not in steps:
            before: str | None = None
            made_by: list[str] = []
            for default in (files[name] or {}).get("defaults", []):
                if str(default).startswith("/transform/"):
                    made_by.append(default.removeprefix("/transform/"))
                elif default != "_self_":
                    before = default
            earlier = read(before).transforms if before else ()
            steps[name] = Step(name, before, earlier + tuple(made_by))
        return steps[name]

    for name in sorted(files):
        read(name)
    return steps


@cache
def ordered_steps(beyond_paper: bool = True) -> list[Step]:
    """The stations in order: from the longest chain of steps without a variant back to its start.

    With `beyond_paper` False the chain ends where a transform has no section of the paper.
    """

    def on_path(step: Step) -> bool:
        infos = [all_transforms()[name] for name in step.transforms]
        return not any(info.variant or not (beyond_paper or info.section) for info in infos)

    candidates = [step for step in all_steps().values() if on_path(step) and _adds_transform(step)]
    last: Step | None = max(candidates, key=lambda step: (len(step.transforms), step.name))
    chain = []
    while last is not None:
        chain.append(last)
        last = all_steps()[last.before] if last.before else None
    return chain[::-1]


def _adds_transform(step: Step) -> bool:
    """Whether the step adds a transform, and is no other name of the one before (`resnextify`)."""
    return step.before is None or step.transforms != all_steps()[step.before].transforms


def step_names() -> list[str]:
    """The names of the stations, in the order of the road."""
    return [step.name for step in ordered_steps()]


def sort_transforms(names: list[str]) -> list[str]:
    """Transforms in the order of the road; then those of other steps; those on no step last; each by name."""
    position: dict[str, int] = {}
    for rank, chain in enumerate([ordered_steps(), list(all_steps().values())]):
        for step in chain:
            for i, name in enumerate(step.transforms):
                position.setdefault(name, 1000 * rank + i)
    return sorted(names, key=lambda name: (position.get(name, 2000), name))


def name_of_transforms(names: list[str]) -> str:
    """The step that these transforms make, or the nearest with what is more and what is less:
    `separate_downsampling-gelu`, `baseline+depthwise_conv+gelu`. A reference network has its own name."""
    if any(all_transforms()[name].reference for name in names):
        return "+".join(sort_transforms(names))
    start, more, less = _nearest_step(frozenset(names))
    return "+".join([start, *more]) + "".join(f"-{name}" for name in less)


@cache
def _nearest_step(names: frozenset[str]) -> tuple[str, list[str], list[str]]:
    """A step ("ingredients": all of them), the transforms that are more than it, and those that are less."""
    starts = {step.name: set(step.transforms) for step in all_steps().values() if _adds_transform(step)}
    starts |= {"ingredients": set(all_ingredients())}
    found = min(starts, key=lambda name: (len(names ^ starts[name]), -len(starts[name]), name))
    return found, sort_transforms(list(names - starts[found])), sort_transforms(list(starts[found] - names))


INTERPOLATED_FROM = {
    f"recipe.{name}": f"network.{name}" for name in ("layer_scale", "drop_path", "init")
}  # by interpolation


def check_conflicts(names: list[str]) -> None:
    """Raise SpecError where two transforms want the same field to be different things."""
    seen: dict[str, tuple[str, Any]] = {}
    for name in sort_transforms(names):
        for path, value in all_transforms()[name].sets.items():
            field = INTERPOLATED_FROM.get(path, path)
            other, wanted = seen.setdefault(field, (name, value))
            if wanted != value:
                raise SpecError(f"transform={name}: {other} and {name} both set {field}; leave one of them out")


def label_of_transforms(names: list[str]) -> str:
    """How a table calls the network: a step by its last transform, others by the nearest step and what differs."""

    def labels(some: list[str]) -> str:
        return ", ".join(all_transforms()[name].label for name in some)

    if any(all_transforms()[name].reference for name in names):
        return labels(names)
    start, more, less = _nearest_step(frozenset(names))
    made_by = all_steps()[start].transforms if start in all_steps() else ()
    text = all_transforms()[made_by[-1]].label if made_by else {"ingredients": "all ingredients"}.get(start, start)
    return text + (f" with {labels(more)}" if more else "") + (f" without {labels(less)}" if less else "")
