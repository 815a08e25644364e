"""Readers of the files in conf/step, conf/transform and conf/ingredient.

A file that cannot be used is left out, and its error is kept. Only a command that uses the file raises the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from roadmap.config import paths
from roadmap.config.files import read_global_yaml, shown_path
from roadmap.config.names import FILE_RULE, LABEL_RULE, is_file_name, is_label
from roadmap.config.schema import SpecError


@dataclass(frozen=True)
class Transform:
    """One change of the network or the recipe: a file in conf/transform or conf/ingredient."""

    name: str
    label: str  # in tables and figures
    section: str  # of the paper; empty: beyond the paper
    variant: bool  # tried at a step and not kept
    needs: tuple[str, ...]  # transforms without which this one has no meaning
    reference: bool  # a network of another kind, for comparison
    sets: dict[str, Any]  # field path -> value, as written in the file
    group: str = "transform"  # folder of the file: transform or ingredient


@dataclass(frozen=True)
class Step:
    """The base plus all transforms up to and including the step's own: a file in conf/step."""

    name: str
    before: str | None  # the previous step, which this one includes
    transforms: tuple[str, ...]  # in order; the step's own is the last


Value = TypeVar("Value")


class Files(dict[str, Value]):
    """File name -> content of the file; `errors` has the files that cannot be used."""

    def __init__(self, group: str, values: Iterable[tuple[str, Value]] = ()) -> None:
        super().__init__(values)
        self.group = group
        self.errors: dict[str, SpecError] = {}

    def __missing__(self, name: str) -> Value:
        unknown = f"{self.group}={name}: unknown; there is no file conf/{self.group}/{name}.yaml"
        raise self.errors.get(name) or SpecError(unknown)

    def read(self, files: Iterable[Path], read: Callable[[Path], Value]) -> None:
        """Read each file, and keep its error if it cannot be used."""
        for path in files:
            try:
                if not is_file_name(path.stem):
                    raise SpecError(f"{shown_path(path)!r}: {FILE_RULE}; rename it")
                self[path.stem] = read(path)
            except SpecError as error:
                self.errors[path.stem] = error


def _files(group: str) -> list[Path]:
    return sorted((paths.CONF / group).glob("*.yaml"), key=lambda path: path.stem)


def read_transforms() -> Files[Transform]:
    """Return the transforms of conf/transform and conf/ingredient."""
    transforms: Files[Transform] = Files("transform")
    transforms.read([*_files("transform"), *_files("ingredient")], _read_transform)
    while unmet := {n: need for n, info in transforms.items() for need in info.needs if need not in transforms}:
        for name, need in unmet.items():
            group = transforms.pop(name).group
            reason = f"needs {need}, which is no file in conf/transform or conf/ingredient, or cannot be used"
            path = shown_path(paths.CONF / group / f"{name}.yaml")
            transforms.errors[name] = transforms.errors.get(need) or SpecError(f"{path}: {reason}; correct the name")
    return transforms


def _read_transform(path: Path) -> Transform:
    config, name, shown = read_global_yaml(path), path.stem, shown_path(path)
    entries = config.pop("transforms", None)
    if not isinstance(entries, dict) or not isinstance(entries.get(name), dict):
        raise SpecError(f"{shown}: has no entry transforms.{name}; add {name}: {{label: my label}} below transforms")
    if len(entries) > 1:
        raise SpecError(f"{shown}: transforms must have the entry {name} alone; write one file for each transform")
    info = entries[name]

    def require(holds: bool, key: str, message: str) -> None:
        if not holds:
            raise SpecError(f"{shown}: transforms.{name}.{key}={info[key]!r}: {message}")

    if "label" not in info:
        raise SpecError(f"{shown}: transforms.{name} has no label; add one, as {name}: {{label: my label}}")
    require(isinstance(info["label"], str), "label", "must be text; write it in quotes")
    require(is_label(info["label"]), "label", LABEL_RULE)
    section, needs = info.get("section", ""), info.get("needs", [])
    require(isinstance(section, str) and (not section or is_label(section)), "section", "must be text, in quotes")
    named = isinstance(needs, list) and all(isinstance(need, str) for need in needs)
    require(named and name not in needs, "needs", "must be a list of the names of other transforms, as [gelu]")
    for key in ("variant", "reference"):
        require(isinstance(info.get(key, False), bool), key, "must be true or false")
    sets: dict[str, Any] = {}
    for default in _defaults(config.pop("defaults", []), shown):  # - override /recipe: modern
        if isinstance(default, dict):
            sets |= {str(key).removeprefix("override /"): value for key, value in default.items()}
        elif default in (name, f"/{path.parent.name}/{name}"):
            raise SpecError(f"{shown}: includes itself; remove {default} from its defaults")
    try:
        sets |= _flatten(config)
    except RecursionError as error:
        raise SpecError(f"{shown}: a value contains itself; correct the file") from error
    return Transform(
        name=name,
        label=info["label"],
        section=section,
        variant=info.get("variant", False),
        needs=tuple(needs),
        reference=info.get("reference", False),
        sets=sets,
        group=path.parent.name,
    )


def _defaults(defaults: Any, shown: str) -> list[Any]:
    if not isinstance(defaults, list):
        raise SpecError(f"{shown}: defaults must be a list; write each entry in a line of its own, after '- '")
    return defaults


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return field path -> value for nested sections."""
    fields: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        fields |= _flatten(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return fields


def read_steps(transforms: Files[Transform]) -> Files[Step]:
    """Return every step of conf/step. If a step cannot be used, the steps that include it have the same error."""
    files = {path.stem: path for path in _files("step")}
    steps: Files[Step] = Files("step")
    chain: list[str] = []  # steps that are being read: each includes the next one

    def read(path: Path) -> Step:
        name, shown = path.stem, shown_path(path)
        if name in steps:
            return steps[name]
        if name in chain:
            circle = " -> ".join([*chain[chain.index(name) :], name])
            raise SpecError(f"{shown}: includes itself ({circle}); correct its defaults")
        before: list[str] = []
        own: list[str] = []
        for default in _defaults(read_global_yaml(path).get("defaults", []), shown):
            folder, _, last = str(default).rpartition("/")
            if folder in ("/transform", "/ingredient"):
                own.append(last)
            elif folder in ("", "/step") and isinstance(default, str) and default != "_self_":
                before.append(last)
        if len(before) > 1:
            raise SpecError(f"{shown}: includes more than one step ({', '.join(before)}); include the last one")
        for other in before:
            if other not in files:
                raise SpecError(f"{shown}: includes {other}, which is not in conf/step; correct the name")
        for other in own:
            if other not in transforms:
                missing = SpecError(f"{shown}: includes {other}, which is not in conf/transform; correct the name")
                raise transforms.errors.get(other, missing)
        chain.append(name)
        try:
            earlier = read(files[before[0]]).transforms if before else ()
        finally:
            chain.pop()
        steps[name] = Step(name, before[0] if before else None, earlier + tuple(own))
        return steps[name]

    steps.read(files.values(), read)
    return steps
