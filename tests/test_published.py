"""The published studies: their records give their reports again, and the commands that made them have nothing to do."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from roadmap.records.manifest import read_manifest
from roadmap.records.record import COMPLETED, RUNS_FOLDER
from roadmap.report.writer import write_report
from tests.conftest import ROOT, background

FOUND = (path.parent for path in (ROOT / "reports").glob("*/*/study.json"))
PUBLISHED = sorted(folder for folder in FOUND if folder.name != RUNS_FOLDER)
PAGE = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split("## What came of it")[-1].split("\n## ")[0]
TABLES = ("roadmap.csv", "roadmap.md", "roadmap.tex")
MIB = 2**20


def test_there_are_published_studies() -> None:
    assert PUBLISHED  # tests without parameters would pass unseen


def runs_of(study: Path) -> list[str]:
    known = read_manifest(study)
    assert known is not None
    return list(known.runs)


def names(folders: list[Path]) -> list[str]:
    return [f"{folder.parent.name}/{folder.name}" for folder in folders]


@pytest.mark.parametrize("study", PUBLISHED, ids=names(PUBLISHED))
def test_the_records_give_the_tables_again(study: Path, tmp_path: Path) -> None:
    write_report(study, tmp_path)
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (study / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("study", PUBLISHED, ids=names(PUBLISHED))
def test_the_commands_find_all_of_their_runs(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the images, and without torch: nothing is left to train, and the reports stay as they are."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "reports" / study.parent.name
    shutil.copytree(study, copy / study.name, ignore=shutil.ignore_patterns(".lock"))
    shutil.copytree(study.parent / RUNS_FOLDER, copy / RUNS_FOLDER)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")

    def said(command: str, *more: str) -> str:
        out, err = background(*shlex.split(command)[2:], *more, PYTHONPATH=str(tmp_path)).communicate(timeout=300)
        assert out, err
        return out

    known = read_manifest(study)
    assert known is not None and known.commands
    told = re.findall(rf"(?m)^uv run (run_roadmap\.py .*\+study={study.name}\b.*)$", PAGE)
    assert told or f"({study.parent.name}/{study.name}/index.html)" not in PAGE
    commands = list(dict.fromkeys([*known.commands, *(f"python {command}" for command in told)]))
    plans = [said(command, "plan=true") for command in commands]
    done = {run for plan in plans for run in re.findall(r"(?m)^  done +\S+  (.*)", plan)}  # with its top-1 and seconds
    assert len(done) == len(known.runs)
    if any(re.search("(?m)^  to do", plan) for plan in plans):
        pytest.skip("this tree has steps that the study had not: its commands would train them")
    for command in commands:
        assert re.search(r"(\d+) runs below \S+, \1 of them finished before", said(command))
    for path in sorted(study.iterdir()):
        if path.suffix != ".png":  # whose bytes are the libraries'
            assert (copy / study.name / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("folder", sorted({study.parent for study in PUBLISHED}), ids=lambda folder: folder.name)
def test_published_records_are_whole_small_and_of_no_one_machine(folder: Path) -> None:
    asked = {name for study in PUBLISHED if study.parent == folder for name in runs_of(study)}
    assert {path.name for path in (folder / RUNS_FOLDER).iterdir()} == asked  # none is left out
    precisions: dict[str, set[str]] = {}
    for name in asked:
        text = (folder / RUNS_FOLDER / name / "record.json").read_text("utf-8")
        content = json.loads(text)
        correct = folder / RUNS_FOLDER / name / "correct.npy"
        assert content["status"] != COMPLETED or correct.is_file()
        assert content["git"]["dirty"] is False, name
        assert not re.search(r'"(/|~)[^"]*/', text), f"{name} holds a path of one machine"
        precisions.setdefault(content["study"], set()).add(content["device"]["precision"])
    assert all(len(found) == 1 for found in precisions.values()), precisions
    published = [path for path in folder.rglob("*") if path.suffix not in (".pt", ".txt")]
    assert sum(path.stat().st_size for path in published if path.is_file()) < 20 * MIB


NUMBER = r"(?<![\w.,])[-+]?\d+(?:,\d{3})*(?:\.\d+)?"
FILLED = r"(?s)<!-- (\S+) -->.*?<!-- /\1 -->"
CASES = {"reports/README.md": PAGE, "README.md": SECTION}


@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_every_number_of_a_finding_stands_in_the_row_of_a_step_that_its_sentence_names(text: str) -> None:
    """Or in the rule, or in what the records say by themselves; with its sign, if it has one."""
    filled = "\n".join(match[0] for match in re.finditer(FILLED, PAGE))
    tables = "\n".join([filled, *(study.joinpath("roadmap.md").read_text("utf-8") for study in PUBLISHED)])
    rows = [(row.split("|")[1].split(" (")[0].strip(), numbers(row)) for row in re.findall(r"(?m)^\|.*", tables)]
    sources = [path.read_text("utf-8") for path in (ROOT / "experiments").glob("*_*.md")]
    known = numbers("\n".join([*sources, re.sub(r"(?m)^\|.*", "", filled)]))
    prose = re.sub(r"(?s)```.*?```|\]\(\S+\)", "", re.sub(FILLED, "", text))
    told = 0
    for sentence in re.split(r"(?<=[.:;])\s|\n(?=- )|\n\n", prose):
        named = [there for name, there in rows if name.lower() in " ".join(sentence.lower().split())]
        for number in re.findall(NUMBER, sentence):
            assert number in known.union(*named), f"{number}: {sentence}"
            told += 1
    assert told


def numbers(text: str) -> set[str]:
    """With their signs and without."""
    return {form for number in re.findall(NUMBER, text) for form in (number, number.lstrip("+-"))}
