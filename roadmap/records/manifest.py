"""What a study consists of: experiments/STUDY/study.json names its runs, which lie together in experiments/runs/, so
that a run that two studies need is trained once. Needs neither torch nor Hydra."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from roadmap.config.designs import Layout, Member
from roadmap.config.schema import RunSpec, SpecError
from roadmap.records.record import NOT_HASHED, run_name, study_folder
from roadmap.runtime import lock
from roadmap.runtime.files import write_atomically

MANIFEST_NAME = "study.json"
# Words of a command that say which network, which seed, how it is called and computed: no setting of a comparison.
NETWORK_GROUPS = ("step", "transform", "ingredient")
NOT_IN_SETTING = (*NETWORK_GROUPS, *(name for name in NOT_HASHED if name != "base"), "hydra")


@dataclass(frozen=True)
class Manifest:
    study: str
    design: str = "grid"
    layout: Layout = field(default_factory=Layout)
    commands: list[str] = field(default_factory=list)  # that asked for its runs
    runs: dict[str, list[str]] = field(default_factory=dict)  # name of the folder -> setting, as budget.epochs=3


def read_manifest(folder: Path) -> Manifest | None:
    """Of the study in `folder`; None where there is none. Raises SpecError where it cannot be read."""
    path = folder / MANIFEST_NAME
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        layout = content["layout"]
        content["layout"] = Layout([Member(**member) for member in layout["members"]], layout["orders"])
        return Manifest(**content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path}: is no list of runs that can be read; mend it or take it away") from error


def setting_overrides(words: Sequence[str]) -> list[str]:
    """The words of a command that a comparison has to hold still."""
    return [word for word in words if re.split(r"[.=/@]", word.lstrip("+~"))[0] not in NOT_IN_SETTING]


def add_runs(runs: Sequence[tuple[RunSpec, list[str]]], layout: Layout) -> None:
    """Note that `runs` (spec and words), of one study, belong to it, beside those that it had before.

    Raises SpecError where the study took another network apart before.
    """
    first = runs[0][0]
    folder = study_folder(first)
    with lock.hold(folder, wait=True):
        try:
            before = read_manifest(folder) or Manifest(first.study)
            design, layout = _merge_layouts(before, first.design.name.value if layout.members else "grid", layout)
        except SpecError:
            lock.remove_empty(folder)
            raise
        settings = dict(before.runs)
        for spec, words in runs:
            settings.setdefault(run_name(spec), setting_overrides(words))
        new = len(settings) > len(before.runs)  # else the commands before have asked for all of them
        commands = [*before.commands, command_line()] if new else before.commands
        content = Manifest(first.study, design, layout, list(dict.fromkeys(commands)), settings)
        text = json.dumps(asdict(content), indent=1, ensure_ascii=False) + "\n"
        if not (folder / MANIFEST_NAME).exists() or (folder / MANIFEST_NAME).read_text(encoding="utf-8") != text:
            write_atomically(folder / MANIFEST_NAME, text.encode())


def _merge_layouts(before: Manifest, design: str, layout: Layout) -> tuple[str, Layout]:
    """One design for what was asked before and now; single runs may join any."""
    if not layout.members or layout == before.layout:
        return before.design, before.layout
    if not before.runs:
        return design, layout
    longer, shorter = sorted((layout, before.layout), key=lambda found: -len(found.orders))
    if before.design == design and shorter.orders and longer.orders[: len(shorter.orders)] == shorter.orders:
        return design, longer
    what = "takes another network apart" if before.design != "grid" else "is a study of another kind"
    raise SpecError(f"study={before.study}: {what} already; give this one another name with study=NAME")


def command_line() -> str:
    """What was typed, from `python` on."""
    words = sys.orig_argv
    script = next((i for i, word in enumerate(words) if word.endswith("run_roadmap.py")), None)
    return shlex.join(["python", *words[1:]] if script is None else ["python", "run_roadmap.py", *words[script + 1 :]])
