"""The list of a study's runs: experiments/STUDY/study.json.

The runs of all studies are in experiments/runs/, so that a run that two studies need is trained once. Imports neither
torch nor Hydra.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from roadmap.config.choices import Design
from roadmap.config.designs import Layout, Member
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import DEFAULT_ROADMAP, RunSpec, SpecError
from roadmap.records.check import check_manifest
from roadmap.records.record import NOT_HASHED, RUNS_FOLDER, run_name, study_folder
from roadmap.runtime import lock
from roadmap.runtime.files import write_atomically

MANIFEST_NAME = "study.json"
NETWORK_GROUPS = ("step", "transform", "ingredient")  # config groups whose overrides choose the network or its recipe
IN_SETTING = ("base", "tuned")  # not hashed, because the hash has the values that they choose
# Fields and groups whose overrides choose the network, the seed, or where and how a run computes: they are not part of
# the setting under which a study compares its runs.
NOT_IN_SETTING = (
    *NETWORK_GROUPS, *(name for name in NOT_HASHED if name not in IN_SETTING), "hydra", "--config-dir", "-cd",
)  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """The content of study.json."""

    study: str
    design: str = "grid"
    layout: Layout = field(default_factory=Layout)
    commands: list[str] = field(default_factory=list)  # the commands that added runs
    runs: dict[str, list[str]] = field(default_factory=dict)  # name of the run's folder -> setting: ["budget.epochs=3"]
    roadmap: str = DEFAULT_ROADMAP  # of all runs; study.json has it only if it is another one
    roadmap_files: dict[str, str] = field(default_factory=dict)  # `Roadmap.own_files`, so that a report needs no others

    @property
    def is_path(self) -> bool:
        """Whether each row builds on an earlier one, as along a roadmap."""
        return self.design == Design.grid.value or self.is_descriptive

    @property
    def is_descriptive(self) -> bool:
        """Whether the study supports no claim, whatever its number of seeds.

        A race chooses what it trains by the results. The study of the found roadmap shares its runs with the study of
        the found network, which has the claims.
        """
        return self.design in (Design.search_found.value, Design.search_race.value)


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of the study in `folder`, or None if there is none. Raises SpecError if it is invalid."""
    path = folder / MANIFEST_NAME
    content: Any = None
    problem: str | None
    try:
        if not path.exists() and not path.is_symlink():
            return None
        if path.is_file():  # reading a pipe would block
            content = json.loads(path.read_text(encoding="utf-8"))
        problem = check_manifest(content)
    except OSError as error:
        problem = error.strerror
    except (ValueError, RecursionError):
        problem = "is not valid JSON"
    if problem is not None:
        raise SpecError(f"{path}: invalid study file ({problem}); fix or delete it")
    layout = content["layout"]
    members = [Member(**member) for member in layout["members"]]
    content["layout"] = Layout(members, layout["orders"], layout.get("needs") or {})
    return Manifest(**content)


def setting_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that belong to the setting of a comparison."""
    return [override for override in overrides if _field_or_group(override) not in NOT_IN_SETTING]


def _field_or_group(override: str) -> str:
    """Return the first part of an override's name: `budget` for `budget.epochs=3`, `step` for `+step=gelu`."""
    return re.split(r"[.=/@]", override.lstrip("+~"))[0]


def add_runs(runs: Sequence[tuple[RunSpec, list[str]]], layout: Layout, replace: bool = False) -> None:
    """Add `runs` (spec and overrides), all of one study, to the study's manifest; with `replace` in the place of the
    runs and the layout that it has. Records are never removed.

    Raises SpecError if the study already has another roadmap or (without `replace`) another design.
    """
    spec = runs[0][0]
    own_files = load_roadmap(spec.roadmap).own_files
    folder = study_folder(spec)
    with lock.hold(folder, wait=True):
        try:
            before = check_study(spec) or Manifest(spec.study)
            earlier = before.commands
            names = {run_name(run_spec) for run_spec, _ in runs}
            if replace and (before.runs.keys() != names or before.layout != layout):
                before = Manifest(spec.study)
            has_design = layout.members or spec.design.name is Design.search_race
            design, layout = _merge_layouts(before, (spec.design.name if has_design else Design.grid).value, layout)
        except SpecError:
            lock.remove_empty(folder)
            raise
        settings = dict(before.runs)
        for run_spec, overrides in runs:
            settings.setdefault(run_name(run_spec), setting_overrides(overrides))
        is_new = len(settings) > len(before.runs)  # otherwise earlier commands have added all of these runs
        commands = [*earlier, command_line()] if is_new else earlier
        manifest = Manifest(
            spec.study, design, layout, list(dict.fromkeys(commands)), settings, spec.roadmap, dict(own_files)
        )
        text = json.dumps(_content(manifest), indent=1, ensure_ascii=False) + "\n"
        path = folder / MANIFEST_NAME
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text.encode())


def check_study(spec: RunSpec) -> Manifest | None:
    """Return the manifest of the spec's study, or None if there is none.

    Raises SpecError if it is invalid, and if its runs are of another roadmap: no table mixes two roadmaps.
    """
    before = read_manifest(study_folder(spec))
    if before is not None and before.runs and spec.study != RUNS_FOLDER and before.roadmap != spec.roadmap:
        message = f"has runs of roadmap={before.roadmap}; choose another name, as study={spec.roadmap}"
        raise SpecError(f"study={spec.study}: {message}")
    return before


def _content(manifest: Manifest) -> dict[str, Any]:
    """Return the content of study.json. The default study has runs of any roadmap and names none."""
    content: dict[str, Any] = asdict(manifest)
    if not manifest.layout.needs:
        del content["layout"]["needs"]
    if manifest.study == RUNS_FOLDER or manifest.roadmap == DEFAULT_ROADMAP:
        del content["roadmap"], content["roadmap_files"]
    return content


def _merge_layouts(before: Manifest, design: str, layout: Layout) -> tuple[str, Layout]:
    """Return one design and layout for the runs of before and the new ones. Runs without a design can join any study;
    an attribution can be extended by more orders."""
    if not before.runs:
        return design, layout
    if not layout.members or layout == before.layout:
        return before.design, before.layout
    longer, shorter = sorted((layout, before.layout), key=lambda candidate: -len(candidate.orders))
    extends = longer.orders[: len(shorter.orders)] == shorter.orders and longer.needs == shorter.needs
    if before.design == design and shorter.orders and extends:
        return design, longer
    fields = "design.full, design.start, design.order_seed or design.needs"
    other = f" with another {fields}" if before.design == design else ""
    message = f"already uses design.name={before.design}{other}; choose another name with study=NAME"
    raise SpecError(f"study={before.study}: {message}")


def command_line() -> str:
    """Return the command that started this process, without the path and the options of the interpreter.

    It begins with `python run_roadmap.py`, `python -m roadmap` or `roadmap`, as typed.
    """
    arguments = sys.orig_argv[1:]
    for i, argument in enumerate(arguments):
        if argument.endswith("run_roadmap.py"):
            return shlex.join(["python", "run_roadmap.py", *arguments[i + 1 :]])
        if arguments[i : i + 2] == ["-m", "roadmap"]:
            return shlex.join(["python", "-m", "roadmap", *arguments[i + 2 :]])
        if Path(argument).name in ("roadmap", "roadmap.exe"):  # the console script
            return shlex.join(["roadmap", *arguments[i + 1 :]])
    return shlex.join(["python", *arguments])
