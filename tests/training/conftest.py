"""Fixtures of the tests that train."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make an empty folder the working folder, and kill what a failed test has left running."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for child in multiprocessing.active_children():
        child.kill()
