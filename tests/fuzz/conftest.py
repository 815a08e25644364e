"""The working folder of the fuzz tests."""

from __future__ import annotations

import pytest

from tests.fuzz.invariants import Workplace
from tests.fuzz.prepared import prepare


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Return the prepared working folder of this process; every case starts with the same content."""
    place = Workplace(tmp_path_factory.mktemp("fuzz"))
    prepare(place.pristine / "work")
    place.start()
    return place
