"""The fields of a run that decide its result, as the page shows them."""

from __future__ import annotations

from typing import Any

SCHEDULE = ("epochs", "batch_size", "lr")


def fields_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of network, recipe and schedule of a run, by name; without schedule if it never started."""
    config, plan = record["config"], record.get("plan") or {}
    fields = {f"network.{key}": value for key, value in config["network"].items()}
    # Fields that recipe and network share, such as drop_path, are set by the recipe.
    fields |= {f"recipe.{key}": value for key, value in config["recipe"].items() if key not in config["network"]}
    return fields | {f"schedule: {key.replace('_', ' ')}": plan[key] for key in SCHEDULE if key in plan}


def changed_fields(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the fields that differ between two runs: name, value before, value after."""
    old, new = fields_of(before), fields_of(after)
    names = [
        name
        for name in dict.fromkeys((*old, *new))
        if not name.startswith("schedule") or {name} <= old.keys() & new.keys()
    ]
    return [(name, plain(old.get(name)), plain(new.get(name))) for name in names if old.get(name) != new.get(name)]


def plain(value: Any) -> str:
    """Return a value of a config as text."""
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    if isinstance(value, bool | None):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
