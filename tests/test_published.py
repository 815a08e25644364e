"""The published studies: their records give their reports again, and the commands that made them have nothing to do."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from roadmap import manifest, record, report
from tests.conftest import ROOT, background

PUBLISHED = sorted(path.parent for path in (ROOT / "reports").glob("*/*/study.json"))
TABLES = ("roadmap.csv", "roadmap.md", "roadmap.tex")
MIB = 2**20


def test_there_are_published_studies() -> None:
    assert PUBLISHED  # tests without parameters would pass unseen


def names(folders: list[Path]) -> list[str]:
    return [f"{folder.parent.name}/{folder.name}" for folder in folders]


@pytest.mark.parametrize("study", PUBLISHED, ids=names(PUBLISHED))
def test_the_records_give_the_tables_again(study: Path, tmp_path: Path) -> None:
    report.write(study, tmp_path)
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (study / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("study", PUBLISHED, ids=names(PUBLISHED))
def test_the_commands_find_all_of_their_runs(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the images, and without torch: nothing is left to train."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "reports" / study.parent.name
    shutil.copytree(study, copy / study.name)
    shutil.copytree(study.parent / record.RUNS, copy / record.RUNS)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    known = manifest.read(study)
    assert known is not None and known.commands
    found = 0
    for command in known.commands:
        words = shlex.split(command)[2:]
        out, err = background(*words, PYTHONPATH=str(tmp_path)).communicate(timeout=300)
        asked, done = map(int, re.findall(r"(\d+) (?:runs below|of them finished before)", out)) if out else (0, 1)
        assert asked == done, err
        found = max(found, asked)
    assert found
    for path in sorted(study.iterdir()):
        if path.suffix != ".png":  # whose bytes are the libraries'
            assert (copy / study.name / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("folder", sorted({study.parent for study in PUBLISHED}), ids=lambda folder: folder.name)
def test_published_records_are_whole_small_and_of_no_one_machine(folder: Path) -> None:
    asked = {name for path in folder.glob("*/study.json") for name in json.loads(path.read_text("utf-8"))["runs"]}
    runs = {path.name for path in (folder / record.RUNS).iterdir()}
    assert runs == asked
    for name in runs:
        text = (folder / record.RUNS / name / "record.json").read_text("utf-8")
        content = json.loads(text)
        assert content["status"] != record.COMPLETED or (folder / record.RUNS / name / "correct.npy").is_file()
        assert content["git"]["dirty"] is False, name
        assert not re.search(r'"(/|~)[^"]*/', text), f"{name} holds a path of one machine"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 20 * MIB
