"""From the overrides of a sweep to its runs, composed and validated."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from roadmap.config import paths
from roadmap.config.designs import Layout, overrides_of, reference_overrides, study_layout
from roadmap.config.limits import MAX_SWEEP_RUNS, check_limits, check_number
from roadmap.config.network_composer import NetworkComposer
from roadmap.config.overrides import check_files
from roadmap.config.roadmaps import Roadmap, load_roadmap
from roadmap.config.schema import DesignSpec, RunSpec, SpecError
from roadmap.config.tuned import missing_step, read_best, step_of
from roadmap.config.validation import validate_design
from roadmap.records.manifest import NETWORK_GROUPS, setting_overrides
from roadmap.records.record import run_folder
from roadmap.sweep.planned_run import PlannedRun


def plan_runs(config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> tuple[list[PlannedRun], Layout]:
    """Return each run of the sweep once, in the order of training (by seed, then along the roadmap), and the layout of
    the study's design.

    `config` is the composed config of the command, `arguments` are its overrides, sweeps among them. Raises SpecError
    and Hydra's errors for the first impossible run; nothing has started then.
    """
    design_spec = cast(DesignSpec, OmegaConf.to_object(config.design))
    check_limits(design_spec, "design.")
    validate_design(design_spec)
    roadmap = load_roadmap(config.roadmap)
    layout = study_layout(design_spec, roadmap)
    network_prefixes = tuple(f"+{group}=" for group in NETWORK_GROUPS)
    own_network = next((override for override in arguments if override.startswith(network_prefixes)), None)
    if layout.members and own_network is not None:
        design = config.design.name.value
        raise SpecError(
            f"{own_network}: design.name={design} chooses the networks itself; set design.full=STEP for another network"
        )
    networks = [overrides_of(member.transforms, roadmap) for member in layout.members] or [[]]
    composer = Composer(config, loader, roadmap)
    runs: dict[Path, PlannedRun] = {}
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    for override in parsed:
        if override.is_sweep_override() and override.get_key_element().lstrip("+").startswith("design."):
            raise SpecError(f"{override.input_line}: a study has one design; give one value")
    combinations = expand_sweep(parsed)
    if len(networks) * len(combinations) > MAX_SWEEP_RUNS:
        count = f"{len(networks)} networks with {len(combinations)} settings each"
        message = f"{count} are more than {MAX_SWEEP_RUNS} runs; use fewer orders or seeds"
        raise SpecError(f"design.orders={design_spec.orders}: {message}")
    for overrides in combinations:
        requested = [[*network, *overrides] for network in networks]
        if config.reference is not None:
            others = [override for override in overrides if not override.startswith(network_prefixes)]
            requested.append([*reference_overrides(config.reference, roadmap), *others])
        for combination in requested:
            spec = composer.compose(combination)
            runs.setdefault(run_folder(spec), PlannedRun(spec, combination, folders=paths.own_arguments()))
    if composer.tuned and not any(step_of(run.overrides) in composer.tuned for run in runs.values()):
        raise SpecError(missing_step(config.tuned, "any of these networks", composer.tuned))
    if not runs:
        raise HydraException("the sweep is empty: a glob(...) or range(...) matched nothing")
    _check_common_fields(list(runs.values()))
    position = roadmap.sort(roadmap.transforms).index
    planned = _with_settings(list(runs.values()))
    return sorted(planned, key=lambda run: (run.spec.seed, [position(name) for name in run.spec.transforms])), layout


def expand_sweep(overrides: Sequence[Override]) -> list[list[str]]:
    """Return all combinations of swept values, as lists of overrides; of a key given twice the last one counts."""
    choices: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values = itertools.islice(override.sweep_string_iterator(), MAX_SWEEP_RUNS + 1)
            choices[key] = [f"{key}={value}" for value in values]
        else:
            raise HydraException(f"{override.input_line}: give a list of values, choice(...), range(...) or glob(...)")
    count = math.prod(len(values) for values in choices.values())
    if count > MAX_SWEEP_RUNS:
        longest = max(choices, key=lambda key: len(choices[key]))
        raise SpecError(f"{longest}: the sweep has more than {MAX_SWEEP_RUNS} runs; give fewer values")
    return [list(combination) for combination in itertools.product(*choices.values())]


class Composer:
    """Composes runs; runs that differ only in their seed are composed once."""

    def __init__(self, config: DictConfig, loader: ConfigLoader, roadmap: Roadmap) -> None:
        self.roadmap = roadmap
        self.networks = NetworkComposer(partial(loader.load_sweep_config, config), roadmap)
        self.composed: dict[tuple[str, ...], RunSpec] = {}
        self.tuned = read_best(config.tuned)

    def compose(self, overrides: list[str]) -> RunSpec:
        seeds = [override for override in overrides if re.fullmatch("seed=[0-9]+", override)]
        others = tuple(override for override in overrides if override not in seeds)
        for override in overrides:
            check_files(override, self.roadmap)
        if len(seeds) != 1 or "${" in "".join(others) or others not in self.composed:
            self.composed[others] = self.networks.compose([*self.tuned.get(step_of(overrides), []), *overrides])
        spec = copy.deepcopy(self.composed[others])
        if seeds:
            spec.seed = int(seeds[0].removeprefix("seed="))
            check_number(spec.seed, "seed")
        return spec


def _check_common_fields(runs: Sequence[PlannedRun]) -> None:
    for name in ("study", "out", "reports"):
        values = sorted({getattr(run.spec, name) for run in runs})
        if len(values) > 1:
            raise SpecError(f"{name}={','.join(values)}: a sweep has one value; run one command for each")


def _with_settings(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs, each with the overrides of its setting that not all of them have."""
    settings = [setting_overrides(run.overrides) for run in runs]
    common = set(settings[0]).intersection(*settings)
    return [
        run._replace(setting=tuple(override for override in setting if override not in common))
        for run, setting in zip(runs, settings, strict=True)
    ]
