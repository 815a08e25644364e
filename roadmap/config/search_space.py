"""The search space of `+study=tune`: which fields a trial sets, and from which values.

tune:
  space:
    recipe:
      lr: {factor: [0.1, 10]}                             # times the value of the recipe, on a log scale
      weight_decay: {low: 0.001, high: 0.5, log: true}
    budget:
      regularization: {low: 0, high: 1}
      batch_size: [32, 64, 128]                           # one of these values
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from roadmap.config.messages import field_type, unknown_field
from roadmap.config.names import printable
from roadmap.config.schema import RunSpec, SpecError, TuneSpec

KEYS = {"low", "high", "log", "factor"}
DEFAULT_SPACE = {  # where `tune.space` names no field
    "recipe": {"lr": {"factor": [0.1, 10]}, "weight_decay": {"factor": [0.1, 10]}},
    "budget": {"regularization": {"low": 0, "high": 1}},
}
DIGITS = 4  # significant digits of a sampled number: the override of a run has them all


@dataclass(frozen=True)
class Dimension:
    """One field of the search space."""

    field: str
    choices: tuple[Any, ...] = ()  # else a range
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False  # whole numbers only
    relative: bool = False  # `low` and `high` are factors on the field's value

    def value_of(self, trial: Any, spec: RunSpec) -> Any:
        """Return the value of this field in a trial of Optuna; `spec` is the run without the search."""
        if self.choices:
            return trial.suggest_categorical(self.field, self.choices)
        factor = _value(spec, self.field) if self.relative else 1
        if self.whole:
            return trial.suggest_int(self.field, round(self.low * factor), round(self.high * factor), log=self.log)
        sampled = trial.suggest_float(self.field, self.low * factor, self.high * factor, log=self.log)
        return float(f"{sampled:.{DIGITS}g}")

    def extremes(self, spec: RunSpec) -> list[Any]:
        """Return all choices, or both ends of the range: if these are possible, so is every value."""
        if self.choices:
            return list(self.choices)
        factor = _value(spec, self.field) if self.relative else 1
        ends = [self.low * factor, self.high * factor]
        return [round(end) if self.whole else float(f"{end:.{DIGITS}g}") for end in ends]


def check_space(tune: TuneSpec) -> None:
    """Raise SpecError unless the search space and the numbers of the search are possible."""
    if tune.trials is not None and tune.trials < 1:
        raise SpecError(f"tune.trials={tune.trials}: must be positive, or null for no search")
    if tune.seed < 0:
        raise SpecError(f"tune.seed={tune.seed}: must not be negative")
    dimensions_of(tune.space)


def dimensions_of(space: Mapping[str, Any]) -> list[Dimension]:
    """Return the dimensions of a search space, or of the default one if it is empty.

    Raises SpecError for a field or values that are impossible.
    """
    return [_dimension(field, values) for field, values in _leaves(space or DEFAULT_SPACE)]


def _leaves(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field of a nested search space with its values."""
    for name, values in space.items():
        path = f"{prefix}{name}"
        if isinstance(values, Mapping) and (not values or not values.keys() & KEYS) and "." not in prefix:
            yield from _leaves(values, f"{path}.")
        else:
            yield path, values


def _dimension(field: str, values: Any) -> Dimension:
    declared = field_type(field)
    kind = next((part for part in getattr(declared, "__args__", ()) if part is not type(None)), declared)
    shown = f"tune.space.{printable(field, 100)}"
    if declared is None:
        raise SpecError(f"{shown}: {unknown_field(field)}")
    if field.split(".", maxsplit=1)[0] not in ("network", "recipe", "budget", "data", "base"):
        raise SpecError(f"{shown}: does not change the training; use a field of network, recipe, budget, data or base")
    if isinstance(values, list):
        if not values or any(type(value) in (list, dict) for value in values):
            raise SpecError(f"{shown}={printable(str(values), 100)}: must be a list of values")
        return Dimension(field, tuple(values))
    if not isinstance(values, Mapping) or not values.keys() <= KEYS or {"factor", "low"} <= values.keys():
        form = "a list of values, {low: 0, high: 1, log: false}, or {factor: [0.1, 10]}"
        raise SpecError(f"{shown}={printable(str(values), 100)}: must be {form}")
    relative = "factor" in values
    ends = values["factor"] if relative else [values.get("low"), values.get("high")]
    is_range = isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends)) and ends[0] < ends[1]
    if not is_range or kind not in (int, float):
        raise SpecError(f"{shown}={printable(str(values), 100)}: must have two numbers, the smaller one first")
    log = bool(values.get("log", relative))
    if log and ends[0] <= 0:
        raise SpecError(f"{shown}={printable(str(values), 100)}: a log scale needs positive numbers")
    return Dimension(field, (), float(ends[0]), float(ends[1]), log, kind is int, relative)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _value(spec: RunSpec, path: str) -> float:
    value: Any = spec
    for name in path.split("."):
        value = getattr(value, name)
    if not _is_number(value) or value <= 0:
        shown = f"tune.space.{path}"
        raise SpecError(f"{shown}: a factor needs a positive value, and {path} is {value}; give low and high")
    return float(value)
