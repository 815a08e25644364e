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
network: gelu
other: training_recipe
explanations:
  - {because: its activation is worse, without: [gelu], change: smaller}
  - {because: it learns more slowly, setting: budget.epochs=64, change: smaller}
  - {because: its weights are too large, setting: network.init_std=0.5, change: larger}
  - {because: it is too narrow, setting: base.width_factor=2, change: smaller}
  - {because: it is too shallow, setting: base.depth_factor=2, change: smaller}
  - {because: it needs another learning rate, setting: tuned=reports/tuned/best.json, change: smaller}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "why.yaml"
    path.write_text(TEXT, "utf-8")
    return path


def test_each_explanation_gets_the_verdict_of_the_rule(path: Path) -> None:
    standard, explanations = read_explanations(path)
    network, other = standard
    assert explanations[0].gap == (Network(network.transforms - {"gelu"}), other)
    held = {network: 80.0, other: 90.0, explanations[0].gap.network: 89.0}  # the gap is -10
    firsts = {
        "budget.epochs=64": 82.5,
        "network.init_std=0.5": 74.0,
        "base.width_factor=2": 80.0,
        "tuned=best.json": 87.0,
    }
    for setting, first in firsts.items():  # a row names a file without its folders
        held |= {Network(network.transforms, setting): first, Network(other.transforms, setting): 90.0}
    test = {key: value for key, value in held.items() if key.setting != "base.width_factor=2"}
    test[explanations[0].gap.network] = 82.5  # the effect is smaller on the test set
    table = explanations_table(path, [study(held)], [study(test)])
    header, _, gap, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert (header[0] == "explanation" and gap[3].startswith("-10.")) or gap[3].startswith("-9.")
    assert [line[-1] for line in lines] == [
        "contributes (held-out: explains the gap)",
        "contributes, confirmed",
        "explains the gap, confirmed",
        "does not explain it (held-out only)",
        "not tested",
        "explains the gap, confirmed",
    ]
    assert lines[1][3].startswith("+2.") and lines[2][3].startswith("-") and lines[4][3:5] == ["–", "–"]


def test_a_wrong_entry_is_named(path: Path) -> None:
    for wrong in ("change: none", "change: smaller, without: [layer_norm]"):
        path.write_text(TEXT.replace("setting: budget.epochs=64, change: smaller", wrong), "utf-8")
        with pytest.raises(SpecError, match=r"why\.yaml: it learns more slowly: change must be"):
            read_explanations(path)


def test_the_explanations_of_the_study_are_of_its_networks() -> None:
    standard, explanations = read_explanations(ROOT / "experiments" / "why.yaml")
    assert len(standard.network.transforms) == 13 and standard.other.transforms == {"training_recipe"}
    assert len({(explanation.because, explanation.gap) for explanation in explanations}) == len(explanations) > 10
