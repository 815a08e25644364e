"""Which networks a study consists of, and which other each is compared with.

The road is a grid: what a sweep lists, each network compared with the one before it. The other designs take a network
apart or put it together; every network is a set of transforms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from roadmap.config.schema import Design, DesignSpec, SpecError
from roadmap.config.steps import (
    all_ingredients,
    all_steps,
    all_transforms,
    name_of_transforms,
    step_names,
    with_needs,
    without_unmet_needs,
)

TransformNames = list[str]  # of transforms


@dataclass(frozen=True)
class Member:
    """A network of a study."""

    transforms: TransformNames
    label: str | None = None  # in this study; None: the network's own
    against: TransformNames | None = None  # the transforms of the one that it is compared with


@dataclass(frozen=True)
class Layout:
    members: list[Member] = field(default_factory=list)  # besides what the sweep lists
    orders: list[TransformNames] = field(default_factory=list)  # of an attribution, each followed by its opposite


def study_layout(design: DesignSpec) -> Layout:
    """Raises SpecError for a step that is not there."""
    if design.name is Design.grid:
        return Layout()
    if design.name is Design.recipe:
        parts = list(all_ingredients())
        return Layout(_added([], parts) + _left_out(["training_recipe"], parts))
    full = _transforms_of_step("design.full", design.full)
    start = _transforms_of_step("design.start", design.start)
    base = start if design.name is Design.add_one_in else []
    if not set(full) - set(base):
        raise SpecError(f"design.full={design.full}: has no transform to take out or to add; give a later step")
    if design.name is Design.leave_one_out:
        return Layout(_left_out(full, full))
    if design.name is Design.add_one_in:
        return Layout(_added(start, [name for name in full if name not in start]))
    orders = sampled_orders(full, design.orders, design.order_seed)
    prefixes = (without_unmet_needs(order[:count]) for order in orders for count in range(len(full) + 1))
    return Layout([Member(names) for names in {frozenset(names): names for names in prefixes}.values()], orders)


def _left_out(whole: TransformNames, parts: TransformNames) -> list[Member]:
    """`whole`, which is made of `parts`, and it without each of them in turn, and without what needs that."""
    members = [Member(whole, "nothing left out")]
    for part in parts:
        rest = without_unmet_needs([name for name in parts if name != part])
        members.append(Member(rest, f"without {_labels([p for p in parts if p not in rest])}", whole))
    return members


def _added(start: TransformNames, parts: TransformNames) -> list[Member]:
    """`start`, and it with each of `parts` in turn, and with what that needs."""
    members = [Member(start, "nothing added")]
    for part in parts:
        more = [name for name in with_needs([part]) if name not in start]
        members.append(Member([*start, *more], f"with {_labels(more)}", start))
    return members


def _labels(names: TransformNames) -> str:
    return " and ".join(all_transforms()[name].label for name in names)


def sampled_orders(names: Sequence[str], count: int, seed: int) -> list[TransformNames]:
    """`count` orders, each random one followed by its opposite (antithetic; Mitchell et al. 2022, "Sampling
    permutations for Shapley value estimation"). More orders of one seed begin with those of fewer."""
    orders = []
    for pair in range(count // 2):
        order = np.random.default_rng([seed, pair]).permutation(list(names)).tolist()
        orders += [order, order[::-1]]
    return orders


def overrides_of(names: TransformNames) -> list[str]:
    """The overrides that make the network of these transforms."""
    step = name_of_transforms(names)
    if step in all_steps():
        return [f"+step={step}"]
    groups = {"transform": [n for n in names if n not in all_ingredients()]}
    groups["ingredient"] = [n for n in names if n in all_ingredients()]
    return [f"+{group}=[{','.join(members)}]" for group, members in groups.items() if members]


def reference_overrides(name: str) -> list[str]:
    """The overrides that make a reference network. Raises SpecError where there is none of that name."""
    known = [transform.name for transform in all_transforms().values() if transform.reference]
    if name not in known:
        raise SpecError(f"reference={name}: no such network; there are {', '.join(known)}, or null")
    return overrides_of([name])


def _transforms_of_step(field_name: str, step: str) -> TransformNames:
    if step not in all_steps():
        raise SpecError(f"{field_name}={step}: no such step; there are {', '.join(step_names())}")
    return list(all_steps()[step].transforms)
