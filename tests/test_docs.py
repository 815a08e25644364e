"""What the docs say is what the code does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from roadmap.config.steps import all_steps, all_transforms, step_names
from tests.conftest import ROOT

CARDS = (ROOT / "docs" / "steps.md").read_text(encoding="utf-8")


def test_every_step_has_its_card_in_order() -> None:
    own = [step.name for step in all_steps().values() if step.name != "resnextify"]
    cards = re.findall(r"(?m)^## (\w+)$", CARDS)
    assert sorted(cards) == sorted(own)
    stations = [card for card in cards if not (card in all_transforms() and all_transforms()[card].variant)]
    assert stations == step_names()
    for name, card in zip(cards, re.split(r"(?m)^## \w+$", CARDS)[1:], strict=True):
        for part in ("**What**", "**Paper**", "**Decision**"):
            assert part in card, f"{name} lacks {part}"
        section = all_transforms()[name].section or "beyond it" if name != "baseline" else "2"
        assert f"**Paper**: {section}" in card, name


@pytest.mark.slow
def test_configs_and_costs_in_the_cards_are_true() -> None:
    command = [sys.executable, str(ROOT / "docs" / "fill.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/your-own-step.md"])
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert link.startswith("http") or ((ROOT / page).parent / link).exists(), link


def blocks(page: str) -> list[tuple[str, str | None, str]]:
    """The code blocks of a page: language, the file that the first line of YAML or Python names, the text."""
    found: list[tuple[str, str | None, str]] = []
    for kind, text in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8")):
        named = re.match(r"# (\w+/\S+)\n", text) if kind in ("yaml", "python") else None
        found.append((kind, named and named[1], text[named.end() :] if named else text))
    return found


def test_the_files_that_the_page_shows_are_as_it_shows_them() -> None:
    shown = {name: text for _, name, text in blocks("docs/your-own-step.md") if name and (ROOT / name).exists()}
    assert {"conf/transform/grn.yaml", "conf/step/grn.yaml", "roadmap/network.py"} <= shown.keys()
    for name, text in shown.items():
        there = (ROOT / name).read_text(encoding="utf-8")
        assert there == text if name.endswith(".yaml") else f"\n{text}" in there, name


@pytest.mark.slow
def test_the_page_can_be_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a copy of the tree: files that are not there are written, commands run and say what the page says they do."""
    for folder in ("conf", "roadmap", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for file in ("run_roadmap.py", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    for (kind, name, text), (then, _, after) in pairwise([*blocks("docs/your-own-step.md"), ("", None, "")]):
        expected = after if then == "text" else ""
        if kind == "bash":
            command = ["bash", "-euc", text]
            done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
            said = done.stdout + done.stderr
            assert done.returncode == (2 if expected.startswith("error: ") else 0), text + said
        elif kind == "python" and name is None:
            exec(text, {})
            said = capsys.readouterr().out
        else:
            if name and not (ROOT / name).exists():
                (tmp_path / name).write_text(text, encoding="utf-8")
            continue
        assert all(line in said for line in expected.splitlines()), text + said
