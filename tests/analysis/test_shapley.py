"""Shapley values of an attribution study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from roadmap.analysis.shapley import shapley_values
from roadmap.analysis.table import read_study
from roadmap.config.choices import Design
from roadmap.config.designs import Layout, overrides_of, study_layout
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import DesignSpec, RunSpec
from roadmap.records.manifest import add_runs
from roadmap.records.record import run_folder
from roadmap.report.writer import write_report
from tests.helpers import write_run

VALUES = {"training_recipe": 3.0, "stage_ratio": 1.0, "patchify_stem": -0.5, "depthwise_conv": 0.25}


@pytest.fixture
def layout() -> Layout:
    return study_layout(DesignSpec(Design.attribution, full="depthwise_conv", orders=4), load_roadmap())


@pytest.fixture
def specs(layout: Layout, tmp_path: Path) -> list[RunSpec]:
    return write_runs(layout, tmp_path)


def write_runs(
    layout: Layout, tmp_path: Path, interaction: Callable[[set[str]], float] = lambda names: 0
) -> list[RunSpec]:
    """Write the runs of the study `game`, in which every transform adds its own value, and some together another."""
    specs = []
    for member in layout.members:
        for seed in (0, 1):
            top1 = 50 + sum(VALUES[name] for name in member.transforms) + interaction(set(member.transforms)) + seed
            overrides = (
                *overrides_of(member.transforms, load_roadmap()),
                f"seed={seed}",
                "study=game",
                "design.name=attribution",
            )
            specs.append(write_run(tmp_path, top1, *overrides))
    add_runs([(spec, []) for spec in specs], layout)
    return specs


@pytest.mark.usefixtures("specs")
def test_values_of_additive_gains_are_the_gains(tmp_path: Path) -> None:
    table = shapley_values(read_study(tmp_path / "game")).set_index("transform")
    assert table["value"].to_dict() == pytest.approx(VALUES)
    assert table["low"].to_dict() == pytest.approx(VALUES) and table["high"].to_dict() == pytest.approx(VALUES)
    assert table.index.tolist() == list(VALUES) and (table["n_orders"] == 4).all() and (table["n_seeds"] == 2).all()
    text = write_report(tmp_path / "game", tmp_path / "report")
    assert "Shapley value" in text and "+3.00" in text and (tmp_path / "report" / "attribution.csv").is_file()
    assert "Used: " not in text  # no order is left out
    markdown = (tmp_path / "report" / "roadmap.md").read_text(encoding="utf-8")
    assert markdown.count("Shapley value: mean gain") == 1
    assert "With start: the mean of only the gains in networks with enhanced recipe. " in markdown
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert '<p class="lead">Study game: ' in page
    assert '<th scope="col" class="number">Shapley value</th>' in page and "+3.00" in page


def test_a_transform_has_no_effect_before_what_it_needs_in_this_study(tmp_path: Path) -> None:
    """In one order of each pair, patchify stem comes before depthwise conv, which then gains the effect of both."""
    needs = {"patchify_stem": ["depthwise_conv"]}
    design = DesignSpec(Design.attribution, full="depthwise_conv", orders=4, needs=needs)
    write_runs(study_layout(design, load_roadmap()), tmp_path)
    table = shapley_values(read_study(tmp_path / "game")).set_index("transform")
    expected = VALUES | {"patchify_stem": VALUES["patchify_stem"] / 2}
    expected["depthwise_conv"] += VALUES["patchify_stem"] / 2
    assert table["value"].to_dict() == pytest.approx(expected) and (table["n_orders"] == 4).all()
    text = write_report(tmp_path / "game", tmp_path / "report")
    assert "The design of the study game has patchify stem only together with depthwise conv." in text


def test_gains_in_networks_with_the_start_are_also_shown_alone(layout: Layout, tmp_path: Path) -> None:
    """The stage ratio gains 4 points more without the enhanced recipe, in one of the two orders of each pair."""
    start = {"training_recipe"}
    by_hand = VALUES | {"stage_ratio": VALUES["stage_ratio"] + 2, "training_recipe": VALUES["training_recipe"] - 2}
    write_runs(layout, tmp_path, lambda names: 0 if start & names else 4 * ("stage_ratio" in names))
    table = shapley_values(read_study(tmp_path / "game")).set_index("transform")
    assert table["value"].to_dict() == pytest.approx(by_hand)
    assert table["start_value"].drop(list(start)).to_dict() == pytest.approx(
        {name: value for name, value in VALUES.items() if name not in start}
    )
    assert table["start_value"].isna().sum() == table["start_low"].isna().sum() == len(start)
    assert "With start: " in write_report(tmp_path / "game", tmp_path / "report")


def test_orders_with_a_missing_network_are_left_out(layout: Layout, specs: list[RunSpec], tmp_path: Path) -> None:
    pairs = (layout.orders[:2], layout.orders[2:])
    prefixes = [{frozenset(order[:count]) for order in pair for count in range(5)} for pair in pairs]
    missing = next(iter(prefixes[0] - prefixes[1]))
    for spec in specs:
        if set(spec.transforms) == missing:
            (run_folder(spec) / "record.json").unlink()
    table = shapley_values(read_study(tmp_path / "game")).set_index("transform")
    assert (table["n_orders"] == 2).all() and table["value"].to_dict() == pytest.approx(VALUES)
    assert table["low"].isna().all()  # one pair of orders gives no interval
    note = "Used: 2 of 4 orders and 2 of 2 seeds, those for which every network is completed."
    assert note in write_report(tmp_path / "game", tmp_path / "report")
    for path in (tmp_path / "runs").glob("baseline-*/record.json"):
        path.unlink()
    text = write_report(tmp_path / "game", tmp_path / "report")
    assert "Used: 0 of 4 orders and 0 of 2 seeds, " in text and "biases" not in text  # missing runs did not fail


def test_a_failed_run_adds_a_note_on_the_bias(specs: list[RunSpec], tmp_path: Path) -> None:
    first = specs[0]
    write_run(
        tmp_path, None, f"seed={first.seed}", "study=game", "design.name=attribution", status="diverged", error=""
    )
    text = write_report(tmp_path / "game", tmp_path / "report")
    assert "Used: 4 of 4 orders and 1 of 2 seeds, " in text
    assert "Leaving out runs that did not learn biases the estimates upward." in text
