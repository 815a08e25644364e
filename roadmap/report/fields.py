"""The fields of a run that decide its result, as the page shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from roadmap.config.datasets import root_decides_result
from roadmap.records.record import DATA_NOT_HASHED, NOT_HASHED

SCHEDULE = ("epochs", "batch_size", "lr")
# Not shown: fields without effect on the result, and what the fields of the network say already.
LEFT_OUT = (*NOT_HASHED, "transforms")


def fields_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that decide the result of a run, by name, and its schedule if it has started."""
    config = dict(record["config"])
    network, recipe = (config.pop(part) for part in ("network", "recipe"))
    fields = {f"network.{key}": value for key, value in network.items()}
    # Fields that recipe and network share, such as drop_path, are set by the recipe.
    fields |= {f"recipe.{key}": value for key, value in recipe.items() if key not in network}
    has_root = root_decides_result(config["data"]["name"])
    without = DATA_NOT_HASHED if has_root else (*DATA_NOT_HASHED, "root")
    config["data"] = {key: value for key, value in config["data"].items() if key not in without}
    fields |= dict(_flatten({key: value for key, value in config.items() if key not in LEFT_OUT}))
    plan = record.get("plan") or {}
    return fields | {f"schedule: {key.replace('_', ' ')}": plan[key] for key in SCHEDULE if key in plan}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the fields that differ between two runs: name, value before, value after.

    The schedule is left out if one of the two runs never started.
    """
    old, new = fields_of(before), fields_of(after)
    names = [
        key for key in dict.fromkeys((*old, *new)) if not key.startswith("schedule: ") or (key in old and key in new)
    ]
    return [(name, plain(old.get(name)), plain(new.get(name))) for name in names if old.get(name) != new.get(name)]


def plain(value: Any) -> str:
    """Return a value of a config as text."""
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    if isinstance(value, bool | None):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
