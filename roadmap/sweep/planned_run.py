"""A run that a command asks for, before it starts."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from roadmap.config.overrides import restore_study_override
from roadmap.config.schema import DEFAULT_ROADMAP, RunSpec


class PlannedRun(NamedTuple):
    """One run of a sweep: its spec, and the overrides that compose it."""

    spec: RunSpec
    overrides: list[str]
    setting: tuple[str, ...] = ()  # overrides that distinguish it from other runs of its network and seed in the sweep
    folders: tuple[str, ...] = ()  # arguments of the command line that choose the user's folders of configs

    @property
    def title(self) -> str:
        """The run's name in messages, as `gelu budget.epochs=3 seed=0`."""
        return " ".join([self.spec.name, *self.setting, f"seed={self.spec.seed}"])

    @property
    def command(self) -> str:
        """The command that makes this run alone; it is stored in the record."""
        overrides = restore_study_override(self.overrides)
        roadmap = [f"roadmap={self.spec.roadmap}"] if self.spec.roadmap != DEFAULT_ROADMAP else []
        return shlex.join(["python", "run_roadmap.py", *self.folders, *roadmap, *overrides])
