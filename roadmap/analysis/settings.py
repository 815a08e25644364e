"""Settings for labels: the overrides that not all rows of a study have, as short text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from pathlib import PurePosixPath
from typing import Any

Groups = Sequence[list[dict[str, Any]]]  # the records of each row
PATHS = re.compile(r"(?P<field>\+*(?:data\.root|weights|tuned)=)(?P<path>(?!timm/).*)")


def settings_of(groups: Groups) -> dict[str, str]:
    """Return the setting of each group by config hash: its overrides that not all groups have, as `budget.epochs=3`.

    A path is left out. If two settings differ only in a path, its last folders are kept. Equal texts mean equal
    settings.
    """
    overrides = {group[0]["config_hash"]: group[0]["setting"] for group in groups}
    common = set.intersection(*map(set, overrides.values()))
    words = {key: tuple(word for word in words if word not in common) for key, words in overrides.items()}
    short = _without_paths(list(dict.fromkeys(words.values())))
    settings = {key: short[own] for key, own in words.items()}
    used: set[tuple[str, str]] = set()
    for group in groups:  # equal overrides of different configs, for example after a preset was changed
        key = group[0]["config_hash"]
        if (group[0]["name"], settings[key]) in used:
            settings[key] = f"{settings[key]} config={key}".strip()
        used.add((group[0]["name"], settings[key]))
    return settings


def without_folders(setting: str) -> str:
    """Return a setting as a person writes it with the last part of each path only, as `settings_of` shows it."""
    return " ".join(_shorten(word, 1) for word in setting.split())


def _without_paths(settings: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Return a different text for each setting, with as few folders of each path as possible."""
    for num_parts in count():
        texts = [" ".join(filter(None, (_shorten(word, num_parts) for word in words))) for words in settings]
        if len(set(texts)) == len(texts) or num_parts > max(len(word) for words in settings for word in words):
            return dict(zip(settings, texts, strict=True))
    raise AssertionError  # count() is infinite


def _shorten(word: str, num_parts: int) -> str:
    match = PATHS.fullmatch(word)
    if match is None:
        return word
    parts = PurePosixPath(match["path"].replace("\\", "/")).parts
    return match["field"] + "/".join(parts[-num_parts:]).replace("//", "/") if num_parts else ""


def natural_key(text: str) -> list[str | float]:
    """Return a sort key that compares numbers in the text as numbers."""
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", text))]
