"""Hypothesis settings of the fuzz tests: the same cases in every session, none of them twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from tests.conftest import FUZZ

FAST = 0  # the part of the fast suite
SEED = int(os.environ.get("ROADMAP_FUZZ_SEED", "0"))  # another number gives other cases

Case = Callable[..., Any]


def fuzz(kind: str, case: Case, num_cases: int, part: int, *strategies: st.SearchStrategy[Any]) -> None:
    """Call `case` with `num_cases` different draws from `strategies`; `part` is the seed of these draws.

    The draws are counted as cases of `kind`; pytest prints the counts at the end. A failure shows the smallest case
    that fails. Of two draws with the same repr only the first one is a case.
    """
    seen: set[str] = set()
    failed: list[str] = []

    def check(values: tuple[Any, ...]) -> None:
        text = repr(values)
        assume(text not in seen or text in failed)  # a failed case is repeated when Hypothesis shrinks it
        seen.add(text)
        FUZZ[kind] += text not in failed
        try:
            case(*values)
        except AssertionError:
            failed.append(text)
            raise

    phases = [Phase.generate, Phase.shrink]
    options = settings(
        max_examples=num_cases, phases=phases, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    seed(SEED * 1000 + part)(options(given(st.tuples(*strategies))(check)))()


def parts(num_fast: int, num_slow: int, num_parts: int) -> pytest.MarkDecorator:
    """Parametrize with (part, num_cases): one part in the fast suite, and `num_parts` more in the full one."""
    slow = [pytest.param(part, num_slow // num_parts, marks=pytest.mark.slow) for part in range(1, num_parts + 1)]
    return pytest.mark.parametrize(("part", "num_cases"), [(FAST, num_fast), *slow])
