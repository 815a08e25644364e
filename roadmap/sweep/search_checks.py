"""Checks of the command of a search (`+study=search`) before anything is trained or written."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from roadmap.analysis.racing import Candidate
from roadmap.config.choices import Design
from roadmap.config.names import STUDY_RULE, is_study_name
from roadmap.config.overrides import restore_study_override
from roadmap.config.roadmaps import Roadmap
from roadmap.config.schema import RunSpec, SpecError
from roadmap.config.validation import require
from roadmap.records.manifest import NETWORK_GROUPS, Manifest, read_manifest
from roadmap.records.record import RUNS_FOLDER, study_folder
from roadmap.report.search import RESULT_NAME
from roadmap.runtime.world import is_distributed
from roadmap.sweep.local_ranks import check_processes
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.search_candidates import FOUND, RACE

LONGEST_SUFFIX = f"-{FOUND}-steps"  # of the names of a search's studies


def check_command(runs: Sequence[PlannedRun], arguments: Sequence[str]) -> None:
    """Raise SpecError for a field that has no meaning in a search, or more than one value."""
    spec, overrides = runs[0].spec, runs[0].overrides
    if is_distributed():
        raise SpecError("+study=search: does not run under torchrun; set processes=N for several processes per run")
    for override in OverridesParser.create().parse_overrides(restore_study_override(list(arguments))):
        if override.is_sweep_override():
            raise SpecError(f"{override.input_line}: a search has one value for each field; run one command for each")
        if override.key_or_group in NETWORK_GROUPS:
            message = "the search chooses the networks itself; set design.start and design.full instead"
            raise SpecError(f"{override.input_line}: {message}")
        if override.key_or_group == "study" and override.is_add() and override.value() != "search":
            message = "a search has no other study file; put its fields into a preset, +preset=NAME"
            raise SpecError(f"{override.input_line}: {message}")
    own = {override.lstrip("+").split("=")[0]: override for override in overrides}
    refused = {
        "seed": "the search chooses the seeds itself; leave it out",
        "reference": "a search has no reference network; leave it out",
        "tuned": "candidates of a search have the same recipe; leave it out",
        "force": "a search uses finished runs; leave it out, or repeat the search in another folder, out=FOLDER",
    }
    for name, message in refused.items():
        if name in own or getattr(spec, name):  # a preset may set it
            raise SpecError(f"{own.get(name) or f'{name}={getattr(spec, name)}'}: {message}")
    if spec.tune.trials is not None:
        raise SpecError(f"tune.trials={spec.tune.trials}: choose one search, +study=tune or +study=search")
    if spec.logger:
        advice = f"pass its runs on later with: roadmap log_records {study_folder(spec)} logger=NAME"
        raise SpecError(f"logger: has no effect on a search; leave it out, and {advice}")
    check_processes(spec)


def check_design(config: DictConfig) -> None:
    """Raise SpecError if the command has a design of its own."""
    if (name := config.design.name.value) != Design.grid.value:
        raise SpecError(f"design.name={name}: a search has its own networks; leave it out")


def ends_of(spec: RunSpec, roadmap: Roadmap) -> tuple[Candidate, Candidate]:
    """Return the transforms of both ends of the search. Raises SpecError unless the last step has more of them."""
    names = [getattr(spec.design, end) or getattr(roadmap.file, end) for end in ("start", "full")]
    start, full = (
        frozenset(roadmap.step(f"design.{end}", name).transforms)
        for end, name in zip(("start", "full"), names, strict=True)
    )
    if not start < full:
        message = f"must contain all transforms of design.start={names[0]}, and further ones"
        raise SpecError(f"design.full={names[1]}: {message}")
    return start, full


def check_settings(spec: RunSpec, settings: str) -> None:
    """Raise SpecError if the study has the result of a search with other settings, which this one would replace.

    `settings` is that of `Candidates.settings`.
    """
    try:
        result = json.loads((study_folder(spec) / RESULT_NAME).read_text(encoding="utf-8"))
        before = result.get("settings", settings)
    except (OSError, ValueError, AttributeError):  # there is none, or the search writes it again
        return
    if before != settings:
        fields = "data, base, budget, recipe, design.start, design.full or data.holdout"
        message = f"has a search with other settings ({fields}); choose another name with study=NAME"
        raise SpecError(f"study={spec.study}: {message}")


def check_studies(spec: RunSpec) -> None:
    """Raise SpecError if a study with a name that the search needs exists, and is not that of a search."""
    if spec.study == RUNS_FOLDER:
        raise SpecError(f"search.budget={spec.search.budget}: a search needs a study; add +study=search or study=NAME")
    require(is_study_name(spec.study + LONGEST_SUFFIX), "study", spec.study, f"with {LONGEST_SUFFIX}: {STUDY_RULE}")
    before = _study(spec, "")
    is_search = before is not None and before.design == "search"
    for suffix, known in (("", is_search), (f"-{FOUND}", is_search), (f"-{RACE}", True)):
        found = _study(spec, suffix)
        if found is None or not found.runs:
            continue
        if not known or (suffix == f"-{RACE}" and found.layout.members):
            raise SpecError(f"study={found.study}: exists and is not of a search; choose another name with study=NAME")
        if found.roadmap != spec.roadmap:
            raise SpecError(f"study={found.study}: has runs of roadmap={found.roadmap}; choose another name")


def _study(spec: RunSpec, suffix: str) -> Manifest | None:
    return read_manifest(study_folder(spec).with_name(spec.study + suffix))
