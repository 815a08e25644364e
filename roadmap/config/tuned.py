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
    shown, advice = f"tuned={printable(path, 200)}", "give the best.json of a search"
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{shown}: {error.strerror or error}; {advice}") from error
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{shown}: is not valid JSON; {advice}") from error
    is_valid = isinstance(content, dict) and all(
        isinstance(values, dict)
        and all(isinstance(value, int | float | str | bool | None) for value in values.values())
        for values in content.values()
    )
    if not is_valid:
        raise SpecError(f"{shown}: must map each step to its fields; {advice}")
    return {step: to_overrides(values) for step, values in content.items()}


def to_overrides(values: dict[str, Any]) -> list[str]:
    """Return the overrides that set these fields."""
    words = {None: "null", True: "true", False: "false"}
    return [
        f"{name}={words[value] if value is None or isinstance(value, bool) else value}"
        for name, value in values.items()
    ]


def with_tuned(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command for one run, preceded by the best values of its step if `tuned=FILE` is given.

    A field that the command sets itself wins. A sweep has several steps, and looks up the values of each run. Raises
    SpecError for an unusable file, and for one without the step.
    """
    files = [argument.removeprefix("tuned=") for argument in arguments if argument.startswith("tuned=")]
    is_sweep = any(argument in ("-m", "--multirun") or argument.startswith("+study=") for argument in arguments)
    if not files or files[-1] == "null" or is_sweep:
        return list(arguments)
    best, step = read_best(files[-1]), step_of(arguments)
    if step not in best:
        raise SpecError(missing_step(files[-1], step, best))
    return [*best[step], *arguments]


def missing_step(path: str, step: str, best: dict[str, list[str]]) -> str:
    """Return the message for a file that has no values of a step."""
    return f"tuned={printable(path, 200)}: has no values of {step or 'this network'}, only of {', '.join(best)}"


def step_of(overrides: Sequence[str]) -> str:
    """Return the step that the overrides select: `baseline` without one, and an empty text for another network."""
    steps = [override.removeprefix("+step=") for override in overrides if override.startswith("+step=")]
    is_other = any(override.startswith(("+transform=", "+ingredient=")) for override in overrides)
    return "" if is_other else steps[-1] if steps else "baseline"
