"""Damaged records: every key deleted, every value replaced."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

FEW_VALUES: tuple[Any, ...] = (None, "x", -1, [])
VALUES: tuple[Any, ...] = (*FEW_VALUES, "", {}, 1.5, True, float("nan"), 10**400, "\ud800", ["x"], {"x": "y"})
IN_CONFIG = {"base": "paper_table", "budget": "epochs", "data": "image_size", "network": "reference", "recipe": "lr"}


def small_record(content: dict[str, Any]) -> dict[str, Any]:
    """Return the record with fewer config fields, transforms and versions, so that it has fewer damaged copies."""
    config = {section: {name: content["config"][section][name]} for section, name in IN_CONFIG.items()}
    small: dict[str, Any] = {
        "config": config,
        "transforms": content["transforms"][:1],
        "versions": {"python": "3"},
        "curve": [],
    }
    return content | small


def keys_of(value: Any) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of each value inside of `value`; of a list, only of its first item."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        yield (key,)
        yield from ((key, *path) for path in keys_of(item))


def damaged_copies(content: Any, values: Sequence[Any] = VALUES) -> Iterator[tuple[str, Any]]:
    """Yield what was done to the content, and the damaged copy of it."""
    for *path, key in keys_of(content):
        for value in ("delete", *values):
            damaged = copy.deepcopy(content)
            parent = damaged
            for part in path:
                parent = parent[part]
            if isinstance(value, str) and value == "delete":
                del parent[key]
            else:
                parent[key] = value
            yield f"{'.'.join(map(str, [*path, key]))}={value!r:.30}", damaged
