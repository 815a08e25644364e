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
  - {because: it needs more data, setting: budget.train_images=600, against: budget.epochs=64, change: smaller}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "why.yaml"
    path.write_text(TEXT, "utf-8")
    return path


def test_each_explanation_gets_the_verdict_of_the_rule(path: Path) -> None:
    standard, explanations = read_explanations(path)
    network, other = standard
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


def test_a_wrong_entry_is_named(path: Path) -> None:
    for wrong in ("change: none", "change: smaller, without: [layer_norm]"):
        path.write_text(TEXT.replace("setting: budget.epochs=64, change: smaller", wrong), "utf-8")
        with pytest.raises(SpecError, match=r"why\.yaml: it learns more slowly: change must be"):
            read_explanations(path)


def test_the_explanations_of_the_study_are_of_its_networks() -> None:
    standard, explanations = read_explanations(ROOT / "experiments" / "why.yaml")
    assert len(standard.network.transforms) == 13 and standard.other.transforms == {"training_recipe"}
    assert len({(found.because, found.present, found.removed) for found in explanations}) == len(explanations) > 10
