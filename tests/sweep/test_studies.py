"""What each study consists of, what it compares, what it would take, and what it shares with the others."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from roadmap.analysis.shapley import shapley_values
from roadmap.analysis.table import read_study
from roadmap.config.compose import compose
from roadmap.config.designs import Layout, Member, overrides_of, sampled_orders, study_layout
from roadmap.config.schema import Design, DesignSpec, SpecError
from roadmap.config.steps import all_ingredients, all_steps, step_names
from roadmap.records.manifest import add_runs, read_manifest
from roadmap.records.record import run_folder, run_name
from roadmap.report import __main__
from roadmap.report.comparison import write_comparison
from roadmap.report.wording import setting_sentences
from roadmap.report.writer import write_report
from tests.conftest import ROOT, TINY, CommandLine, background
from tests.helpers import write_run

CONVNEXT = all_steps()["separate_downsampling"].transforms


def layout(name: Design, **fields: Any) -> Layout:
    return study_layout(DesignSpec(name, **fields))


def composed(member: Member) -> None:
    spec = compose(*overrides_of(member.transforms))
    assert set(spec.transforms) == set(member.transforms)


def test_leave_one_out_leaves_out_each_and_what_needs_it() -> None:
    whole, *others = layout(Design.leave_one_out).members
    assert (whole.transforms, whole.against, whole.label) == (list(CONVNEXT), None, "nothing left out")
    assert len(others) == len(CONVNEXT) == 13
    for out, member in zip(CONVNEXT, others, strict=True):
        assert out not in member.transforms and member.against == whole.transforms
        gone = set(CONVNEXT) - set(member.transforms)
        assert gone == ({out, "move_up_depthwise"} if out == "depthwise_conv" else {out})
        composed(member)
    labels = [member.label for member in others]
    assert "without ReLU → GELU" in labels and "without depthwise conv and move up depthwise conv" in labels


def test_add_one_in_adds_each_and_what_it_needs() -> None:
    start, *others = layout(Design.add_one_in).members
    assert start.transforms == ["training_recipe"] and len(others) == 12
    for added, member in zip(CONVNEXT[1:], others, strict=True):
        new = set(member.transforms) - {"training_recipe"}
        assert new == ({added, "depthwise_conv"} if added == "move_up_depthwise" else {added})
        assert member.against == start.transforms
        composed(member)


def test_the_ingredients_make_the_enhanced_recipe() -> None:
    everything = compose(f"+ingredient=[{','.join(all_ingredients())}]", "base=micro")
    enhanced = compose("+step=training_recipe", "base=micro")
    everything.recipe.name = enhanced.recipe.name
    assert everything.recipe == enhanced.recipe and everything.network == enhanced.network
    members = layout(Design.recipe).members
    assert len(members) == 2 + 2 * len(all_ingredients())
    assert {tuple(member.against) for member in members if member.against is not None} == {(), ("training_recipe",)}
    for member in members:
        composed(member)
    for name in all_ingredients():  # each changes something
        assert compose(f"+ingredient=[{name}]", "base=micro").recipe != compose("base=micro").recipe


def test_sampled_orders_come_with_their_opposites() -> None:
    orders = sampled_orders(CONVNEXT, 6, seed=3)
    assert all(sorted(order) == sorted(CONVNEXT) for order in orders)
    assert orders[1::2] == [order[::-1] for order in orders[::2]]
    assert len({tuple(order) for order in orders}) == 6
    assert sampled_orders(CONVNEXT, 8, seed=3)[:6] == orders
    assert sampled_orders(CONVNEXT, 6, seed=4) != orders
    found = layout(Design.attribution, orders=2)
    sets = [frozenset(member.transforms) for member in found.members]
    assert frozenset() in sets and frozenset(CONVNEXT) in sets and len(set(sets)) == len(sets)
    assert len(sets) < 2 * 12 + 2  # a network in which only a transform is new that has no effect yet is no new one
    assert all("depthwise_conv" in names for names in sets if "move_up_depthwise" in names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["design.full=gelo"], "design.full=gelo: no such step; there are baseline, training_recipe"),
        (["design.orders=3"], "design.orders=3: must be a positive even number: each order comes with its opposite"),
        (["reference=swim"], "reference=swim: no such network; there are swin, or null"),
        (["design.full=baseline"], "design.full=baseline: has no transform to take out or to add; give a later step"),
        (["out=a,b"], "out=a,b: a sweep has one; give several commands"),
        (["+step=gelu"], "+step=gelu: design.name=leave_one_out chooses the networks itself; design.full=STEP gives"),
    ],
)
def test_mistakes_in_a_study_are_one_line(
    command_line: CommandLine, tmp_path: Path, words: list[str], message: str
) -> None:
    done = command_line("+study=leave_one_out", *words)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and message in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_ingredient_without_effect_is_refused() -> None:
    """The station drops layer scale, which the ingredient would bring: the network follows only one of them."""
    with pytest.raises(SpecError, match="grn and layer_scale both set network.layer_scale"):
        compose("+transform=[grn]", "+ingredient=[layer_scale]")


def test_a_reference_is_a_network_of_its_own() -> None:
    with pytest.raises(SpecError, match="transform=swin: is a network of its own"):
        compose("+transform=[swin,gelu]")
    with pytest.raises(SpecError, match="network.heads=5: must divide network.width=24"):
        compose("+transform=swin", "network.heads=5")


@pytest.mark.slow
def test_a_study_beside_its_reference(command_line: CommandLine, tmp_path: Path) -> None:
    done = command_line("-m", "+step=baseline", "seed=0", "reference=swin", *TINY)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "reports" / "runs" / "roadmap.csv")
    assert table["step"].tolist() == ["baseline", "swin"] and table["reference"].tolist() == [False, True]
    assert table["paper_top1"].tolist() == [76.13, 81.3] and pd.isna(table["delta"]).all()
    assert "Swin Transformer (reference)" in done.stdout
    alone = command_line("+step=baseline", "reference=swin", *TINY)
    assert alone.returncode == 2 and "goes with a study; alone it is +transform=swin" in alone.stderr


def test_a_plan_starts_nothing_and_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    words = ("+study=leave_one_out", "seed=0,1", "plan=true", "device=cpu", "data=digits")
    out, err = background(*words, PYTHONPATH=str(tmp_path)).communicate(timeout=100)
    assert "leave_one_out: 28 runs, 0 done, 28 to do" in out, err
    assert "time, cost: unknown before a run of this data, base and budget is done" in out
    assert out.count("to do         ?") == 28
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sitecustomize.py"]

    write_run(tmp_path / "experiments", 90.0, "+step=separate_downsampling", "seed=0", wall_seconds=30.0)
    out, err = background(*words, "parallel=3", PYTHONPATH=str(tmp_path)).communicate(timeout=100)
    assert "leave_one_out: 28 runs, 1 done, 27 to do" in out, err
    assert "done       0:30  separate_downsampling seed=0: top-1 90.00 %" in out
    assert "time: 13:30 of run time, 4:30 at 3 at once\ncost: 0.23 core-hours" in out
    assert "by what 1 records took, on a processor" in out
    out, _ = background("+step=gelu", "plan=true", "parallel=8").communicate(timeout=100)
    assert "time: 0:30 of run time, 0:30 at 8 at once" in out  # one run is no faster for that
    sweep = ("-m", "+step=baseline,gelu", "budget.epochs=3,4", "budget.batch_size=32", "plan=true")
    out, _ = background(*sweep).communicate(timeout=100)
    for name in ("baseline budget.epochs=3 seed=0", "gelu budget.epochs=4 seed=0"):
        assert f"?  {name}\n" in out  # named by what tells them apart
    assert not (tmp_path / "reports").exists() and not (tmp_path / "experiments" / "leave_one_out").exists()


@pytest.mark.slow
def test_studies_share_their_runs(command_line: CommandLine, tmp_path: Path) -> None:
    words = ("seed=0", *TINY)
    first = command_line("+study=leave_one_out", "design.full=patchify_stem", *words)
    assert first.returncode == 0, first.stderr
    # patchify_stem, stage_ratio, (training_recipe, patchify_stem), (stage_ratio, patchify_stem)
    assert "leave_one_out: 4 runs" in first.stdout
    second = command_line("-m", "+step=stage_ratio,patchify_stem", "study=other", *words)
    assert second.returncode == 0 and "2 of them finished before" in second.stdout, second.stderr
    third = command_line("+study=leave_one_out", "design.full=patchify_stem", *words)
    assert "4 of them finished before" in third.stdout
    assert len(list((tmp_path / "experiments" / "runs").glob("*/record.json"))) == 4

    known = read_manifest(tmp_path / "experiments" / "leave_one_out")
    assert known is not None and known.design == "leave_one_out" and len(known.runs) == 4
    asked = ["python", "run_roadmap.py", "+study=leave_one_out", "design.full=patchify_stem", *words]
    assert known.commands == [shlex.join(asked)]
    table = pd.read_csv(tmp_path / "reports" / "leave_one_out" / "roadmap.csv")
    pictures = [tmp_path / "reports" / name / "roadmap.svg" for name in ("leave_one_out", "other")]
    assert ["paper: ImageNet" in path.read_text("utf-8") for path in pictures] == [False, True]  # beside a road alone
    labels = ["nothing left out", "without enhanced recipe", "without stage ratio", "without patchify stem"]
    assert table["label"].tolist() == labels
    assert table["against"].fillna("").tolist() == ["", *["nothing left out"] * 3]
    means = table["top1_mean"]
    assert table["delta"][1:].tolist() == pytest.approx((means[1:] - means[0]).tolist())
    assert (table["verdict"][1:] == "descriptive").all()
    assert pd.read_csv(tmp_path / "reports" / "other" / "roadmap.csv")["step"].tolist() == [
        "stage_ratio",
        "patchify_stem",
    ]


def test_a_study_grows_by_later_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "run_roadmap.py", "+study=roadmap", "a b"])
    specs = [compose(f"+step={step}", f"out={tmp_path}", "study=mine") for step in ("baseline", "gelu", "layer_norm")]
    add_runs([(spec, ["seed=0"]) for spec in specs[:2]], Layout())
    add_runs([(spec, ["budget.epochs=3"]) for spec in specs[1:]], Layout())
    known = read_manifest(tmp_path / "mine")
    names = [run_name(spec) for spec in specs]
    assert known is not None and known.runs == {names[0]: [], names[1]: [], names[2]: ["budget.epochs=3"]}
    monkeypatch.setattr(sys, "orig_argv", ["python", "run_roadmap.py", "again"])
    add_runs([(specs[1], ["seed=0"])], Layout())  # asks for nothing that was not asked for
    assert read_manifest(tmp_path / "mine") == known
    assert known.commands == ["python run_roadmap.py +study=roadmap 'a b'"]
    (tmp_path / "mine" / "study.json").write_text("{", encoding="utf-8")
    with pytest.raises(SpecError, match="study.json: is no list of runs that can be read"):
        add_runs([(specs[0], [])], Layout())


def test_a_study_takes_one_network_apart(tmp_path: Path) -> None:
    def asked(design: Design, **fields: Any) -> Layout:
        words = ("study=mine", f"out={tmp_path}", f"design.name={design.value}")
        add_runs([(compose(*words, "+step=gelu"), [])], layout(design, **fields))
        known = read_manifest(tmp_path / "mine")
        assert known is not None and known.design == design.value
        return known.layout

    four, two = (layout(Design.attribution, orders=orders) for orders in (4, 2))
    assert asked(Design.attribution, orders=2) == two
    assert asked(Design.attribution, orders=4) == four
    assert asked(Design.attribution, orders=2) == four  # those of two are among them
    add_runs([(compose("study=mine", f"out={tmp_path}"), [])], Layout())  # a run beside it
    for name, fields in ((Design.attribution, {"order_seed": 1}), (Design.leave_one_out, {})):
        with pytest.raises(SpecError, match="study=mine: takes another network apart already; .* study=NAME"):
            asked(name, **fields)


def test_other_sizes() -> None:
    plain = compose("+step=increase_width").network
    wider = compose("+step=increase_width", "base.width_factor=1.5", "base.depth_factor=2").network
    assert wider.width == 1.5 * plain.width and wider.depths == [2 * blocks for blocks in plain.depths]
    with pytest.raises(SpecError, match="base.width_factor=-1"):
        compose("base.width_factor=-1")


def test_two_sizes_in_one_study_are_set_side_by_side(tmp_path: Path) -> None:
    for factor, gain in ((1, 1.0), (2, 3.0)):
        for seed in (0, 1):
            for i, step in enumerate(("training_recipe", "increase_width", "inverted_bottleneck")):
                words = (f"+step={step}", f"base.width_factor={factor}", f"seed={seed}")
                write_run(tmp_path, 80 + gain * i + 0.1 * seed, *words)
    study = read_study(tmp_path / "runs")
    assert study.table["label"].tolist()[:2] == [
        f"{x} base.width_factor=1" for x in ("enhanced recipe", "increase width")
    ]
    said = setting_sentences(study)
    assert (
        "base.width_factor=1 and base.width_factor=2: 2 of 2 gains have the same sign; none is resolved in both."
        in said
    )


def test_attribution_of_a_known_game(tmp_path: Path) -> None:
    """Where every transform adds its own worth, that is its Shapley value, in whatever order; what needs another adds
    nothing before it is there."""
    worth = {"training_recipe": 3.0, "stage_ratio": 1.0, "patchify_stem": -0.5, "depthwise_conv": 0.25}
    found = layout(Design.attribution, full="depthwise_conv", orders=4)
    specs = []
    for member in found.members:
        for seed in (0, 1):
            words = (*overrides_of(member.transforms), f"seed={seed}", "study=game")
            write_run(tmp_path, 50 + sum(worth[name] for name in member.transforms) + seed, *words)
            specs.append(compose(*words, f"out={tmp_path}", "design.name=attribution"))
    add_runs([(spec, []) for spec in specs], found)
    study = read_study(tmp_path / "game")
    table = shapley_values(study).set_index("transform")
    assert table["value"].to_dict() == pytest.approx(worth)
    assert table["low"].to_dict() == pytest.approx(worth) and table["high"].to_dict() == pytest.approx(worth)
    assert table.index.tolist() == list(worth) and (table["n_orders"] == 4).all() and (table["n_seeds"] == 2).all()
    text = write_report(tmp_path / "game", tmp_path / "told")
    assert "worth" in text and "+3.00" in text and (tmp_path / "told" / "attribution.csv").is_file()
    assert "Counted are" not in text  # nothing had to be left out

    # An order of which a network is missing says nothing, nor does its opposite.
    prefixes = [
        {frozenset(order[:k]) for order in pair for k in range(5)} for pair in (found.orders[:2], found.orders[2:])
    ]
    gone = next(iter(prefixes[0] - prefixes[1]))
    for spec in specs:
        if set(spec.transforms) == gone:
            (run_folder(spec) / "record.json").unlink()
    fewer = shapley_values(read_study(tmp_path / "game")).set_index("transform")
    assert (fewer["n_orders"] == 2).all() and fewer["value"].to_dict() == pytest.approx(worth)
    assert fewer["low"].isna().all()  # one pair of orders says nothing of others
    said = "Counted are 2 of 4 orders and 2 of 2 seeds, those of which every network is completed."
    assert said in write_report(tmp_path / "game", tmp_path / "told")
    for path in (tmp_path / "runs").glob("baseline-*/record.json"):
        path.unlink()
    text = write_report(tmp_path / "game", tmp_path)
    assert "Counted are 0 of 4 orders and 0 of 2 seeds, " in text and "flatters" not in text  # not run is not failed


def test_two_studies_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains = {"digits": [0.0, 2.0, 3.0, 2.0], "fashion_mnist": [0.0, 1.0, 3.0, 4.0]}
    for data, values in gains.items():
        specs = []
        for seed in range(8):
            for step, value in zip(step_names(), values, strict=False):
                words = (f"+step={step}", f"data={data}", f"seed={seed}", f"study={data}")
                write_run(tmp_path, 80 + value + 0.01 * seed * (1 + value), *words)
                specs.append(compose(*words, f"out={tmp_path}"))
        add_runs([(spec, [f"data={data}"]) for spec in specs], Layout())
    text = write_comparison(tmp_path / "digits", tmp_path / "fashion_mnist", tmp_path / "told")
    table = pd.read_csv(tmp_path / "told" / "compare.csv")
    assert table["step"].tolist() == ["enhanced recipe", "stage ratio", "patchify stem"]
    assert table["say"].tolist() == ["agree", "agree", "contradict"]
    assert "First and second: 2 of 3 gains have the same sign, Kendall's tau" in text
    assert "of 3 that both resolve, 2 agree" in text
    for kind in ("csv", "md", "png", "svg"):
        assert (tmp_path / "told" / f"compare.{kind}").stat().st_size > 300
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tmp_path / "runs", tmp_path / "later" / "runs")
    shutil.copytree(tmp_path / "digits", tmp_path / "later" / "digits")
    __main__.main(["digits", "later/digits"])  # of one name
    assert (tmp_path / "reports" / f"{tmp_path.name}-digits-and-later-digits" / "compare.md").is_file()
    write_run(tmp_path / "empty", 50.0, "+step=baseline")
    with pytest.raises(FileNotFoundError, match="no step is compared"):
        write_comparison(tmp_path / "digits", tmp_path / "empty" / "runs", tmp_path / "none")


def test_the_studies_that_are_shipped_are_known() -> None:
    shipped = {path.stem for path in (ROOT / "conf" / "study").glob("*.yaml")}
    listed = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {
        "roadmap",
        "leave_one_out",
        "add_one_in",
        "attribution",
        "recipe",
        "kernel_sizes",
        "widths_and_depths",
    } <= shipped
    assert all(f"`{name}`" in listed for name in shipped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "runs", "words"),
    [
        ("add_one_in", 3, ["design.full=patchify_stem"]),
        ("attribution", 6, ["design.full=patchify_stem", "design.orders=2"]),
        ("recipe", 24, []),
        ("kernel_sizes", 5, []),
        ("widths_and_depths", 16, ["base.width_factor=1,1.5"]),
    ],
)
def test_each_study_end_to_end(
    command_line: CommandLine, tmp_path: Path, study: str, runs: int, words: list[str]
) -> None:
    done = command_line(f"+study={study}", *TINY, "seed=0", "save_weights=false", *words)
    assert done.returncode == 0, done.stderr
    assert f"{study}: {runs} runs" in done.stdout
    told = f"2 orders of 3 steps (design.orders) take {runs} networks, {runs} runs"
    assert (told in done.stdout) == (study == "attribution")
    content = json.loads((tmp_path / "experiments" / study / "study.json").read_text())
    assert len(content["runs"]) == runs
    table = pd.read_csv(tmp_path / "reports" / study / "roadmap.csv")
    assert len(table) == runs and (table["status"] == "completed").all()
    compared = table["delta"].notna().sum()
    assert compared == {"attribution": 0, "recipe": runs - 2, "widths_and_depths": runs - 4}.get(study, runs - 1)
