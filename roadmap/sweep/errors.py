"""Errors of a sweep."""

from __future__ import annotations


class RunFailed(Exception):
    """A run, or some of a sweep, failed or diverged; its record says why."""
