"""Composition of many networks under the same other settings, without Hydra for each of them.

Hydra takes 0.1 to 0.3 s for each composition. Networks differ only in their transforms, and a transform only sets
fields. So Hydra composes the common part once, and the fields of the transforms are merged into it, with the same
result. Where the order of merging could matter, Hydra composes the network itself.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from roadmap.config import paths
from roadmap.config.compose import make_spec, to_spec
from roadmap.config.files import read_yaml
from roadmap.config.messages import is_config_error
from roadmap.config.roadmaps import Roadmap
from roadmap.config.schema import RunSpec, TransformInfo

NETWORK = re.compile(r"\+{1,2}(step|transform|ingredient)=([\w-]+|\[[\w, -]*\])")
INCLUDED = re.compile(r"\+{1,2}(study|preset)=([\w.-]+)")  # groups whose files may set any field


class _UseHydra(Exception):
    """The order of merging may matter."""


class NetworkComposer:
    """Composes runs that differ mostly in their networks."""

    def __init__(self, compose: Callable[[list[str]], DictConfig], roadmap: Roadmap) -> None:
        """`compose` is Hydra's composition of a list of overrides, without `roadmap=...`."""
        self._compose, self._roadmap = compose, roadmap
        self._common: dict[tuple[str, ...], tuple[DictConfig, dict[str, Any]]] = {}

    def compose(self, overrides: Sequence[str]) -> RunSpec:
        """Return the validated spec of the run. Raises SpecError or Hydra's errors, like Hydra's own composition."""
        try:
            return self._merge(overrides)
        except Exception as error:
            if not isinstance(error, _UseHydra) and not is_config_error(error):
                raise
        return to_spec(self._compose(list(overrides)))  # also for its messages, which name the file

    def _merge(self, overrides: Sequence[str]) -> RunSpec:
        transforms = self._transforms_of(overrides)
        others = [override for override in overrides if NETWORK.fullmatch(override) is None]
        set_by_others, chosen_by_files = _fields_set_by(others)
        choices: dict[str, str] = {}
        described: dict[str, TransformInfo] = {}
        fields: dict[str, Any] = {}
        for name in transforms:
            info = self._roadmap.transforms[name]
            choices |= info.choices
            described[name] = TransformInfo(info.label, needs=list(info.needs), reference=info.reference)
            for path, value in info.sets.items():
                if path in set_by_others.overrides:
                    continue  # an override on the command line wins
                if path.count(".") != 1 or any(
                    _overlap(path, other) for other in (*set_by_others.overrides, *set_by_others.files)
                ):
                    raise _UseHydra
                fields[path] = value
        if chosen_by_files & choices.keys():
            raise _UseHydra
        typed = {re.split(r"[=@]", override.lstrip("+~"))[0] for override in others}
        wanted = [f"{group}={name}" for group, name in choices.items() if group not in typed]
        config, values = self._common_config((*others, *wanted))
        known = all(path.split(".")[1] in values.get(path.split(".")[0], {}) for path in fields)
        if values["transforms"] or not known:
            raise _UseHydra
        try:  # setting and restoring the fields takes less time than copying the config
            for path, value in fields.items():
                OmegaConf.update(config, path, value, merge=False)
            return make_spec(config, described)
        finally:
            for path in fields:
                section, _, name = path.rpartition(".")
                OmegaConf.update(config, path, values[section][name], merge=False)

    def _transforms_of(self, overrides: Iterable[str]) -> list[str]:
        """Return the transforms that the overrides select, in the order in which Hydra merges them."""
        transforms: list[str] = []
        for override in overrides:
            match = NETWORK.fullmatch(override)
            if match is None:
                if re.match(r"[+~]*(step|transform|ingredient)\b", override):
                    raise _UseHydra
                continue
            group, value = match.groups()
            names = [name.strip() for name in value.strip("[]").split(",") if name.strip()]
            known = self._roadmap.steps if group == "step" else self._roadmap.transforms
            if not set(names) <= known.keys() or (group == "step" and value.startswith("[")):
                raise _UseHydra
            for name in names:
                transforms += self._roadmap.steps[name].transforms if group == "step" else [name]
        if len(set(transforms)) < len(transforms):
            raise _UseHydra
        return transforms

    def _common_config(self, overrides: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any]]:
        """Return the config without a network, and its sections as plain values, not interpolated."""
        if overrides not in self._common:
            config = copy.deepcopy(self._compose(list(overrides)))
            with read_write(config), open_dict(config):
                config.pop("hydra", None)
            values: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
            self._common[overrides] = config, values
        return self._common[overrides]


class _SetFields:
    def __init__(self) -> None:
        self.overrides: set[str] = set()  # field paths on the command line
        self.files: set[str] = set()  # field paths in the files of studies and presets


def _fields_set_by(overrides: Iterable[str]) -> tuple[_SetFields, set[str]]:
    """Return the fields that the overrides set, and the groups whose config a study or a preset chooses."""
    fields, groups = _SetFields(), set[str]()
    known_groups = {path.name for folder in paths.config_folders() for path in folder.iterdir() if path.is_dir()}
    for override in overrides:
        match = INCLUDED.fullmatch(override)
        if match is not None:
            for path, value in _content_of_file(match[1], match[2]):
                if path.startswith("override /"):
                    groups.add(path.removeprefix("override /").split("@")[0])
                else:
                    fields.files.update(_paths(path, value))
        elif override.startswith(("~", "+study", "+preset", "++study", "++preset")):
            raise _UseHydra
        else:
            key = re.split(r"[=@]", override.lstrip("+"))[0]
            if override.startswith("+") and key in known_groups:
                raise _UseHydra
            if key not in known_groups:  # otherwise it chooses a config, which Hydra has merged into the common part
                fields.overrides.add(key)
    return fields, groups


def _content_of_file(group: str, name: str) -> list[tuple[str, Any]]:
    """Return the keys and values of a study or a preset, with those of the files that it includes."""
    node = ConfigStore.instance().repo.get(group, {}).get(f"{name}.yaml")
    path = paths.find_config(group, name)
    if path is not None:
        content = read_yaml(path)
    elif node is not None:
        content = dict(OmegaConf.to_container(node.node))  # type: ignore[arg-type]
    else:
        raise _UseHydra
    entries: list[tuple[str, Any]] = []
    for default in content.pop("defaults", None) or []:
        if isinstance(default, dict):
            entries += [(str(key), value) for key, value in default.items()]
            if not all(str(key).startswith("override /") for key in default):
                raise _UseHydra
        elif default != "_self_":
            if not isinstance(default, str) or "/" in default:
                raise _UseHydra
            entries += _content_of_file(group, default)
    return [*entries, *((key, value) for key, value in content.items() if key != "hydra")]


def _paths(path: str, value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(f"{path}.{key}", item)
    else:
        yield path


def _overlap(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")
