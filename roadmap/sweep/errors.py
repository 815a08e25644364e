"""Errors of a sweep."""

from __future__ import annotations


class RunFailed(Exception):
    """At least one requested run failed or diverged; its record states the reason."""
