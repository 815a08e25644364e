"""Generated overrides and subcommands: accepted, or refused in one line; a dry run writes nothing."""

from __future__ import annotations

import re

from tests.conftest import TINY
from tests.fuzz.invariants import Workplace
from tests.fuzz.overrides import overrides, trainings
from tests.fuzz.settings import fuzz, parts
from tests.fuzz.subcommands import subcommands

KIND = "overrides"


@parts(50, 700, 7)
def test_overrides_are_accepted_or_refused(workplace: Workplace, part: int, num_cases: int) -> None:
    def check(words: list[str]) -> None:
        workplace.check("plan_device=none", *words, "plan=true", dry=True)

    fuzz(KIND, check, num_cases, part, overrides())


@parts(7, 80, 2)
def test_accepted_overrides_train(workplace: Workplace, part: int, num_cases: int) -> None:
    def check(words: list[str]) -> None:
        workplace.check(*TINY, *words, may_change="++force=true" in words, seconds=6)

    fuzz(KIND, check, num_cases, part, trainings())


@parts(8, 570, 2)
def test_arguments_of_subcommands_are_accepted_or_refused(workplace: Workplace, part: int, num_cases: int) -> None:
    names = sorted(path.name for path in (workplace.folder / "experiments" / "runs").glob("*-seed*"))

    def check(arguments: list[str]) -> None:
        arguments = [re.sub(r"RUN(\d)", lambda match: names[int(match[1])], argument) for argument in arguments]
        workplace.check(*arguments, dry=arguments[0] != "report", may_change="--yes" in arguments)

    fuzz(KIND, check, num_cases, part, subcommands())
