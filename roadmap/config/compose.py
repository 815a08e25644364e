"""Composition: overrides -> Hydra config -> typed and validated RunSpec. Other packages receive only the RunSpec."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from roadmap.config import paths
from roadmap.config.datasets import complete_data_spec
from roadmap.config.effects import check_effects
from roadmap.config.limits import check_limits
from roadmap.config.messages import CONFIG_ERRORS, is_config_error, one_line_message, unknown_field
from roadmap.config.overrides import check_overrides, rewrite_study_override
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import DEFAULT_ROADMAP, MISSING, NetworkSpec, RunSpec, SpecError, TransformInfo
from roadmap.config.search_budget import check_search
from roadmap.config.search_space import check_space
from roadmap.config.selection import check_roadmap, choose_folders, choose_roadmap, search_path_overrides
from roadmap.config.validation import require, validate, validate_base, validate_network, validate_sizes

TABLE_5_STD, PAPER_WIDTH = 0.02, 64  # standard deviation of the initial weights; channels of ResNet-50's first stage


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
    step: str,
    base: str = "resnet50",
    num_classes: int = 1000,
    in_chans: int = 3,
    roadmap: str = DEFAULT_ROADMAP,
    **network_fields: Any,
) -> NetworkSpec:
    """Return the network of a step or variant, for 224-pixel images (stem stride 4) unless a field says otherwise.

    Raises SpecError for an unknown roadmap, step, base or field, and for a network that cannot be built.
    """
    try:
        config = compose_config(f"roadmap={roadmap}", f"+step={step}", f"base={base}", "data.stem_stride=4")
        fields = {"num_classes": num_classes, "in_chans": in_chans, **network_fields}
        config.network = OmegaConf.merge(config.network, fields)
        if config.network.init_std is None:
            config.network.init_std = scaled_init_std(config.base.width * config.base.width_factor)
        spec = OmegaConf.to_object(config.network)
    except CONFIG_ERRORS as error:
        raise SpecError(one_line_message(error)) from error
    assert isinstance(spec, NetworkSpec)
    validate_network(spec)
    return spec


def compose_config(*overrides: str) -> DictConfig:
    """Return Hydra's config for `overrides`, not validated. Works inside a running Hydra application, too."""
    register_schema()
    roadmap, others = choose_roadmap(choose_folders(overrides))
    check_overrides(others, roadmap)
    application = GlobalHydra.instance().hydra  # a running application's Hydra, which is restored below
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(paths.CONF), version_base="1.3"):
            return hydra_compose("config", [*rewrite_study_override(others), *search_path_overrides()])
    finally:
        if application is not None:
            GlobalHydra.instance().initialize(application)


def to_spec(config: DictConfig) -> RunSpec:
    """Return the typed, complete and validated spec of a composed config; Hydra's own section is ignored. See
    `make_spec`."""
    config = copy.deepcopy(config)
    with read_write(config), open_dict(config):
        config.pop("hydra", None)
    return make_spec(config)


def make_spec(config: DictConfig, transforms: dict[str, TransformInfo] | None = None) -> RunSpec:
    """Return the typed, complete and validated spec of a composed config without Hydra's own section.

    `transforms` are those of the network, if the config does not have them. Fields that only the data can determine
    (its number of classes) are filled in. The transforms are put in the order of the roadmap, which also names the
    network. Raises SpecError or OmegaConf's errors.
    """
    _refuse_unknown_fields(config, RunSpec)
    spec = OmegaConf.to_object(config)
    assert isinstance(spec, RunSpec)
    spec.transforms = transforms or spec.transforms
    _refuse_missing_values(spec)
    check_roadmap(spec.roadmap)
    roadmap = load_roadmap(spec.roadmap)
    for name in spec.transforms:
        roadmap.transforms[name]  # raises SpecError for an entry without a file of its own
    for section in ("data", "base", "recipe"):  # first, because fields of the network and the budget take their values
        check_limits(getattr(spec, section), f"{section}.")
    check_limits(spec)
    check_space(spec.tune)
    check_search(spec.search)
    roadmap.check_conflicts(spec.transforms)
    spec.transforms = {name: spec.transforms[name] for name in roadmap.sort(spec.transforms)}
    for name, info in spec.transforms.items():
        info.variant, info.section = name in roadmap.variant_transforms, roadmap.section_of(name)
    spec.name, spec.label = roadmap.network_name(spec.transforms), roadmap.network_label(spec.transforms)
    check_effects(spec.data)
    spec.data = complete_data_spec(spec.data, dry_run=spec.plan)
    validate_base(spec.base)
    validate_sizes(spec.network)
    _scale_network(spec)
    if spec.network.num_classes is None:
        spec.network.num_classes = spec.data.num_classes
    check_limits(spec.network, "network.")
    validate(spec)
    return spec


def _scale_network(spec: RunSpec) -> None:
    """Multiply the width and the depths by the factors of the base, and round to whole channels and blocks."""
    base, network = spec.base, spec.network
    width = round(network.width * base.width_factor)
    message = f"leaves no channel of network.width={network.width}; use a larger factor"
    require(width >= 1, "base.width_factor", base.width_factor, message)
    depths = [round(blocks * base.depth_factor) for blocks in network.depths]
    message = f"leaves a stage of network.depths={network.depths} without a block; use a larger factor"
    require(min(depths) >= 1, "base.depth_factor", base.depth_factor, message)
    network.width, network.depths = width, depths
    if network.init_std is None:
        network.init_std = scaled_init_std(base.width * base.width_factor)


def scaled_init_std(width: float) -> float:
    """Return the standard deviation of the initial weights for a base of this width (channels of its first stage).

    It is Table 5's 0.02 for the paper's width of 64, and for narrower bases 0.02 times sqrt(64 / width): then the sum
    over the inputs of a 1x1 convolution has the same variance as at the paper's width. Wider bases have 0.02.
    """
    return TABLE_5_STD * max(1.0, math.sqrt(PAPER_WIDTH / width))


def _refuse_missing_values(section: Any, prefix: str = "") -> None:
    """Raise SpecError for a required field without a value: OmegaConf leaves MISSING in a section that was removed."""
    for field in dataclasses.fields(section):
        value, path = getattr(section, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            _refuse_missing_values(value, f"{path}.")
        elif isinstance(value, str) and value == MISSING:
            raise SpecError(f"{path}: is required; set {path}=...")


def _refuse_unknown_fields(config: DictConfig, schema: type, prefix: str = "") -> None:
    """Raise SpecError for a key that the schema does not have, such as `+network.widht=3`: Hydra accepts such a key."""
    known = {field.name for field in dataclasses.fields(schema)}
    for key in map(str, config):
        if key not in known:
            raise SpecError(unknown_field(prefix + key))
        section = OmegaConf.get_type(config, key)
        if dataclasses.is_dataclass(section):
            _refuse_unknown_fields(config[key], section, f"{prefix}{key}.")
