"""The field `logger`: which experiment trackers get the runs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from roadmap.config.choices import TRACKERS
from roadmap.config.names import printable, suggest
from roadmap.config.schema import SpecError


def check_trackers(value: Any) -> list[str] | None:
    """Return the value of the field as a list without duplicates, None for none.

    Raises SpecError for an unknown tracker, and for one that is not installed.
    """
    chosen = [value] if isinstance(value, str) else value
    if chosen is None or chosen == []:
        return None
    if not isinstance(chosen, list):
        known = f"use one of {', '.join(TRACKERS)}"
        raise SpecError(f"logger={printable(str(value), 100)}: must be a tracker or a list of them; {known}")
    for tracker in chosen:
        text = printable(str(tracker), 100)
        if tracker not in TRACKERS:
            raise SpecError(f"logger={text}: unknown; {suggest(text, TRACKERS)}")
        if not _is_installed(tracker):
            raise SpecError(f"logger={text}: is not installed; pip install 'roadmap[{text}]'")
    return list(dict.fromkeys(chosen))


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # it was removed from this process
        return False
