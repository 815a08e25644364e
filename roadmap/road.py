"""The stations of the road, read from the files in conf/step and conf/transform: there is no second list.

A step file includes the step before it and its own transform; the road is the longest chain of them without variants.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from roadmap.spec import SpecError

_PACKAGE = Path(__file__).parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"  # in a wheel; in a checkout


@dataclass(frozen=True)
class Transform:
    name: str
    label: str
    section: str  # of the paper
    variant: bool
    sets: dict[str, Any]  # field path -> value, as written


@dataclass(frozen=True)
class Step:
    name: str
    before: str | None  # the step that it includes
    transforms: tuple[str, ...]  # all that made it, in order; its own is the last


@cache
def transforms() -> dict[str, Transform]:
    return {path.stem: _transform(path) for path in sorted((CONF / "transform").glob("*.yaml"))}


def _transform(path: Path) -> Transform:
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
    return Transform(path.stem, info["label"], info.get("section", ""), info.get("variant", False), sets)


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
def road(beyond_paper: bool = True) -> list[Step]:
    """The stations in order: from the longest chain of steps without a variant back to its start.

    With `beyond_paper` False the chain ends where a transform has no section of the paper.
    """

    def on_path(step: Step) -> bool:
        infos = [transforms()[name] for name in step.transforms]
        return not any(info.variant or not (beyond_paper or info.section) for info in infos)

    candidates = [step for step in all_steps().values() if on_path(step) and _own(step)]
    last: Step | None = max(candidates, key=lambda step: (len(step.transforms), step.name))
    chain = []
    while last is not None:
        chain.append(last)
        last = all_steps()[last.before] if last.before else None
    return chain[::-1]


def _own(step: Step) -> bool:
    """Whether the step adds a transform, and is no other name of the one before (`resnextify`)."""
    return step.before is None or step.transforms != all_steps()[step.before].transforms


def steps() -> list[str]:
    """The names of the stations, in the order of the road."""
    return [step.name for step in road()]


def order(names: list[str]) -> list[str]:
    """Transforms in the order of the road; then those of other steps; those on no step last; each by name."""
    position: dict[str, int] = {}
    for rank, chain in enumerate([road(), list(all_steps().values())]):
        for step in chain:
            for i, name in enumerate(step.transforms):
                position.setdefault(name, 1000 * rank + i)
    return sorted(names, key=lambda name: (position.get(name, 2000), name))


def name_of(names: list[str]) -> str:
    """The step that these transforms make, else the names joined: `depthwise_conv+gelu`."""
    for step in all_steps().values():
        if set(step.transforms) == set(names) and _own(step):
            return step.name
    return "+".join(order(names))


def refuse_conflicts(names: list[str]) -> None:
    """Raise SpecError where two transforms want the same field to be different things."""
    seen: dict[str, str] = {}
    for name in order(names):
        for path, value in transforms()[name].sets.items():
            other = seen.setdefault(path, name)
            if transforms()[other].sets[path] != value:
                raise SpecError(f"transform={name}: {other} and {name} both set {path}; leave one of them out")


def label_of(names: list[str]) -> str:
    """How a table calls the network: by the last transform of a step, by all of them else."""
    made_by = order(names)
    if not made_by:
        return "baseline"
    labels = [transforms()[name].label for name in made_by]
    return labels[-1] if name_of(names) in all_steps() else " + ".join(labels)
