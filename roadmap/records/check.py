"""Checks of the content of record.json and study.json. Every reader relies on them.

Only `check_record` and `check_manifest` define which fields readers need.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from roadmap.config.choices import Design

Check = Callable[[Any], bool]
LARGEST = 2**63 - 1  # pandas and numpy hold no larger integer


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not _is_flag(value) and abs(value) <= LARGEST  # not NaN


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not _is_flag(value) and 0 <= value <= LARGEST


def _is_percentage(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 100


def _is_command(value: Any) -> bool:
    try:
        return _is_text(value) and bool(shlex.split(value) or True)
    except ValueError:  # an open quotation mark
        return False


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _dict_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _fields(schema: Mapping[str, Any], absent: Mapping[str, Any] | None = None, only: bool = False) -> Check:
    """Return a check of a dict's fields: those in `absent` may be missing or None; with `only`, others are invalid."""
    known = {**schema, **(absent or {})}
    return lambda value: not _problem(value, schema, absent or {}, "") and not (only and value.keys() - known.keys())


# The fields of every record, and their own fields.
FIELDS: dict[str, Any] = {
    "name": _is_text,
    "label": _is_text,
    "study": _is_text,
    "seed": _is_count,
    "base": _is_text,
    "data": _is_text,
    "transforms": _list_of(
        _fields({"name": _is_text, "label": _is_text, "section": _is_text, "variant": _is_flag, "reference": _is_flag})
    ),
    "status": ("completed", "diverged", "failed").__contains__,
    "error": _optional(_is_text),
    "config_hash": _is_text,
    "config": {
        "base": {"name": _optional(_is_text), "paper_table": _optional(_is_count)},
        "budget": {"name": _is_text, "epochs": _optional(_is_number), "equal_epochs": _is_flag},
        "data": {"name": _is_text, "image_size": _is_count, "holdout": _optional(_is_count)},
        "network": {"reference": _optional(_is_text)},
        "recipe": {},
        "roadmap": _is_text,
    },
    "command": _is_command,
    "versions": _dict_of(_is_text),
    "git": {"commit": _optional(_is_text), "dirty": _optional(_is_flag)},
    "host": {"platform": _is_text, "cpu": _is_text, "cores": _optional(_is_count)},
}
# The results. A completed run has all of them.
CURVE_POINT = dict.fromkeys(("lr", "train_loss", "test_top1", "test_loss"), _is_number)
RESULTS: dict[str, Any] = {
    "top1": _is_percentage,
    "top5": _is_percentage,
    "params": _is_count,
    "gmacs": _is_number,
    "images_per_second": _is_number,
    "wall_seconds": _is_number,
    "peak_memory_mib": _optional(_is_number),
    "curve": _list_of(_fields({"epoch": _is_number}, CURVE_POINT)),
    "device": {"name": _is_text, "precision": _is_text},
    "unreadable": _dict_of(_list_of(_is_text)),
}
# Fields that may be missing in any record: earlier versions do not write them, or their value can be infinite.
OPTIONAL: dict[str, Any] = {
    "loss": _is_number,
    "ema": _fields({"top1": _is_percentage}, {"top5": _is_percentage, "loss": _is_number}),
    "plan": _dict_of(lambda _: True),
    "num_train": _is_count,
    "num_test": _is_count,
    "num_classes": _is_count,
}


def check_record(record: Any) -> str | None:
    """Return what is wrong with the content of a record.json, or None if every reader can use it."""
    problem = _problem(record, FIELDS, RESULTS | OPTIONAL, "")
    if problem is None and record["status"] == "completed":
        problem = _problem(record, RESULTS, {}, "")
    if problem is None:
        problem = None if _is_encodable(record) else "contains a character that cannot be written"
    return problem


MANIFEST: dict[str, Any] = {
    "study": _is_text,
    "design": lambda design: _is_text(design) and design in Design.__members__,
    "layout": {},
    "commands": _list_of(_is_text),
    "runs": lambda runs: _dict_of(_list_of(_is_text))(runs) and all(map(_is_folder_name, runs)),
}
MANIFEST_ABSENT: dict[str, Any] = {"roadmap": _is_text, "roadmap_files": _dict_of(_is_text)}  # may be missing
LAYOUT: dict[str, Any] = {
    "members": _list_of(
        _fields({"transforms": _list_of(_is_text)}, {"label": _is_text, "against": _list_of(_is_text)}, only=True)
    ),
    "orders": lambda orders: _list_of(_list_of(_is_text))(orders) and _are_orders(orders),
}
LAYOUT_ABSENT: dict[str, Any] = {"needs": _dict_of(_list_of(_is_text))}


def _are_orders(orders: list[list[str]]) -> bool:
    """Return whether all are orders of the same names, and their number is even (each is followed by its reverse)."""
    return len(orders) % 2 == 0 and all(sorted(order) == sorted(set(orders[0])) for order in orders)


def _is_folder_name(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def check_manifest(content: Any) -> str | None:
    """Return what is wrong with the content of a study.json, or None if every reader can use it."""
    problem = _problem_or_unknown(content, MANIFEST, MANIFEST_ABSENT, "")
    problem = problem or _problem_or_unknown(content["layout"], LAYOUT, LAYOUT_ABSENT, "layout.")
    if problem is None and not _is_encodable(content):
        problem = "contains a character that cannot be written"
    return problem


def _problem_or_unknown(value: Any, schema: Mapping[str, Any], absent: Mapping[str, Any], path: str) -> str | None:
    """Return the first field of `value` that does not fit the schema, or is not in it, and why."""
    problem = _problem(value, schema, absent, path)
    if problem is None and (unknown := sorted(value.keys() - schema.keys() - absent.keys())):
        problem = f"{path + unknown[0]!r} is unknown"
    return problem


def _problem(value: Any, schema: Mapping[str, Any], absent: Mapping[str, Any], path: str) -> str | None:
    """Return the first field of `value` that does not fit the schema, and why."""
    if not isinstance(value, dict):
        return f"{path.rstrip('.') or 'the content'} is not a JSON object"
    for name, check in {**schema, **absent}.items():
        if value.get(name) is None and name in absent:
            continue
        if name not in value:
            return f"{path}{name} is missing"
        if isinstance(check, Mapping):
            if problem := _problem(value[name], check, {}, f"{path}{name}."):
                return problem
        elif not check(value[name]):
            return f"{path}{name} has an invalid value"
    return None


def _is_encodable(value: Any) -> bool:
    """Return whether all texts can be written as UTF-8; JSON can contain half of a surrogate pair."""
    if isinstance(value, dict):
        return all(_is_encodable(key) and _is_encodable(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_encodable, value))
    return not isinstance(value, str) or not any("\ud800" <= sign <= "\udfff" for sign in value)
