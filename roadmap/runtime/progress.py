"""Durations as text."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Format as `M:SS`, or `H:MM:SS` from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
