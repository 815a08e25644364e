"""The documentation is true: files and fields that it names exist, its commands run and print what it shows."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import MISSING, RunSpec
from tests.conftest import ROOT

STEP_CARDS = (ROOT / "docs" / "steps.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OTHERS = ("*.md", "benchmarks/*.md", "experiments/*.md", "reports/README.md", "reports/*/README.md")
LINKED = [*(page for pattern in OTHERS for page in sorted(ROOT.glob(pattern))), *PAGES]


def test_every_step_has_a_card_in_the_order_of_the_roadmap() -> None:
    roadmap = load_roadmap()
    expected = [*roadmap.file.steps, *roadmap.file.variants]
    cards = re.findall(r"(?m)^## (\w+)$", STEP_CARDS)
    assert sorted(cards) == sorted(expected)
    assert [card for card in cards if card not in roadmap.file.variants] == roadmap.step_names
    for name, card in zip(cards, re.split(r"(?m)^## \w+$", STEP_CARDS)[1:], strict=True):
        for part in ("**What**", "**Paper**", "**Decision**"):
            assert part in card, f"{name} lacks {part}"
        section = roadmap.section_of(name) or "beyond it" if name != "baseline" else "2"
        assert f"**Paper**: {section}" in card, name


@pytest.mark.slow
def test_generated_parts_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "fill.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_linked_files_and_sections_exist(page: Path) -> None:
    for link, section in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            target = page.parent / link if link else page
            assert target.exists(), link
            assert not section or section in sections_of(target), f"{link}#{section}"


def sections_of(page: Path) -> set[str]:
    """Return the names of a page's sections, as in links to them."""
    text = re.sub(r"(?ms)^ *```.*?```", "", page.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_named_in_the_docs_exist() -> None:
    examples = {"conf/data/flowers.yaml", "conf/study/stems.yaml"}  # files that the reader writes
    examples.add("conf/roadmap/found.yaml")  # that a search writes
    named = r"`((?:roadmap|tests|conf|hydra_plugins|benchmarks)/[\w./-]+\.\w+)`"
    for page in LINKED:
        for name in re.findall(named, page.read_text(encoding="utf-8")):
            assert "NAME" in name or name in examples or (ROOT / name).exists(), f"{page.name}: {name}"


def documented_defaults() -> dict[str, str]:
    """Field path -> default, from the tables of the configuration page and the command line page."""
    defaults: dict[str, str] = {}
    for page in ("configuration.md", "cli.md"):
        for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
            if line.startswith("| `"):
                fields, default, *_ = [cell.strip() for cell in line.split("|")[1:-1]]
                names = re.findall(r"`([\w.]+)`", fields)
                values = default.split(", ") if default.count(", ") == len(names) - 1 else [default] * len(names)
                for name, value in zip(names, values, strict=True):
                    defaults.setdefault(name, value)
    return defaults


def schema_defaults(spec: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Field path and default, as the tables write it, of each field of the schema."""
    for field in dataclasses.fields(spec):
        value, path = getattr(spec, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from schema_defaults(value, f"{path}.")
        elif path not in ("transforms", "name", "label"):
            yield path, "required" if value == MISSING else f"`{as_yaml(value)}`"


def as_yaml(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_field_is_documented_with_its_default() -> None:
    documented = documented_defaults()
    interpolated = re.compile(r"`(base|data|recipe)\.\w+`")  # conf/config.yaml takes the value from another field
    for path, default in schema_defaults(RunSpec()):
        assert path in documented, path
        assert documented[path] == default or interpolated.fullmatch(documented[path]), path


def code_blocks(page: str) -> list[tuple[str, str | None, str]]:
    """The code blocks of a page: language, file named in the first line of YAML or Python (or None), text."""
    blocks: list[tuple[str, str | None, str]] = []
    for language, text in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8")):
        named = re.match(r"# (\w+/\S+)\n", text) if language in ("yaml", "python") else None
        blocks.append((language, named and named[1], text[named.end() :] if named else text))
    return blocks


def run_blocks(page: str, folder: Path, path: str) -> int:
    """Follow a page in `folder`: write the files that it names, run its bash and Python blocks, and compare their
    output with the `text` block after them. Return the number of blocks that ran. `path` is put on PYTHONPATH."""
    executables = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": executables, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    num_run = 0
    for (language, name, text), (next_language, _, after) in pairwise([*code_blocks(page), ("", None, "")]):
        expected = after if next_language == "text" else ""
        if name is not None:
            if not (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text, encoding="utf-8")
            continue
        if language not in ("bash", "python"):
            continue
        command = ["bash", "-euc", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        assert done.returncode == (2 if expected.startswith("error: ") else 0), text + output
        assert all(line in output for line in expected.splitlines()), text + output
        num_run += 1
    return num_run


def test_shown_source_is_the_source() -> None:
    shown = {name: text for _, name, text in code_blocks("docs/adding-a-step.md") if name and (ROOT / name).exists()}
    assert {"conf/transform/grn.yaml", "roadmap/models/network.py"} <= shown.keys()
    assert {"roadmap/models/inspection.py", "roadmap/models/structure.py"} <= shown.keys()
    for name, text in shown.items():
        source = (ROOT / name).read_text(encoding="utf-8")
        assert source == text if name.endswith(".yaml") else f"\n{text}" in source, name


@pytest.mark.slow
def test_the_page_on_adding_a_step_can_be_followed(tmp_path: Path) -> None:
    for folder in ("conf", "roadmap", "hydra_plugins", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for file in ("run_roadmap.py", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    assert run_blocks("docs/adding-a-step.md", tmp_path, str(tmp_path)) > 2


@pytest.mark.slow
def test_the_tutorial_can_be_followed(tmp_path: Path) -> None:
    if not (Path(sys.executable).parent / "roadmap").exists():
        pytest.skip("the console script `roadmap` is not installed")
    assert run_blocks("docs/tutorial.md", tmp_path, str(ROOT)) > 5


@pytest.mark.slow
def test_the_page_on_integrations_can_be_followed(tmp_path: Path) -> None:
    if not (Path(sys.executable).parent / "roadmap").exists():
        pytest.skip("the console script `roadmap` is not installed")
    assert run_blocks("docs/integrations.md", tmp_path, str(ROOT)) > 7
    assert {"results.parquet", "results_epochs.parquet", "exported"} <= {path.name for path in tmp_path.iterdir()}
    assert list((tmp_path / "experiments" / "trackers").glob("tracked/*/*/events.*"))
