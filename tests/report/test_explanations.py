"""The table of explanations of a gap: made-up results give the verdicts of the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadmap.analysis.gaps import Network
from roadmap.config.schema import SpecError
from roadmap.report.explanations import explanations_table, read_explanations
from tests.analysis.test_gaps import study
from tests.conftest import ROOT

TEXT = """
network: {step: gelu, label: new}
other: {step: training_recipe, label: old}
explanations:
  - {because: its activation is worse, without: [gelu], change: smaller}
  - {because: it learns more slowly, setting: budget.epochs=64, change: smaller}
  - {because: its weights are too large, setting: network.init_std=0.5, change: larger}
  - {because: it is too narrow, setting: base.width_factor=2, change: smaller}
  - {because: it is too shallow, setting: base.depth_factor=2, change: smaller}
  - {because: it needs another learning rate, setting: tuned=reports/tuned/best.json, change: smaller}
  - {because: it needs more data, setting: budget.train_images=600, against: budget.epochs=64, change: smaller}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "why.yaml"
    path.write_text(TEXT, "utf-8")
    return path


def test_each_explanation_gets_the_verdict_of_the_rule(path: Path) -> None:
    content = read_explanations(path)
    (network, other), explanations = content.standard, content.entries
    assert explanations[0].removed == (Network(network.transforms - {"gelu"}), other)
    held = {network: 80.0, other: 90.0, explanations[0].removed.network: 89.0}  # the gap is -10
    firsts = {  # top-1 of the network under each setting; that of the other one stays
        "budget.epochs=64": 82.5, "network.init_std=0.5": 64.0, "base.width_factor=2": 80.0, "tuned=best.json": 87.0,
        "budget.train_images=600": 86.0,
    }  # fmt: skip
    for setting, first in firsts.items():  # a row names a file without its folders
        held |= {Network(network.transforms, setting): first, Network(other.transforms, setting): 90.0}
    test = {key: value for key, value in held.items() if key.setting != "base.width_factor=2"}
    test[explanations[0].removed.network] = 82.5  # the effect is smaller on the test set
    table = explanations_table(path, [study(held)], [study(test)])
    header, _, gap, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert header[0] == "explanation" and gap[5][:3] in ("-9.", "-10") and gap[7] == "5, 5"
    assert [line[-1] for line in lines] == [
        "contributes, confirmed",  # held-out: at least half
        "contributes, confirmed",
        "explains at least half, confirmed",  # of the gap with this setting
        "explains less than half (held-out only)",
        "not tested",
        "explains at least half, confirmed",
        "contributes, confirmed",  # against 64 epochs, whose gap is -7.5
    ]
    assert lines[1][5].startswith("+2.") and lines[2][5].startswith("-1") and lines[4][3:7] == ["–"] * 4
    assert lines[6][1] == "budget.train_images=600, against budget.epochs=64" and lines[6][5].startswith("+2.")
    assert lines[2][3].startswith("6") and float(lines[2][4]) > 3  # top-1 and ratio of errors with this setting


def test_verdicts_that_differ_name_both_sides(path: Path) -> None:
    content = read_explanations(path)
    (network, other), long = content.standard, content.entries[1].removed
    held = study({network: 80.0, other: 90.0, long.network: 89.0, long.other: 90.0})
    test = study({network: 80.0, other: 90.0, long.network: 74.0, long.other: 90.0})
    for sides, conclusion in (
        (([held], [test]), "has the opposite effect (held-out: explains at least half)"),
        (([study({network: 80.0, other: 90.0})], [held]), "explains at least half (held-out: not trained)"),
    ):
        assert conclusion in explanations_table(path, *sides)


def test_a_row_that_no_explanation_uses_is_named(path: Path) -> None:
    network, other = read_explanations(path).standard
    found = study({network: 80.0, other: 90.0, Network(other.transforms, "budget.epochs=46"): 90.0})
    with pytest.raises(SpecError, match=r"no explanation uses the row training_recipe budget\.epochs=46"):
        explanations_table(path, [found], [found])


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("setting: x=1, change: none", "change must be one of smaller, larger"),
        ("setting: x=1", "change must be one of smaller, larger"),
        ("change: smaller", "needs setting or without, not both"),
        ("change: smaller, setting: x=1, without: [gelu]", "needs setting or without, not both"),
        ("change: smaller, without: [layer_norm]", "without must be a list of transforms of the network"),
        ("change: smaller, without: []", "without must be a list of transforms of the network"),
        ("change: smaller, settings: x=1", "an entry has because, change"),
    ],
)
def test_a_wrong_entry_is_named(wrong: str, problem: str, path: Path) -> None:
    path.write_text(TEXT.replace("setting: budget.epochs=64, change: smaller", wrong), "utf-8")
    with pytest.raises(SpecError, match=rf"why\.yaml: .*it learns more slowly.*: {problem}"):
        read_explanations(path)


def test_a_file_without_networks_is_named(path: Path) -> None:
    for wrong in ("step: gel,", "label: new"):
        path.write_text(TEXT.replace("step: gelu, label: new", wrong), "utf-8")
        with pytest.raises(SpecError, match=r"why\.yaml: needs network and other, each with step and label"):
            read_explanations(path)


def test_the_explanations_of_the_study_are_of_its_networks() -> None:
    content = read_explanations(ROOT / "experiments" / "why.yaml")
    network, other = content.standard
    assert len(network.transforms) == 13 and other.transforms == {"training_recipe"}
    changes = {(found.because, found.present, found.removed) for found in content.entries}
    assert len(changes) == len(content.entries) > 10
