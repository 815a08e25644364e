"""What the docs say is what the code does."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from roadmap import road
from tests.conftest import ROOT

CARDS = (ROOT / "docs" / "steps.md").read_text(encoding="utf-8")


def test_every_step_has_its_card_in_order() -> None:
    own = [step.name for step in road.all_steps().values() if step.name != "resnextify"]
    cards = re.findall(r"(?m)^## (\w+)$", CARDS)
    assert sorted(cards) == sorted(own)
    stations = [card for card in cards if not (card in road.transforms() and road.transforms()[card].variant)]
    assert stations == road.steps()
    for name, card in zip(cards, re.split(r"(?m)^## \w+$", CARDS)[1:], strict=True):
        for part in ("**What**", "**Paper**", "**Decision**"):
            assert part in card, f"{name} lacks {part}"
        section = road.transforms()[name].section or "beyond it" if name != "baseline" else "2"
        assert f"**Paper**: {section}" in card, name


@pytest.mark.slow
def test_configs_and_costs_in_the_cards_are_true() -> None:
    command = [sys.executable, str(ROOT / "docs" / "fill.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_file_that_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (ROOT / link).exists(), link
