"""From a command line to a typed RunSpec: Hydra composes, the spec checks, and here Hydra ends."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
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


def register_schema() -> None:
    """Make the schema known to Hydra. Call before composing; calling again does nothing new."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunSpec)
    sweeper = {"_target_": "hydra_plugins.roadmap.Sweeper", "params": None}
    store.store(group="hydra/sweeper", name="roadmap", node=sweeper)


def compose(*overrides: str) -> RunSpec:
    """The run that `python run_roadmap.py OVERRIDES` would make, checked.

    >>> compose("+step=gelu", "base=resnet50", "data=imagenet", "data.root=/data").network.activation

    Raises SpecError, in one line that names the field, for anything unknown, mistyped or impossible.
    """
    try:
        return to_spec(compose_config(*overrides))
    except (*CONFIG_ERRORS, ValueError) as error:
        raise SpecError(one_line_message(error)) from error


def compose_network(
    step: str, base: str = "resnet50", num_classes: int = 1000, in_chans: int = 3, **network_fields: Any
) -> NetworkSpec:
    """The network of a step or variant, for 224-pixel images (stem stride 4) unless a field says otherwise.

    Raises SpecError for an unknown step, base or field, and for a network that has no meaning.
    """
    try:
        config = compose_config(f"+step={step}", f"base={base}", "data.stem_stride=4")
        given = {"num_classes": num_classes, "in_chans": in_chans, **network_fields}
        config.network = OmegaConf.merge(config.network, given)
        spec = OmegaConf.to_object(config.network)
    except CONFIG_ERRORS as error:
        raise SpecError(one_line_message(error)) from error
    assert isinstance(spec, NetworkSpec)
    validate_network(spec)
    return spec


def compose_config(*overrides: str) -> DictConfig:
    register_schema()
    busy = GlobalHydra.instance().hydra  # a running Hydra application's own; give it back afterwards
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", rewrite_study_override(list(overrides)))
    finally:
        if busy is not None:
            GlobalHydra.instance().initialize(busy)


def rewrite_study_override(words: list[str]) -> list[str]:
    """Let `study=NAME` set the field: Hydra would take it for a choice of the group `study`, which NAME then becomes.

    With `+study=X` beside it, NAME is the study X under another name.
    """
    names = [word.removeprefix("study=") for word in words if re.fullmatch(r"study=[\w.-]+", word)]
    if not names:
        return words
    (*_, name) = names
    others = [word.removeprefix("+study=") for word in words if word.startswith("+study=")]
    node = {"defaults": [*others, "_self_"], "study": name}
    ConfigStore.instance().store(group="study", name=f"named_{name}", node=node, package="_global_")
    return [word for word in words if not re.match(r"\+?study=", word)] + [f"+study=named_{name}"]


def to_spec(config: DictConfig) -> RunSpec:
    """The typed, complete and checked spec of a composed config (Hydra's own section left aside).

    What only the data's own folder knows (its number of classes) is filled in; the transforms stand in the order of
    the road whatever order they were given in. Raises SpecError or OmegaConf's errors.
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
    if spec.network.num_classes is None:
        spec.network.num_classes = spec.data.num_classes
    validate(spec)
    return spec


def one_line_message(error: BaseException) -> str:
    """Hydra's and OmegaConf's messages run over many lines; the user needs the field and what to do."""
    cause: BaseException = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, CONFIG_ERRORS):
        cause = cause.__cause__
    if isinstance(cause, SpecError):
        return str(cause)
    outer, inner = str(error).strip(), str(cause).strip()
    missing = re.search(r"Could not (?:find|load) '(\w+)/([^']*)'", outer)
    if missing:
        group, name = missing.groups()
        known = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        return f"{group}={name}: unknown; {_suggest(name, known)}"
    key = re.search(r"full_key: (\S+)", inner)
    text = re.sub(r"\s+", " ", inner.split("\n    full_key")[0])
    unknown = re.search(r"Key '([^']*)' (?:not in|is not in struct)", inner)
    if unknown:
        path = key.group(1) if key else unknown.group(1)
        return _unknown_field(path)
    if key and key.group(1) not in text:
        return f"{key.group(1)}: {text}"
    if "not in the defaults list" in text or "No match in the defaults list" in text:
        text = re.sub(r"Could not override '([^']*)'\.?", r"\1: unknown group.", text)
    return text


def _refuse_unknown_fields(config: DictConfig, schema: type, prefix: str = "") -> None:
    """`+network.widht=3` adds a key that the schema does not have: Hydra lets it pass, we do not."""
    known = {f.name for f in dataclasses.fields(schema)}
    for key in map(str, config):
        if key not in known:
            raise SpecError(_unknown_field(prefix + key))
        node = config._get_node(key)
        kind = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
        if isinstance(node, DictConfig) and dataclasses.is_dataclass(kind):
            _refuse_unknown_fields(node, kind, f"{prefix}{key}.")


def _unknown_field(path: str) -> str:
    section = path.rpartition(".")[0]
    known = _fields(section)
    return f"{path}: unknown field; {_suggest(path, known) if known else f'add it as +{path}=...'}"


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _fields(section: str) -> list[str]:
    """The paths of the fields in a section of the schema; of the sections themselves where there is none such."""
    schema = OmegaConf.structured(RunSpec)
    node = OmegaConf.select(schema, section) if section else schema
    if not OmegaConf.is_config(node):
        section, node = "", schema
    return [f"{section}.{key}" if section else str(key) for key in node]
