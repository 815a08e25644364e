"""The search of +study=tune: on held-out images, resumable, with the best values for later runs."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pandas as pd
import pytest

from roadmap.analysis.table import read_study
from roadmap.config.compose import compose
from roadmap.config.schema import SpecError
from roadmap.config.search_space import dimensions_of
from roadmap.config.tuned import read_best
from roadmap.records.history import HISTORY_FIELDS
from roadmap.records.record import config_hash
from roadmap.sweep.tuning import _end, _Trial
from tests.conftest import ROOT, TINY, background, until
from tests.helpers import call_main
from tests.sweep.sabotage import KILLS_ONE_RUN

SPACE = ("+tune.space.recipe.lr={factor:[0.5,5]}", "+tune.space.recipe.label_smoothing=[0.0,0.1]")
OPTIONS = ("+study=tune", *SPACE, *TINY, "budget.epochs=2", "budget.allow_chance=true", "data.holdout=40")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def records() -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(Path("experiments/runs").glob("*/record.json"))]


def test_a_search_finds_the_best_trial_on_held_out_images() -> None:
    done = call_main(*OPTIONS, "step=gelu", "tune.trials=5", "tune.pruner=none")
    assert done.code == 0 and "tune: 5 trials of gelu, on 40 held-out images" in done.out, done
    found = records()
    assert 4 <= len(found) <= 5  # two trials may have the same values
    assert all(record["num_test"] == 40 and record["config"]["data"]["holdout"] == 40 for record in found)
    rates = [record["config"]["recipe"]["lr"] for record in found]
    assert len(set(rates)) > 2 and all(0.002 <= rate <= 0.02 for rate in rates)  # 0.5 to 5 times 0.004
    best = max(found, key=lambda record: record["top1"])
    stored = json.loads(Path("reports/tune/best.json").read_text("utf-8"))
    assert (
        max(record["top1"] for record in found if record["config"]["recipe"]["lr"] == stored["gelu"]["recipe.lr"])
        == best["top1"]
    )
    trials = pd.read_csv("reports/tune/trials.csv")
    assert trials["top1"].max() == pytest.approx(best["top1"]) and set(trials["state"]) == {"complete"}
    (line,) = [line for line in done.out.splitlines() if "best held-out top-1" in line]
    command = shlex.split(line.split(": ", 1)[1])
    assert command[:2] == ["python", "run_roadmap.py"] and "data.holdout" not in line and "tune" not in line
    spec = compose(*command[2:])
    assert spec.recipe.lr == stored["gelu"]["recipe.lr"] and spec.data.holdout is None
    again = call_main(*OPTIONS, "+step=gelu", "tune.trials=5", "tune.pruner=none")
    assert again.code == 0 and "trial" not in again.out.replace("trials", "") and len(records()) == len(found)
    more = call_main(*OPTIONS, "+step=gelu", "tune.trials=7", "tune.pruner=none")
    assert more.code == 0 and "gelu: 7 complete" in more.out and len(records()) > len(found)


def test_each_step_gets_its_own_best_values_in_a_later_study() -> None:
    done = call_main(*OPTIONS, "+step=baseline,gelu", "tune.trials=2", "tune.sampler=random")
    assert done.code == 0 and "tune: 2 trials of 2 networks" in done.out, done
    best = json.loads(Path("reports/tune/best.json").read_text("utf-8"))
    assert best.keys() == {"baseline", "gelu"}
    sweep = ("-m", "+step=baseline,stage_ratio,gelu", *TINY, "budget.allow_chance=true", "study=later", "seed=0,1")
    assert call_main(*sweep, "tuned=reports/tune/best.json").code == 0
    table = read_study(Path("experiments/later"))
    assert table.table["step"].tolist() == ["baseline", "stage_ratio", "gelu"]
    assert table.against == [None, 0, 1]  # rows with other values are compared with each other
    rates = {row.name: row.records[0]["config"]["recipe"]["lr"] for row in table.rows}
    assert rates == {"baseline": best["baseline"]["recipe.lr"], "stage_ratio": 0.004, "gelu": best["gelu"]["recipe.lr"]}
    assert all("tuned=reports/tune/best.json" in record["command"] for record in table.records)
    assert call_main("-m", "+step=baseline,gelu", *sweep[2:]).code == 0  # the same networks with the recipe's values
    rows = read_study(Path("experiments/later")).rows
    assert [row.setting for row in rows] == ["", "", *["tuned=best.json"] * 3]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_trials_of_a_stopped_command_are_resumed_and_not_repeated(sign: signal.Signals) -> None:
    options = ["+study=tune", *SPACE, "budget.epochs=40", "budget.evaluations=2", "data.holdout=300", "+step=gelu"]
    options += ["tune.trials=4", "tune.pruner=none", "checkpoint_steps=20", "budget.allow_chance=true"]
    process = background(*options)
    runs = Path("experiments/runs")
    until(lambda: len(list(runs.glob("*/checkpoint.pt"))) == 2)
    process.send_signal(sign)
    process.communicate(timeout=100)
    before = {path.parent.name for path in runs.glob("*/history.csv")}
    done = background(*options)
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, out + err
    assert "gelu: 4 complete" in out and out.count("resuming from checkpoint") == 2
    assert before <= {path.parent.name for path in runs.glob("*/record.json")} and len(records()) <= 4


@pytest.mark.slow
@pytest.mark.faults
def test_a_trial_whose_process_was_killed_is_resumed_by_the_same_command(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(KILLS_ONE_RUN)
    options = [*OPTIONS, "+step=gelu", "tune.trials=3", "tune.pruner=none", "checkpoint_steps=2"]
    first = background(*options, PYTHONPATH=f"{tmp_path}:{ROOT}")
    out, err = first.communicate(timeout=300)
    assert first.returncode == 1 and "killed by SIGKILL" in out and "gelu: 2 complete, 1 unfinished" in out, out + err
    before = {path: path.stat().st_mtime_ns for path in Path("experiments/runs").glob("*/record.json")}
    again = background(*options)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0 and "gelu: 3 complete" in out, out + err
    assert out.count("resuming from checkpoint") == 1
    changed = [path for path, when in before.items() if path.stat().st_mtime_ns != when]
    assert len(changed) == 1 and len(records()) == len(before)
    assert all(record["status"] == "completed" for record in records())


def test_a_run_below_the_median_is_pruned_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=3))
    for _ in range(4):
        trial = study.ask()
        for epoch, top1 in ((1, 50.0), (2, 60.0), (3, 70.0)):
            trial.report(top1, epoch)
        study.tell(trial, 70.0)
    (tmp_path / "history.csv").write_text(f"{','.join(HISTORY_FIELDS)}\n1,0.1,2.0,60.0,1.0,5.0\n")
    (tmp_path / "checkpoint.pt").touch()
    process = Mock(folder=tmp_path, has_new_record=False, run=Mock(setting=("recipe.lr=0.1",)))
    entry = _Trial(Mock(study=study), study.ask(), process)
    entry.report()
    assert not entry.is_pruned and entry.num_reported == 1
    with (tmp_path / "history.csv").open("a") as file:
        file.write("2,0.1,2.0,,,6.0\n3,0.1,2.0,10.0,1.0,7.0\n")
    entry.report()
    assert entry.is_pruned and process.terminate.call_count == 1
    entry.report()
    assert process.terminate.call_count == 1
    _end(entry)
    assert study.trials[-1].state is optuna.trial.TrialState.PRUNED and not (tmp_path / "checkpoint.pt").exists()


def test_a_plan_starts_nothing() -> None:
    done = call_main(*OPTIONS, "+step=gelu", "plan=true", "plan_device=none")
    assert done.code == 0 and "tune.trials=20: each network is trained up to 20 times" in done.out
    assert not Path("experiments").exists()


def test_fields_of_the_search_are_not_part_of_the_hash() -> None:
    specs = [compose("+step=gelu", *more) for more in ((), ("tune.trials=3", "+tune.space.recipe.lr=[0.1,0.2]"))]
    assert config_hash(specs[0]) == config_hash(specs[1])


@pytest.mark.parametrize(("space", "message"), [
    ({"recipe": {"rate": [1]}}, "tune.space.recipe.rate: .*unknown"),
    ({"seed": [1, 2]}, "tune.space.seed: does not change the training"),
    ({"recipe": {"lr": {"low": 1}}}, "must have two numbers, the smaller one first"),
    ({"recipe": {"lr": {"low": 2, "high": 1}}}, "must have two numbers, the smaller one first"),
    ({"recipe": {"lr": {"low": 0, "high": 1, "log": True}}}, "a log scale needs positive numbers"),
    ({"recipe": {"lr": {"low": 0, "hi": 1}}}, "must be a list of values, {low: 0, high: 1, log: false}, or"),
    ({"recipe": {"lr": []}}, "must be a list of values"),
    ({"recipe": {"optimizer": {"low": 0, "high": 1}}}, "must have two numbers"),
])  # fmt: skip
def test_an_impossible_space_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        dimensions_of(space)


def test_dimensions_have_the_type_of_their_field() -> None:
    spec = compose("+step=gelu")
    trial = optuna.create_study().ask()
    space = {
        "budget.batch_size": {"low": 16, "high": 64},
        "budget.epochs": {"low": 1, "high": 9},
        "network.kernel_size": [3, 5],
    }
    values = {dimension.field: dimension.value_of(trial, spec) for dimension in dimensions_of(space)}
    assert isinstance(values["budget.batch_size"], int) and isinstance(values["budget.epochs"], float)
    assert values["network.kernel_size"] in (3, 5)
    with pytest.raises(SpecError, match="budget.train_images: a factor needs a positive value"):
        dimensions_of({"budget": {"train_images": {"factor": [0.5, 1]}}})[0].value_of(trial, spec)


def bad_best(content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "best.json").write_text(content)
        return folder / "best.json"

    return write


@pytest.mark.parametrize(("write", "message"), [
    (Path, "Is a directory"),
    (bad_best("{"), "is not valid JSON"), (bad_best("[1]"), "must map each step to its fields"),
    (bad_best('{"gelu": {"recipe.lr": [1]}}'), "must map each step to its fields"),
])  # fmt: skip
def test_an_unusable_file_of_best_values_is_refused(
    write: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=f"^tuned=.*{message}.*; give the best.json of a search$"):
        read_best(str(write(tmp_path)))


def test_bad_commands_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in (
        (("+step=gelu", "seed=0,1"), "seed: a trial has one seed; give one"),
        (("+step=gelu", "recipe.lr=0.1"), "recipe.lr: is in tune.space and set by the command; leave one of them out"),
        (
            ("design.name=leave_one_out",),
            "design.name: a search takes its networks from +step=...; leave the design out",
        ),
        (("+step=gelu", "tune.trials=0"), "tune.trials=0: must be positive, or null for no search"),
        (("+step=gelu", "tune.seed=-1"), "tune.seed=-1: must not be negative"),
        (("+step=gelu", "+tune.space.recipe.drop_path={factor:[0.5,2]}"), "a factor needs a positive value"),
        (("+step=gelu", "+tune.space.recipe.mixup=[0.1,-5.0]"), "recipe.mixup=-5.0: must not be negative"),
        (("+step=gelu", "plan=true", "plan_device=foo"), "plan_device=foo"),
        (("+step=gelu", "logger=mlflow"), "logger: has no effect on a search; leave it out"),
        (
            ("+step=gelu", "data=folder", "data.root=.", "data.holdout=null"),
            "data.holdout=null: a search needs held-out",
        ),
        (("+step=gelu", "hydra/launcher=submitit_local"), "hydra/launcher: a search trains on this machine"),
    ):
        given = {argument.split("=")[0] for argument in arguments}
        options = [
            o for o in OPTIONS if o.split("=")[0] not in given and not ("null" in str(arguments) and "+tune" in o)
        ]
        refused = call_main(*options, *arguments)
        assert refused.code == 2 and message in refused.err and refused.err.count("\n") == 1, refused
    assert not Path("experiments").exists()
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused = call_main(*OPTIONS, "+step=gelu")
    assert refused.code == 2 and "+study=tune: needs optuna; pip install 'roadmap[tune]'" in refused.err


def test_another_space_or_setting_is_another_search() -> None:
    assert call_main(*OPTIONS, "+step=baseline", "tune.trials=2").code == 0
    num_before = len(records())
    without_space = [option for option in OPTIONS if option not in SPACE]
    for options in ([*without_space, "+tune.space.recipe.lr={factor:[0.1,2]}"], [*OPTIONS, "budget.train_images=64"]):
        done = call_main(*options, "+step=baseline", "tune.trials=1")
        assert done.code == 0 and "baseline: 1 complete" in done.out, done
        assert len(records()) == num_before + 1
        num_before += 1


def test_the_command_of_a_trial_repeats_it_and_other_steps_keep_their_best_values() -> None:
    choices = ("+tune.space.recipe.norm_batch_size=[null,32]",)
    options = [option for option in OPTIONS if option not in SPACE]
    for step in ("baseline", "gelu"):
        assert call_main(*options, *choices, f"+step={step}", "tune.trials=2", "tune.sampler=random").code == 0
    assert json.loads(Path("reports/tune/best.json").read_text("utf-8")).keys() == {"baseline", "gelu"}
    assert set(pd.read_csv("reports/tune/trials.csv")["step"]) == {"baseline", "gelu"}
    found = records()
    command = shlex.split(found[0]["command"])
    again = call_main(*command[2:])
    assert again.code == 0 and "already finished" in again.out and len(records()) == len(found), again


def test_a_diverged_trial_is_never_the_best() -> None:
    options = [
        "+study=tune",
        *TINY,
        "data.holdout=300",
        "budget.allow_chance=false",
        "recipe.min_lr=0",
        "+tune.space.recipe.lr=[1e-9,2e-9]",
    ]
    done = call_main(*options, "+step=gelu", "tune.trials=2")
    assert {record["status"] for record in records()} == {"diverged"}
    assert done.code == 1 and "gelu: 2 diverged" in done.out and "gelu: no trial completed" in done.err
    assert json.loads(Path("reports/tune/best.json").read_text("utf-8")) == {}


def test_a_single_run_takes_the_best_values_of_its_step() -> None:
    Path("best.json").write_text('{"gelu": {"recipe.lr": 0.007, "recipe.norm_batch_size": null}}')
    options = (*TINY, "budget.allow_chance=true", "tuned=best.json")
    assert call_main("+step=gelu", *options).code == 0
    (record,) = records()
    assert record["config"]["recipe"]["lr"] == 0.007 and record["config"]["recipe"]["norm_batch_size"] is None
    again = call_main(*shlex.split(record["command"])[2:])
    assert again.code == 0 and "already finished" in again.out
    assert call_main("+step=gelu", *options, "recipe.lr=0.001").code == 0  # what the command says wins
    assert sorted(record["config"]["recipe"]["lr"] for record in records()) == [0.001, 0.007]
    for arguments in (("+step=grn",), ("-m", "+step=grn,layer_norm"), ("+transform=[gelu]",)):
        refused = call_main(*arguments, *options)
        assert (
            refused.code == 2 and "tuned=best.json: has no values of " in refused.err and "only of gelu" in refused.err
        )
    refused = call_main("+step=gelu", *TINY, "tune.trials=3")
    assert refused.code == 2 and "tune.trials=3: needs a search, as +study=tune" in refused.err
