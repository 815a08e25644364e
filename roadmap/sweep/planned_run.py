"""A run that is planned but not started."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from roadmap.config.schema import RunSpec
from roadmap.config.steps import name_of_transforms


class PlannedRun(NamedTuple):
    spec: RunSpec
    words: list[str]  # the overrides that make it
    setting: tuple[str, ...] = ()  # those that tell it from other runs of its sweep, besides its network and its seed

    @property
    def title(self) -> str:
        return " ".join([name_of_transforms(list(self.spec.transforms)), *self.setting, f"seed={self.spec.seed}"])

    @property
    def command(self) -> str:
        words = [word.replace("+study=named_", "study=") for word in self.words]  # see config.name_study
        return shlex.join(["python", "run_roadmap.py", *words])
