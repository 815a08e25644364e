"""best.json: the best values of each step that a search (`+study=tune`) has found, for later runs with `tuned=FILE`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roadmap.config.names import printable
from roadmap.config.schema import SpecError

BEST_NAME = "best.json"


def read_best(path: str | None) -> dict[str, list[str]]:
    """Return the overrides of each step (`gelu` -> [`recipe.lr=0.01`, ...]). Raises SpecError for an unusable file."""
    if path is None:
        return {}
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise SpecError(f"tuned={printable(path, 200)}: {reason}; give the best.json of a search") from error
    except (ValueError, RecursionError) as error:
        raise SpecError(f"tuned={printable(path, 200)}: is not valid JSON; give the best.json of a search") from error
    shown = f"tuned={printable(path, 200)}"
    is_valid = isinstance(content, dict) and all(
        isinstance(values, dict) and all(isinstance(value, int | float | str | bool) for value in values.values())
        for values in content.values()
    )
    if not is_valid:
        raise SpecError(f"{shown}: must map each step to its fields; give the best.json of a search")
    return {step: to_overrides(values) for step, values in content.items()}


def to_overrides(values: dict[str, Any]) -> list[str]:
    """Return the overrides that set these fields."""
    return [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()]


def step_of(overrides: Sequence[str]) -> str:
    """Return the step that the overrides select, or an empty text."""
    steps = [override.removeprefix("+step=") for override in overrides if override.startswith("+step=")]
    return steps[-1] if steps else ""
