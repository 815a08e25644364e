"""Designs of studies: the networks of a study and the network that each one is compared with.

In the design `grid` a sweep lists the networks, and each is compared with the one before it. The other designs remove
transforms from a network or add them to it. Every network is a list of transforms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from roadmap.config.choices import Design
from roadmap.config.names import printable, suggest
from roadmap.config.roadmaps import Roadmap
from roadmap.config.schema import DesignSpec, SpecError

TransformNames = list[str]
Needs = Mapping[str, TransformNames]  # transform -> the others without which no network has it
SEARCH_DESIGNS = (Design.search, Design.search_found, Design.search_race)


@dataclass(frozen=True)
class Member:
    """One network of a study."""

    transforms: TransformNames
    label: str | None = None  # in this study; None: the network's own label
    against: TransformNames | None = None  # transforms of the network that it is compared with


@dataclass(frozen=True)
class Layout:
    """The networks that a design adds to those that the sweep lists."""

    members: list[Member] = field(default_factory=list)
    orders: list[TransformNames] = field(default_factory=list)  # of an attribution; each is followed by its reverse
    needs: Needs = field(default_factory=dict)  # of this design, besides those of the transforms


def study_layout(design: DesignSpec, roadmap: Roadmap) -> Layout:
    """Return the networks of `design`. Raises SpecError for an unknown step and where no network would differ."""
    if design.name is Design.grid:
        if design.needs:
            designs = ", ".join(name.value for name in Design if name not in (Design.grid, *SEARCH_DESIGNS))
            raise SpecError(f"design.needs: is only for the designs {designs}; leave it out")
        return Layout()
    if design.name in SEARCH_DESIGNS:
        message = "belongs to the studies that +study=search writes; leave it out"
        raise SpecError(f"design.name={design.name.value}: {message}")
    if design.name is Design.recipe:
        ingredients = list(roadmap.ingredients)
        needs = _needs_of(design, ingredients, roadmap)
        roadmap = roadmap.with_more_needs(needs)
        parts = _add_one_in([], ingredients, roadmap) + _leave_one_out(["training_recipe"], ingredients, roadmap)
        return Layout(parts, needs=needs)
    full_name, start_name = design.full or roadmap.file.full, design.start or roadmap.file.start
    full = list(roadmap.step("design.full", full_name).transforms)
    start = list(roadmap.step("design.start", start_name).transforms)
    base = start if design.name is Design.add_one_in else []
    if not set(full) - set(base):
        raise SpecError(f"design.full={full_name}: has no transform to remove or to add; use a later step")
    needs = _needs_of(design, full, roadmap)
    roadmap = roadmap.with_more_needs(needs)
    if design.name is Design.leave_one_out:
        return Layout(_leave_one_out(full, full, roadmap), needs=needs)
    if design.name is Design.add_one_in:
        if unmet := [name for name in start if name not in roadmap.without_unmet_needs(start)]:
            message = f"design.start={start_name} has {unmet[0]} without what it needs; choose another start"
            raise SpecError(f"design.needs.{unmet[0]}: {message}")
        return Layout(_add_one_in(start, [name for name in full if name not in start], roadmap), needs=needs)
    orders = sampled_orders(full, design.orders, design.order_seed)
    prefixes = (roadmap.without_unmet_needs(order[:count]) for order in orders for count in range(len(full) + 1))
    networks = {frozenset(names): names for names in prefixes}.values()
    return Layout([Member(names) for names in networks], orders, needs)


def _needs_of(design: DesignSpec, names: Sequence[str], roadmap: Roadmap) -> Needs:
    """Return the needs that the design adds to those of the transforms. Raises SpecError for one outside of `names`."""
    needs: dict[str, TransformNames] = {}
    for name, needed in design.needs.items():
        for other in (name, *needed):
            if other not in names:
                message = f"{printable(other, 100)} is not in this design; {suggest(other, names)}"
                raise SpecError(f"design.needs.{printable(name, 100)}: {message}")
        if added := set(needed).difference(roadmap.needs[name]):
            needs[name] = roadmap.sort(added)
    return needs


def _leave_one_out(whole: TransformNames, parts: TransformNames, roadmap: Roadmap) -> list[Member]:
    """Return `whole`, which consists of `parts`, and for each part `whole` without it and without what needs it."""
    members = [Member(whole, "nothing left out")]
    for part in parts:
        rest = roadmap.without_unmet_needs([name for name in parts if name != part])
        left_out = [name for name in parts if name not in rest]
        members.append(Member(rest, f"without {roadmap.joined_labels(left_out)}", whole))
    return members


def _add_one_in(start: TransformNames, parts: TransformNames, roadmap: Roadmap) -> list[Member]:
    """Return `start`, and for each of `parts` `start` with it and with what it needs."""
    members = [Member(start, "nothing added")]
    for part in parts:
        added = [name for name in roadmap.with_needs([part]) if name not in start]
        members.append(Member([*start, *added], f"with {roadmap.joined_labels(added)}", start))
    return members


def sampled_orders(names: Sequence[str], count: int, seed: int) -> list[TransformNames]:
    """Return `count` orders of `names`: random ones, each followed by its reverse.

    Antithetic sampling: Mitchell et al. 2022, "Sampling permutations for Shapley value estimation". With the same seed,
    a longer list begins with the shorter one.
    """
    orders: list[TransformNames] = []
    for pair in range(count // 2):
        order = np.random.default_rng([seed, pair]).permutation(list(names)).tolist()
        orders += [order, order[::-1]]
    return orders


def overrides_of(names: TransformNames, roadmap: Roadmap) -> list[str]:
    """Return the overrides that select the network of these transforms."""
    step = roadmap.network_name(names)
    if step in roadmap.steps and set(roadmap.steps[step].transforms) == set(names):
        return [f"+step={step}"]
    groups = {
        "transform": [name for name in names if roadmap.transforms[name].group == "transform"],
        "ingredient": [name for name in names if roadmap.transforms[name].group == "ingredient"],
    }
    return [f"+{group}=[{','.join(members)}]" for group, members in groups.items() if members]


def reference_overrides(name: str, roadmap: Roadmap) -> list[str]:
    """Return the overrides that select a reference network. Raises SpecError for an unknown name."""
    known = [transform.name for transform in roadmap.transforms.values() if transform.reference]
    if name not in known:
        raise SpecError(f"reference={name}: unknown reference network; use {', '.join(known)}, or null")
    return overrides_of([name], roadmap)
