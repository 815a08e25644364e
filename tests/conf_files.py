"""A copy of `conf/` that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from roadmap.config import paths, steps

CACHES = (
    steps.all_transforms, steps.all_ingredients, steps.all_steps, steps.ordered_steps, steps._nearest_step,
)  # fmt: skip


def copy_conf(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy `conf/` to `folder`, let the package read the copy, and return it. Call `forget_files` at the end."""
    copy = folder / "conf"
    shutil.copytree(paths.CONF, copy)
    monkeypatch.setattr(paths, "CONF", copy)
    forget_files()
    return copy


def forget_files() -> None:
    """Let the package read the files again."""
    for cached in CACHES:
        cached.cache_clear()
