"""The tables and the numbers on the pages about the published studies are those of their records."""

from __future__ import annotations

import importlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from types import ModuleType

import pytest

from roadmap.records.record import RUNS_FOLDER
from roadmap.report.search import RESULT_NAME
from tests.conftest import ROOT
from tests.published import PUBLISHED, REPORTS, TEXTS, manifest_of


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
