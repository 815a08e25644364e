"""The published studies: their records give their reports again, and their commands find all runs finished."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from roadmap.config.tuned import BEST_NAME
from roadmap.records.record import COMPLETED, FORMAT, RUNS_FOLDER, read_record
from roadmap.report.writer import write_report
from tests.conftest import ROOT, background
from tests.published import ALL, OTHERS, PUBLISHED, REPORTS, SEARCHES, TABLES, TUNED, UNFINISHED, manifest_of

QUICK = ("roadmap",)  # studies that the default suite checks
MIB = 2**20


def name_of(study: Path) -> str:
    return f"{study.parent.name}/{study.name}"


def test_published_studies_exist() -> None:
    assert {study.name for study in PUBLISHED} > set(QUICK)  # a test without parameters would pass
    for study in UNFINISHED:  # a study with all runs has tables
        assert not all(
            (study.parent / RUNS_FOLDER / name / "record.json").is_file() for name in manifest_of(study).runs
        ), study


@pytest.mark.parametrize(
    "study",
    [pytest.param(study, marks=[] if study.name in QUICK else pytest.mark.slow) for study in PUBLISHED],
    ids=name_of,
)
def test_the_records_give_the_same_tables(study: Path, tmp_path: Path) -> None:
    write_report(study, tmp_path)
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (study / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("study", OTHERS, ids=name_of)
def test_the_commands_find_all_runs_finished(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands train nothing, need no images, and write the same report. The dry run needs no torch either.

    Every command has a dry run. Only the first and the last command of a study write the report, which takes longer.
    """
    monkeypatch.chdir(tmp_path)
    reports = tmp_path / "reports" / study.parent.name
    tuned = [other for other in TUNED if other.parent == study.parent]  # the values that `tuned=` names
    for folder in (study, *tuned, study.parent / RUNS_FOLDER):
        shutil.copytree(folder, reports / folder.name, ignore=shutil.ignore_patterns(".lock"))
    without_torch = tmp_path / "without_torch"
    without_torch.mkdir()
    (without_torch / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")

    def output_of(command: str, *overrides: str, python_path: str = "") -> str:
        process = background(*shlex.split(command)[2:], *overrides, PYTHONPATH=python_path)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and out, err
        return out

    manifest = manifest_of(study)
    documented = re.findall(rf"(?m)^uv run (run_roadmap\.py .*\+study={study.name}\b(?!.* out=).*)$", REPORTS)
    assert documented or f"({name_of(study)}/index.html)" not in REPORTS
    commands = list(dict.fromkeys([*manifest.commands, *(f"python {command}" for command in documented)]))
    records = [read_record(study.parent / RUNS_FOLDER / name) for name in manifest.runs]
    if any(record is None or record["format"] != FORMAT for record in records):
        pytest.skip("the records have an earlier format: the commands would train the runs again")
    plans = [output_of(command, "plan=true", python_path=str(without_torch)) for command in commands]
    done = {run for plan in plans for run in re.findall(r"(?m)^  done +\S+  (.*)", plan)}  # with top-1 and seconds
    assert len(done) == len(manifest.runs)
    to_do = {step for plan in plans for step in re.findall(r"(?m)^  to do +\S+ +(\S+) seed=", plan)}
    if to_do and not any(run.startswith(f"{step}-") for step in to_do for run in manifest.runs):
        pytest.skip(f"this version has steps that the study does not have, its commands would train them: {to_do}")
    assert not to_do
    for command in dict.fromkeys((commands[0], commands[-1])):
        assert re.search(r"(\d+) runs in \S+, \1 of them already finished", output_of(command))
    for path in sorted(study.iterdir()):
        if path.suffix != ".png":  # its bytes depend on the versions of the libraries
            assert _without_pictures(reports / study.name / path.name) == _without_pictures(path), path.name


def _without_pictures(path: Path) -> str:
    """Return the text of a file. The pictures of test images and their classes are in a page only if there is data."""
    return re.sub(r'\[(\d+),"[^"]*","[^"]*"\]', r"[\1]", path.read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("study", SEARCHES, ids=name_of)
def test_the_command_of_a_search_decides_the_same_without_training(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "reports" / study.parent.name
    shutil.copytree(study.parent, copy, ignore=shutil.ignore_patterns(".lock", "conf"))
    for path in copy.glob(f"{study.name}*/roadmap.*"):
        path.unlink()
    (command,) = manifest_of(study).commands
    assert f"\nuv run {command.removeprefix('python ')}\n" in REPORTS
    process = background(*shlex.split(command)[2:])
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and not re.search(r"(?m)^\[\d+/\d+\]", out + err), err
    published = [path for path in study.parent.glob(f"{study.name}*/**/*") if path.suffix in (".csv", ".md", ".yaml")]
    assert {path.parent for path in published} > {study, study.with_name(f"{study.name}-found")}
    for path in published:
        assert (copy / path.relative_to(study.parent)).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("folder", sorted({study.parent for study in ALL}), ids=lambda folder: folder.name)
def test_published_records_are_complete_small_and_without_local_paths(folder: Path) -> None:
    runs = {path.name for path in (folder / RUNS_FOLDER).iterdir()}
    unfinished = {name for study in UNFINISHED if study.parent == folder for name in manifest_of(study).runs}
    others = {
        name for study in ALL if study.parent == folder and study not in UNFINISHED for name in manifest_of(study).runs
    }
    assert others <= runs <= others | unfinished
    precisions: dict[str, set[str]] = {}
    for name in runs:
        text = (folder / RUNS_FOLDER / name / "record.json").read_text("utf-8")
        record = json.loads(text)
        assert record["status"] != COMPLETED or (folder / RUNS_FOLDER / name / "correct.npy").is_file()
        assert record["git"]["dirty"] is False, name
        assert not re.search(r'"(/|~)[^"]*/', text), f"{name} contains a path of one machine"
        precisions.setdefault(record["study"], set()).add(record["device"]["precision"])
    assert all(len(values) == 1 for values in precisions.values()), precisions
    published = [path for path in folder.rglob("*") if path.suffix not in (".pt", ".txt")]
    assert sum(path.stat().st_size for path in published if path.is_file()) < 25 * MIB


def test_the_commits_of_published_records_are_in_the_history() -> None:
    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("not a complete clone")
    records = [json.loads(path.read_text("utf-8")) for path in (ROOT / "reports").glob("*/runs/*/record.json")]
    commits = {record["git"]["commit"] for record in records}
    assert commits
    for commit in commits:
        assert git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0, f"a squashed merge lost {commit}"


@pytest.mark.parametrize("study", TUNED, ids=name_of)
def test_tuned_values_are_those_of_the_best_run(study: Path) -> None:
    best, trials = json.loads((study / BEST_NAME).read_text("utf-8")), pd.read_csv(study / "trials.csv")
    records = [read_record(study.parent / RUNS_FOLDER / name) for name in manifest_of(study).runs]
    for step, values in best.items():
        own = [record for record in records if record is not None and record["name"] == step]
        assert len(own) == (trials["step"] == step).sum() > 1
        found = max(own, key=lambda record: record["top1"])
        assert found["top1"] == pytest.approx(trials[trials["step"] == step]["top1"].max())
        for field, value in values.items():
            section, name = field.split(".")
            assert found["config"][section][name] == pytest.approx(value), field
