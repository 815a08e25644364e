"""A copy of `conf/` that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from roadmap.config import paths, roadmaps


def copy_conf(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy `conf/` to `folder`, let the package read the copy, and return it. Call `forget_files` at the end."""
    copy = folder / "conf"
    shutil.copytree(paths.CONF, copy)
    monkeypatch.setattr(paths, "CONF", copy)
    forget_files()
    return copy


def forget_files() -> None:
    """Let the package read the files again."""
    roadmaps._load.cache_clear()
