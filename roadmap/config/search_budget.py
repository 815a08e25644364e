"""The fields of the search for the best combination of transforms (`+study=search`)."""

from __future__ import annotations

import re
from typing import Any

from roadmap.config.limits import MAX_SWEEP_RUNS
from roadmap.config.names import printable
from roadmap.config.schema import SearchSpec, SpecError
from roadmap.config.validation import check_positive, require

TIME = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*(s|min|h)")
SECONDS = {"s": 1, "min": 60, "h": 3600}


def check_search(search: SearchSpec) -> None:
    """Raise SpecError unless the numbers of the search are possible."""
    if search.budget is not None:
        read_budget(search.budget)
    seeds = search.confirm_seeds
    require(seeds >= 1, "search.confirm_seeds", seeds, "must be at least 1; claims need about 10")
    require(search.seed >= 0, "search.seed", search.seed, "must not be negative")
    for name in ("max_macs", "min_images_per_second"):
        if (value := getattr(search, name)) is not None:
            check_positive(value, f"search.{name}")


def read_budget(value: Any) -> int | float:
    """Return `search.budget`: a number of runs, or (float) seconds for a text such as 30min or 2h.

    Raises SpecError for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SWEEP_RUNS:
        return value
    match = TIME.fullmatch(str(value))
    if match is None or float(match[1]) == 0:
        message = f"must be 1 to {MAX_SWEEP_RUNS} runs, or a time such as 90s, 30min or 2h"
        raise SpecError(f"search.budget={printable(str(value), 100)}: {message}")
    return float(match[1]) * SECONDS[match[2]]
