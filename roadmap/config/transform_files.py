"""Readers of the files in conf/transform and conf/ingredient, and of the field values that they set.

A file that cannot be used is left out, and its error is kept. Only a command that uses the file raises the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from roadmap.config import paths
from roadmap.config.files import read_global_yaml, shown_path
from roadmap.config.names import FILE_RULE, LABEL_RULE, is_file_name, is_label
from roadmap.config.schema import SpecError

GROUPS = ("transform", "ingredient")


@dataclass(frozen=True)
class Transform:
    """One change of the network or the recipe: a file in conf/transform or conf/ingredient."""

    name: str
    label: str  # in tables and figures
    needs: tuple[str, ...]  # transforms without which this one has no meaning
    reference: bool  # a network of another kind, for comparison
    sets: dict[str, Any]  # field path -> value, as written in the file
    choices: dict[str, str]  # config group -> the config that the file chooses, as {"recipe": "modern"}
    text: str  # of the file
    group: str = "transform"  # folder of the file: transform or ingredient


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


def read_transforms(texts: Mapping[str, str] | None = None) -> Files[Transform]:
    """Return the transforms of conf/transform and conf/ingredient in all folders of configs.

    With `texts` (`transform/NAME.yaml` -> content), these files are used instead of those in the user's folders.
    """
    transforms: Files[Transform] = Files("transform")
    if texts is None:
        transforms.read([path for group in GROUPS for path in paths.config_files(group)], _read_transform)
    else:
        packaged = [path for group in GROUPS for path in sorted((paths.CONF / group).glob("*.yaml"))]
        transforms.read(packaged, _read_transform)
        own = [Path(name) for name in texts if name.split("/")[0] in GROUPS]
        transforms.read(own, lambda path: _read_transform(path, texts[path.as_posix()]))
    while unmet := {n: need for n, info in transforms.items() for need in info.needs if need not in transforms}:
        for name, need in unmet.items():
            group = transforms.pop(name).group
            reason = f"needs {need}, which is no file in conf/transform or conf/ingredient, or cannot be used"
            message = f"conf/{group}/{name}.yaml: {reason}; correct the name"
            transforms.errors[name] = transforms.errors.get(need) or SpecError(message)
    return transforms


def _read_transform(path: Path, text: str | None = None) -> Transform:
    config, text = read_global_yaml(path, text)
    name, shown = path.stem, shown_path(path)
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
    needs = info.get("needs", [])
    named = isinstance(needs, list) and all(isinstance(need, str) for need in needs)
    require(named and name not in needs, "needs", "must be a list of the names of other transforms, as [gelu]")
    require(isinstance(info.get("reference", False), bool), "reference", "must be true or false")
    for key in ("variant", "section"):
        require(key not in info, key, f"the roadmap has its {key}s; remove this key")
    choices: dict[str, str] = {}
    for default in _defaults(config.pop("defaults", []), shown):  # - override /recipe: modern
        if isinstance(default, dict) and all(str(key).startswith("override /") for key in default):
            choices |= {str(key).removeprefix("override /"): str(value) for key, value in default.items()}
        elif default in (name, f"/{path.parent.name}/{name}"):
            raise SpecError(f"{shown}: includes itself; remove {default} from its defaults")
        elif default != "_self_":
            raise SpecError(f"{shown}: includes {default}; a step can have several transforms instead")
    try:
        sets = _flatten(config)
    except RecursionError as error:
        raise SpecError(f"{shown}: a value contains itself; correct the file") from error
    return Transform(
        name=name,
        label=info["label"],
        needs=tuple(needs),
        reference=info.get("reference", False),
        sets=sets,
        choices=choices,
        text=text,
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
