"""Composition: overrides -> Hydra config -> typed and validated RunSpec. Other packages receive only the RunSpec."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
import traceback
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from roadmap.config.datasets import complete_data_spec
from roadmap.config.paths import CONF
from roadmap.config.schema import NetworkSpec, RunSpec, SpecError
from roadmap.config.steps import check_conflicts, sort_transforms
from roadmap.config.validation import validate, validate_base, validate_network

CONFIG_ERRORS = (HydraException, OmegaConfBaseException, SpecError)


def is_config_error(error: BaseException) -> bool:
    """Return whether the user's input caused the error: it is of CONFIG_ERRORS, or Hydra or OmegaConf raised it.

    For some mistakes they raise a plain ValueError or AssertionError. One of our own code is a bug.
    """
    if isinstance(error, CONFIG_ERRORS):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in = frames[-1].f_globals.get("__name__", "") if frames else ""
    return isinstance(error, (ValueError, AssertionError)) and raised_in.split(".")[0] in ("hydra", "omegaconf")


def register_schema() -> None:
    """Register the schema of a run with Hydra. Call this before composing; repeated calls have no effect."""
    ConfigStore.instance().store(name="run_schema", node=RunSpec)


def compose(*overrides: str) -> RunSpec:
    """Return the validated spec of the run that `python run_roadmap.py OVERRIDES` would train.

    Examples:
        >>> compose("+step=gelu", "base=resnet50", "data=imagenet", "data.root=/data").network.activation

    Raises SpecError, with a message of one line that names the field, for unknown, mistyped and impossible settings.
    """
    try:
        return to_spec(compose_config(*overrides))
    except Exception as error:
        if not is_config_error(error):
            raise
        raise SpecError(one_line_message(error)) from error


def compose_network(
    step: str, base: str = "resnet50", num_classes: int = 1000, in_chans: int = 3, **network_fields: Any
) -> NetworkSpec:
    """Return the network of a step or variant, for 224-pixel images (stem stride 4) unless a field says otherwise.

    Raises SpecError for an unknown step, base or field, and for a network that cannot be built.
    """
    try:
        config = compose_config(f"+step={step}", f"base={base}", "data.stem_stride=4")
        fields = {"num_classes": num_classes, "in_chans": in_chans, **network_fields}
        config.network = OmegaConf.merge(config.network, fields)
        spec = OmegaConf.to_object(config.network)
    except CONFIG_ERRORS as error:
        raise SpecError(one_line_message(error)) from error
    assert isinstance(spec, NetworkSpec)
    validate_network(spec)
    return spec


def compose_config(*overrides: str) -> DictConfig:
    """Return Hydra's config for `overrides`, not validated. Works inside a running Hydra application, too."""
    register_schema()
    application = GlobalHydra.instance().hydra  # a running application's Hydra, which is restored below
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", rewrite_study_override(list(overrides)))
    finally:
        if application is not None:
            GlobalHydra.instance().initialize(application)


def rewrite_study_override(overrides: list[str]) -> list[str]:
    """Return `overrides` with `study=NAME` rewritten so that it sets the field `study`.

    Hydra would read `study=NAME` as a choice of the config group `study`. Therefore NAME is registered as a config of
    that group. With `+study=X` in the overrides, this config includes the study X.
    """
    names = [override.removeprefix("study=") for override in overrides if re.fullmatch(r"study=[\w.-]+", override)]
    if not names:
        return overrides
    name = names[-1]
    included = [override.removeprefix("+study=") for override in overrides if override.startswith("+study=")]
    node = {"defaults": [*included, "_self_"], "study": name}
    ConfigStore.instance().store(group="study", name=f"named_{name}", node=node, package="_global_")
    return [override for override in overrides if not re.match(r"\+?study=", override)] + [f"+study=named_{name}"]


def to_spec(config: DictConfig) -> RunSpec:
    """Return the typed, complete and validated spec of a composed config; Hydra's own section is ignored.

    Fields that only the data can determine (its number of classes) are filled in. The transforms are put in the order
    of the roadmap. Raises SpecError or OmegaConf's errors.
    """
    config = copy.deepcopy(config)
    with read_write(config), open_dict(config):
        config.pop("hydra", None)
    _refuse_unknown_fields(config, RunSpec)
    spec = OmegaConf.to_object(config)
    assert isinstance(spec, RunSpec)
    check_conflicts(list(spec.transforms))
    spec.transforms = {name: spec.transforms[name] for name in sort_transforms(list(spec.transforms))}
    spec.data = complete_data_spec(spec.data)
    base, network = spec.base, spec.network
    validate_base(base)
    network.width = round(network.width * base.width_factor)
    network.depths = [max(1, round(blocks * base.depth_factor)) for blocks in network.depths]
    if network.num_classes is None:
        network.num_classes = spec.data.num_classes
    validate(spec)
    return spec


def one_line_message(error: BaseException) -> str:
    """Return an error of the configuration as one line that names the field. Hydra's own messages have many lines."""
    cause: BaseException = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, CONFIG_ERRORS):
        cause = cause.__cause__
    if isinstance(cause, SpecError):
        return str(cause)
    outer, inner = str(error).strip(), str(cause).strip()
    missing_config = re.search(r"Could not (?:find|load) '(\w+)/([^']*)'", outer)
    if missing_config:
        group, name = missing_config.groups()
        known = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        return f"{group}={name}: unknown; {_suggest(name, known)}"
    key = re.search(r"full_key: (\S+)", inner)
    text = re.sub(r"\s+", " ", inner.split("\n    full_key")[0])
    unknown_key = re.search(r"Key '([^']*)' (?:not in|is not in struct)", inner)
    if unknown_key:
        return _unknown_field(key.group(1) if key else unknown_key.group(1))
    if key and key.group(1) not in text:
        return f"{key.group(1)}: {text}"
    if "not in the defaults list" in text or "No match in the defaults list" in text:
        text = re.sub(r"Could not override '([^']*)'\.?", r"\1: unknown group.", text)
    return text


def _refuse_unknown_fields(config: DictConfig, schema: type, prefix: str = "") -> None:
    """Raise SpecError for a key that the schema does not have, such as `+network.widht=3`: Hydra accepts such a key."""
    known = {field.name for field in dataclasses.fields(schema)}
    for key in map(str, config):
        if key not in known:
            raise SpecError(_unknown_field(prefix + key))
        section = OmegaConf.get_type(config, key)
        if dataclasses.is_dataclass(section):
            _refuse_unknown_fields(config[key], section, f"{prefix}{key}.")


def _unknown_field(path: str) -> str:
    known = _field_paths(path.rpartition(".")[0])
    return f"{path}: unknown field; {_suggest(path, known) if known else f'add it as +{path}=...'}"


def _suggest(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"use one of {', '.join(known)}"


def _field_paths(section: str) -> list[str]:
    """Return the paths of the fields in a section of the schema; of the sections themselves for an unknown section."""
    schema = OmegaConf.structured(RunSpec)
    node = OmegaConf.select(schema, section) if section else schema
    if not OmegaConf.is_config(node):
        section, node = "", schema
    return [f"{section}.{key}" if section else str(key) for key in node]
