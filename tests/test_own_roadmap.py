"""The page "A roadmap of your own": its files are those of docs/example, and its commands work outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_docs import code_blocks, run_blocks

PAGE, EXAMPLE = "docs/own-roadmap.md", ROOT / "docs" / "example"


def test_the_shown_files_are_those_of_the_example() -> None:
    shown = {name: text for _, name, text in code_blocks(PAGE) if name is not None}
    configs = {str(path.relative_to(EXAMPLE)) for path in (EXAMPLE / "conf").rglob("*.yaml")}
    assert shown.keys() == {*configs, "preact/layers.py"}
    for name, text in shown.items():
        assert (EXAMPLE / name).read_text(encoding="utf-8") == text, name


def build_wheel(project: Path, to: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(to)]
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=120)
    return next(to.glob("*.whl"))


@pytest.mark.slow
def test_the_page_can_be_followed_with_installed_wheels(tmp_path: Path) -> None:
    """In an empty folder; the packages are those of the wheels, before those of the environment."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    if not (Path(sys.executable).parent / "roadmap").exists():
        pytest.skip("the console script `roadmap` is not installed")
    for number, project in enumerate((ROOT, EXAMPLE)):
        wheel = build_wheel(project, tmp_path / f"wheel{number}")
        zipfile.ZipFile(wheel).extractall(tmp_path / "packages")
    (tmp_path / "empty").mkdir()
    assert run_blocks(PAGE, tmp_path / "empty", str(tmp_path / "packages")) >= 6
    report = tmp_path / "empty" / "reports" / "preact"
    table = (report / "roadmap.md").read_text(encoding="utf-8")
    rows = (
        "baseline",
        "enhanced recipe",
        "pre-activation block",
        "ReLU → SiLU",
        "ReLU → GELU (variant)",
        "BN → GroupNorm",
    )
    assert all(f"| {row} |" in table for row in rows), table
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "conf/transform/preactivation.yaml" in page and "PreactivationBlock" in page
    assert "the paper" not in page
