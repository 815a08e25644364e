"""What a study consists of: experiments/STUDY/study.json names its runs, which lie together in experiments/runs/, so
that a run that two studies need is trained once. Needs neither torch nor Hydra."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from roadmap import lock, record
from roadmap.designs import Layout, Member
from roadmap.spec import RunSpec

NAME = "study.json"


@dataclass(frozen=True)
class Manifest:
    study: str
    design: str = "grid"
    layout: Layout = field(default_factory=Layout)
    commands: list[str] = field(default_factory=list)  # that asked for its runs
    runs: list[str] = field(default_factory=list)  # names of their folders


def read(folder: Path) -> Manifest | None:
    """Of the study in `folder`; None where there is none that can be read."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        layout = content["layout"]
        content["layout"] = Layout([Member(**member) for member in layout["members"]], layout["orders"])
        return Manifest(**content)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def add(specs: Sequence[RunSpec], layout: Layout) -> None:
    """Note that `specs`, of one study, belong to it, beside those that it had before."""
    first = specs[0]
    folder = record.study_folder(first)
    with lock.hold(folder, wait=True):
        before = read(folder) or Manifest(first.study)
        runs = dict.fromkeys([*before.runs, *(record.run_name(spec) for spec in specs)])
        commands = dict.fromkeys([*before.commands, command_line()])
        if not layout.members and before.design != "grid":  # a run added to a design by hand
            layout, design = before.layout, before.design
        else:
            design = first.design.name.value
        content = Manifest(first.study, design, layout, list(commands), list(runs))
        text = json.dumps(asdict(content), indent=1, ensure_ascii=False) + "\n"
        if not (folder / NAME).exists() or (folder / NAME).read_text(encoding="utf-8") != text:
            record.write_bytes(folder / NAME, text.encode())


def command_line() -> str:
    """What was typed, from `python` on."""
    words = sys.orig_argv
    script = next((i for i, word in enumerate(words) if word.endswith("run_roadmap.py")), None)
    return shlex.join(["python", *words[1:]] if script is None else ["python", "run_roadmap.py", *words[script + 1 :]])
