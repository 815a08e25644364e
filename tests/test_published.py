"""The published studies: their records give their reports again, and their commands find all runs finished."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from types import ModuleType

import pandas as pd
import pytest

from roadmap.config.choices import Design
from roadmap.config.tuned import BEST_NAME
from roadmap.records.manifest import Manifest, read_manifest
from roadmap.records.record import COMPLETED, FORMAT, RUNS_FOLDER, read_record
from roadmap.report.search import RESULT_NAME
from roadmap.report.writer import write_report
from tests.conftest import ROOT, background

STUDY_FILES = (ROOT / "reports").glob("*/*/study.json")
ALL = sorted(path.parent for path in STUDY_FILES if path.parent.name != RUNS_FOLDER)
TUNED = [study for study in ALL if (study / BEST_NAME).is_file()]  # their table is that of the trials
RACES = [
    study for study in ALL if json.loads((study / "study.json").read_text("utf-8"))["design"] == Design.search_race.name
]
TABLES = ("roadmap.csv", "roadmap.md", "roadmap.tex")
PUBLISHED = [study for study in ALL if (study / TABLES[0]).is_file()]
# Runs are missing, so there are no tables yet. A race never has tables.
UNFINISHED = [study for study in ALL if study not in (*TUNED, *RACES, *PUBLISHED)]
SEARCHES = [study for study in PUBLISHED if (study / RESULT_NAME).is_file()]
OTHERS = [study for study in PUBLISHED if study.with_name(study.name.removesuffix("-found")) not in SEARCHES]
QUICK = ("roadmap",)  # studies that the default suite checks
PAGES = (
    *("reports/README.md", "reports/fashion_mnist/README.md", "reports/digits/README.md"),
    *("docs/small-data.md", "README.md"),
)
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
REPORTS = "\n".join(TEXTS.values())
TEXTS["README.md"] = TEXTS["README.md"].split("\n## Results\n")[1].split("\n## ")[0]
MIB = 2**20


def manifest_of(study: Path) -> Manifest:
    manifest = read_manifest(study)
    assert manifest is not None and manifest.commands
    return manifest


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


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("published")


def top1_of(study: str, step: str, *, override: str = "", seeds: str = r"\d+") -> float:
    """Return the mean top-1 of the runs of a step in a study of Fashion-MNIST, with an override of that command."""
    folder = ROOT / "reports" / "fashion_mnist"
    runs = manifest_of(folder / study).runs
    names = [name for name, own in runs.items() if name.rsplit("-", 2)[0] == step and (not override or override in own)]
    names = [name for name in names if re.search(f"-seed{seeds}$", name)]
    assert names
    return mean(json.loads((folder / RUNS_FOLDER / name / "record.json").read_text("utf-8"))["top1"] for name in names)


def test_the_tables_on_the_pages_have_the_means_of_the_records(tables: ModuleType) -> None:
    folder = ROOT / "reports" / "fashion_mnist"
    gap = top1_of("roadmap", "separate_downsampling") - top1_of("roadmap", "training_recipe")
    *_, unplanned = tables.results(folder, "roadmap")
    assert f"ConvNeXt minus the ResNet with the enhanced recipe: {gap:+.2f} points (10 seeds, " in unplanned
    assert "Kendall's tau of the other 12 gains" in unplanned
    (summary,) = tables.results(folder, "roadmap:summary")
    steps = [line.split("|")[1].strip() for line in summary.splitlines()[2:]]
    assert steps[:2] == ["baseline", "enhanced recipe"] and steps[-1] == "separate downsampling"
    (rates,) = tables.results(folder, "learning_rates:top1")
    values = {line.split("|")[1].strip(): line for line in rates.splitlines()[2:]}
    highest = top1_of("learning_rates", "fewer_norms", override="budget.lr_multiplier.adamw=256")
    assert f" {highest:.2f} " in values["fewer norms"]
    assert values["fewer norms"].count("–") == 4 == values["baseline"].count("–")  # the rates of the other optimizer
    (doubled,) = tables.results(folder, "convergence:top1")
    change = top1_of("convergence", "swin", override="budget.epochs=192")
    change -= top1_of("convergence", "swin", override="budget.epochs=96")
    assert re.search(rf"(?m)^\| Swin Transformer .* {re.escape(f'{change:+.2f}')} \|$", doubled)
    _, activations, left, fresh, baseline, *failures = tables.results(folder, "why")
    assert activations.endswith("the ResNet 16, ConvNeXt 6, ConvNeXt without fewer activations 19.")  # by hand
    gap = top1_of("why", "separate_downsampling-fewer_activations") - top1_of("roadmap", "training_recipe")
    assert f"{gap:+.2f} points (10 seeds, " in left and not failures
    change = top1_of("why", "separate_downsampling-patchify_stem", seeds="[5-9]")
    change -= top1_of("roadmap", "separate_downsampling", seeds="[5-9]")
    assert f"seeds 5 to 9 only, which had no part in the choice of this explanation: {change:+.2f} points" in fresh
    gap = top1_of("leave_one_out", "separate_downsampling-training_recipe") - top1_of(
        "roadmap", "baseline", seeds="[0-4]"
    )
    assert f"With the baseline recipe, ConvNeXt minus the ResNet: {gap:+.2f} points (5 seeds, " in baseline


def test_the_shapley_values_on_the_page_add_up_to_the_difference_of_the_ends(tables: ModuleType) -> None:
    folder = ROOT / "reports" / "fashion_mnist"
    top1: dict[frozenset[str], list[float]] = defaultdict(list)
    for name in manifest_of(folder / "attribution").runs:
        record = json.loads((folder / RUNS_FOLDER / name / "record.json").read_text("utf-8"))
        top1[frozenset(own["name"] for own in record["transforms"])].append(record["top1"])
    table, low, *_ = tables.results(folder, "attribution")
    values = [float(line.split("|")[2]) for line in table.splitlines()[2:]]
    difference = mean(top1[max(top1, key=len)]) - mean(top1[frozenset()])
    assert sum(values) == pytest.approx(difference, abs=0.005 * len(values))
    weak = sum(mean(own) < 80 for own in top1.values())
    assert weak and low.startswith(f"Of the {len(top1)} networks, {weak} have a top-1 below 80 %")


def top1_of_network(study: Path, transforms: Iterable[str]) -> float:
    """Return the mean top-1 of the runs of a study with exactly these transforms."""
    texts = [(study.parent / RUNS_FOLDER / name / "record.json").read_text("utf-8") for name in manifest_of(study).runs]
    networks = [(record["top1"], {own["name"] for own in record["transforms"]}) for record in map(json.loads, texts)]
    own = [top1 for top1, names in networks if names == set(transforms)]
    assert len(own) == 10
    return mean(own)


def test_two_searches_beside_each_other_have_the_means_of_the_records(tables: ModuleType) -> None:
    studies = [ROOT / "reports" / name / "search" for name in ("fashion_mnist", "digits")]
    found = [json.loads((study / RESULT_NAME).read_text("utf-8"))["candidates"][0]["transforms"] for study in studies]
    table, *_, here, there = tables.results(studies[0].parent, "search:digits")
    (row,) = (line.split("|") for line in table.splitlines() if line.startswith("| with patchify stem |"))
    for study, own, other, sentence, cell in zip(studies, found, reversed(found), (here, there), (3, 6), strict=True):
        difference = top1_of_network(study, other) - top1_of_network(study, own)
        (shown,) = re.findall(r"(\S+) points \(10 seeds, [^)]*\) over the network", sentence)
        assert float(shown) == pytest.approx(difference, abs=0.0051)
        gain = top1_of_network(study, [*own, "patchify_stem"]) - top1_of_network(study, own)
        assert float(row[cell]) == pytest.approx(gain, abs=0.0051)


NUMBER = r"(?<![\w.,])[-+]?\d+(?:,\d{3})*(?:\.\d+)?"
GENERATED = r"(?s)<!-- (\S+) -->.*?<!-- /\1 -->"
CODE = r"(?ms)^ *```.*?```|^ *\d+\. "  # and the numbers of lists
LINK = r"\[[^\]]*\]\(http\S+\)|\]\(\S+\)"  # to a source with its text, or to a page
CITED = r"^\|[^\n]*\]\(http[^\n]*$"  # a row of a table that names its source


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_number_of_the_prose_is_in_a_table_or_in_the_rule(text: str) -> None:
    """A number is in the row of a step that its sentence names, in the rule, or in a generated note; with its sign.

    Numbers in links and in table rows that link to a source are those of the source.
    """
    generated = "\n".join(match[0] for match in re.finditer(GENERATED, REPORTS))
    tables = "\n".join([generated, *(study.joinpath("roadmap.md").read_text("utf-8") for study in PUBLISHED)])
    rows = [(row.split("|")[1].split(" (")[0].strip(), numbers(row)) for row in re.findall(r"(?m)^\|.*", tables)]
    rules = [path.read_text("utf-8") for path in (ROOT / "experiments").glob("*_*.md")]
    known = numbers("\n".join([*rules, re.sub(r"(?m)^\|.*", "", generated)]))
    prose = re.sub(f"{CODE}|{CITED}", "", re.sub(GENERATED, "", text))
    count = 0
    for sentence in re.split(r"(?<=[.:;])\s|\n(?=- )|\n\n", prose):
        named = [row for name, row in rows if name.lower() in " ".join(sentence.lower().split())]
        for number in re.findall(NUMBER, re.sub(LINK, "", sentence)):
            assert number in known.union(*named), f"{number}: {sentence}"
            count += 1
    assert count


def numbers(text: str) -> set[str]:
    """Return the numbers in the text, with their signs and without."""
    return {form for number in re.findall(NUMBER, text) for form in (number, number.lstrip("+-"))}
