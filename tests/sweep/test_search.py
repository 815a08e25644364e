"""+study=search: a race on held-out images, a confirmation with fresh seeds, and a roadmap that can be run."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import yaml

from roadmap.config.schema import SpecError
from roadmap.config.search_budget import read_budget
from roadmap.records.manifest import Manifest, read_manifest
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.scheduler import run_locally
from tests.conftest import TINY, CommandLine, background, until
from tests.helpers import call_main

SPACE = ("design.start=training_recipe", "design.full=depthwise_conv", "data.holdout=40", "search.confirm_seeds=2")
OPTIONS = ("+study=search", *SPACE, *TINY, "budget.allow_chance=true")
FULL = {"training_recipe", "stage_ratio", "patchify_stem", "depthwise_conv"}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def records() -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(Path("experiments/runs").glob("*/record.json"))]


def transforms_of(record: dict[str, Any]) -> frozenset[str]:
    return frozenset(info["name"] for info in record["transforms"])


def result() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("experiments/search/search.json").read_text("utf-8"))
    return content


def manifest() -> Manifest:
    found = read_manifest(Path("experiments/search"))
    assert found is not None
    return found


@pytest.fixture
def found() -> str:
    """Output of a search with a budget of 12 runs."""
    done = call_main(*OPTIONS, "search.budget=12")
    assert done.code == 0, done
    return done.out


def test_a_search_races_on_held_out_images_and_confirms_on_the_test_set(found: str) -> None:
    raced = [record for record in records() if record["config"]["data"]["holdout"] == 40]
    confirmed = [record for record in records() if record["config"]["data"]["holdout"] is None]
    assert len(raced) <= 12 and all(record["num_test"] == 40 and record["seed"] < 100 for record in raced)
    assert {record["seed"] for record in confirmed} == {100, 101}
    assert {record["num_test"] for record in confirmed} == {64}  # of the test set, as budget=smoke says
    assert {transforms_of(record) for record in raced} >= {frozenset({"training_recipe"}), frozenset(FULL)}
    table = pd.read_csv("reports/search/candidates.csv")
    assert set(table["transforms"]) == {" ".join(line["transforms"]) for line in result()["candidates"]}
    assert table["seeds"].sum() == len(raced) and table["in_race"][0] and table["on_front"].any()
    winner = frozenset(result()["candidates"][0]["transforms"])
    rows = pd.read_csv("reports/search/roadmap.csv")
    assert "found network" in set(rows["label"]) and set(rows["n_seeds"]) == {2}
    names = {frozenset(member.transforms) for member in manifest().layout.members}
    assert names >= {winner, frozenset({"training_recipe"}), frozenset(FULL)}
    possible = {frozenset(network) for network in result()["changes"].values() if network is not None}
    assert possible <= names <= {transforms_of(record) for record in confirmed}
    assert set(result()["changes"]) == FULL - {"training_recipe"}
    for sentence in ("On digits at this budget: ", "Found network: ", "Front of estimated held-out top-1"):
        assert sentence in found and sentence in Path("reports/search/roadmap.md").read_text("utf-8")
    assert all(Path(f"reports/search/{name}").exists() for name in ("front.png", "front.svg", "index.html"))


def test_a_finished_search_trains_nothing_and_rebuilds_the_same_files(found: str) -> None:
    files = {path: path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in Path("experiments/runs").rglob("record.json")}
    for arguments in ((*OPTIONS, "search.budget=12"), ("report", "experiments/search", "--to", "reports/search")):
        again = call_main(*arguments)
        assert again.code == 0 and "top-1" in again.out, again
        assert {path: path.stat().st_mtime_ns for path in Path("experiments/runs").rglob("record.json")} == times
        assert {path: path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()} == files


def test_a_larger_budget_uses_the_runs_that_are_finished(found: str) -> None:
    before = {path.parent.name for path in Path("experiments/runs").glob("*/record.json")}
    more = call_main(*OPTIONS, "search.budget=16")
    assert more.code == 0 and "16 of 16 runs" in more.out, more
    after = {path.parent.name for path in Path("experiments/runs").glob("*/record.json")}
    assert before < after
    runs = manifest().runs
    members = manifest().layout.members
    assert len(runs) == 2 * len(members)  # of the last confirmation only


def test_the_found_roadmap_can_be_run(found: str, command_line: CommandLine) -> None:
    content = yaml.safe_load(Path("reports/search/conf/roadmap/found.yaml").read_text("utf-8"))
    assert content["title"] == "Found on digits" and content["steps"][:2] == [{"baseline": []}, "training_recipe"]
    names = [
        name for step in content["steps"] for name in ([step] if isinstance(step, str) else next(iter(step.values())))
    ]
    assert set(names) == set(result()["candidates"][0]["transforms"])
    command = shlex.split(result()["command"])
    done = command_line(*command[2:], "plan=true")
    assert done.returncode == 0, done
    lines = [line for line in done.stdout.splitlines() if line.lstrip().startswith("to do")]
    assert len(lines) == 3 * len(content["steps"])  # of the study's seeds 0, 1 and 2


def test_a_plan_trains_and_writes_nothing() -> None:
    done = call_main(*OPTIONS, "search.budget=12", "plan=true")
    assert done.code == 0 and "race: 12 runs on 40 held-out training images" in done.out, done
    assert "confirmation: at most 18 runs on the test set" in done.out and "time: race about " in done.out
    assert not Path("experiments").exists() and not Path("reports").exists()


def test_a_budget_is_a_number_of_runs_or_a_time() -> None:
    assert [read_budget(value) for value in (7, "90s", "1.5 min", "2h")] == [7, 90.0, 90.0, 7200.0]
    assert isinstance(read_budget(7), int) and isinstance(read_budget("7s"), float)
    for value in (0, -1, True, 10**9, "9" * 400 + "h", "0h", "fast", "10", "1d", 1.5):
        with pytest.raises(SpecError, match=r"search\.budget=.*such as 90s, 30min or 2h"):
            read_budget(value)


def test_a_budget_of_time_becomes_a_number_of_runs() -> None:
    done = call_main(*OPTIONS, "search.budget=3s", "parallel=2")
    assert done.code == 0 and "search.budget: " in done.out and " runs of about " in done.out, done
    assert result()["num_runs"] >= 2


def test_a_bound_on_the_cost_leaves_out_what_costs_more() -> None:
    done = call_main(*OPTIONS, "search.budget=10", "design.full=increase_width")
    assert done.code == 0, done
    dearest = max(line["mmacs"] for line in result()["candidates"])
    ends = [line["mmacs"] for line in result()["candidates"] if set(line["transforms"]) == {"training_recipe"}]
    bounded = call_main(
        *OPTIONS, "study=cheap", "search.budget=10", "design.full=increase_width", f"search.max_macs={ends[0]}e6"
    )
    assert bounded.code == 0, bounded
    content = json.loads(Path("experiments/cheap/search.json").read_text("utf-8"))
    assert max(line["mmacs"] for line in content["candidates"]) <= ends[0] + 1e-9 < dearest


def test_a_budget_of_time_needs_no_run_of_a_last_step_that_is_above_the_bound() -> None:
    done = call_main(*OPTIONS, "search.budget=3s", "parallel=2", "design.full=increase_width", "search.max_macs=120000")
    assert done.code == 0, done
    raced = [record for record in records() if record["config"]["data"]["holdout"] == 40]
    assert raced and all(record["gmacs"] * 1e9 <= 120_000 for record in raced)


def test_networks_that_are_slower_than_the_bound_have_no_result() -> None:
    done = call_main(*OPTIONS, "search.budget=8", "search.min_images_per_second=1e9")
    assert done.code == 1 and "slower than search.min_images_per_second" in done.err, done
    assert not [record for record in records() if record["config"]["data"]["holdout"] is None]


def test_a_bound_below_both_ends_leaves_cheaper_networks() -> None:
    done = call_main(*OPTIONS, "search.budget=3s", "parallel=2", "design.full=increase_width", "search.max_macs=100000")
    assert done.code == 0, done
    raced = {transforms_of(record) for record in records() if record["config"]["data"]["holdout"] == 40}
    assert raced and not raced & {frozenset({"training_recipe"}), frozenset({*FULL, "increase_width"})}
    assert "Gain over the start of the search with fresh seeds on the test set: " in done.out


def test_a_damaged_result_is_named(found: str) -> None:
    Path("experiments/search/search.json").write_text("{}", "utf-8")
    done = call_main("report", "experiments/search", "--to", "damaged")
    assert done.code == 0 and "On digits at this budget" not in done.out, done
    assert "search.json: cannot be used; the command of the search writes it again" in done.out
    assert Path("damaged/roadmap.csv").exists() and not Path("damaged/candidates.csv").exists()


def test_the_confirmation_is_on_the_test_set_also_if_a_file_holds_images_out(
    tmp_path: Path, command_line: CommandLine
) -> None:
    preset = tmp_path / "conf" / "preset" / "held.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text("# @package _global_\ndata: {holdout: 30}\nsearch: {budget: 8}\n", "utf-8")
    options = [option for option in OPTIONS if not option.startswith("data.holdout")]
    done = command_line("--config-dir=conf", "+preset=held", *options)
    assert done.returncode == 0 and "on 30 held-out training images" in done.stdout, done
    held = {record["seed"] >= 100: record["config"]["data"]["holdout"] for record in records()}
    assert held == {False: 30, True: None}
    assert (
        "--config-dir=reports/search/conf" in result()["command"] and "hydra.searchpath=[conf]" in result()["command"]
    )
    count = len(records())
    steps = command_line(*shlex.split(result()["command"])[2:], "seed=0")
    assert steps.returncode == 0 and len(records()) > count, steps
    trained = [record for record in records() if record["study"] == "search-found-steps"]
    assert trained and all(record["config"]["data"]["holdout"] is None for record in trained)


def test_a_search_with_other_settings_does_not_replace_the_result(found: str) -> None:
    before = Path("experiments/search/search.json").read_bytes()
    other_ends = ("design.start=stage_ratio", "design.full=gelu")
    for change in ("base=pico", "data.holdout=30", "budget.train_images=100", *other_ends):
        done = call_main(*OPTIONS, "search.budget=12", change)
        assert done.code == 2 and "study=search: has a search with other settings (data, base, budget" in done.err, done
    assert Path("experiments/search/search.json").read_bytes() == before


def test_only_the_confirmation_of_a_search_has_verdicts(found: str) -> None:
    designs = {name: read_manifest(Path(f"experiments/{name}")) for name in ("search", "search-found", "search-race")}
    assert [manifest and manifest.design for manifest in designs.values()] == ["search", "search_found", "search_race"]
    assert call_main("report", "experiments/search-race", "--to", "race").code == 0
    notes = {"reports/search-found": "the claims of the search, which are", "race": "A race gives more seeds"}
    for folder, note in notes.items():
        table = pd.read_csv(f"{folder}/roadmap.csv")
        assert set(table["verdict"].dropna()) <= {"descriptive"} and table["delta"].notna().any()
        assert table["p"].isna().all() and note in Path(f"{folder}/roadmap.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["search", "search-found"])
def test_a_study_that_is_no_search_is_not_replaced(name: str) -> None:
    assert call_main("+study=leave_one_out", f"study={name}", *TINY, "design.full=stage_ratio", "seed=0").code in (0, 1)
    before = Path(f"experiments/{name}/study.json").read_bytes()
    done = call_main(*OPTIONS, "search.budget=8")
    assert done.code == 2 and f"study={name}: exists and is not of a search" in done.err, done
    assert Path(f"experiments/{name}/study.json").read_bytes() == before


def test_a_stopped_search_continues_with_its_finished_runs() -> None:
    process = background(*OPTIONS, "search.budget=20", "search.confirm_seeds=4")
    until(lambda: len(list(Path("experiments/runs").glob("*/record.json"))) >= 6)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75 and "Traceback" not in out + err, (out, err)
    finished = {path: path.stat().st_mtime_ns for path in Path("experiments/runs").glob("*/record.json")}
    again = call_main(*OPTIONS, "search.budget=20", "search.confirm_seeds=4")
    assert again.code == 0 and {path: path.stat().st_mtime_ns for path in finished} == finished, again


def test_a_network_that_always_fails_leaves_the_race_and_the_same_command_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train_others(runs: Sequence[PlannedRun]) -> dict[Path, str]:
        others = [run for run in runs if "patchify_stem" not in run.title]
        return run_locally(others) if others else {}

    monkeypatch.setattr("roadmap.sweep.search_candidates.run_locally", train_others)
    for _ in range(2):  # the second time only the runs that fail are left
        done = call_main(*OPTIONS, "search.budget=12")
        assert done.code == 0, done
        failed = {tuple(line["transforms"]) for line in result()["candidates"] if line["failed"]}
        assert not failed and result()["num_runs"] == 12
        assert not any("patchify_stem" in line["transforms"][-1:] for line in result()["candidates"])


def test_failures_stop_ends_the_race_and_names_the_run() -> None:
    options = [option for option in OPTIONS if option != "budget.allow_chance=true"]
    done = call_main(*options, "search.budget=8", "failures=stop", "recipe.lr=1e6", "budget.lr_multiplier.adamw=1")
    assert done.code == 1 and "runs did not complete:" in done.err and "diverged" in done.err, done
    assert "not started" in done.err and not [record for record in records() if record["seed"] >= 100]


def test_a_round_in_which_all_runs_fail_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadmap.sweep.search_candidates.run_locally", Mock(return_value={}))
    done = call_main(*OPTIONS, "search.budget=8")
    assert done.code == 1 and "search-race: training_recipe seed=0" in done.err, done
    assert "failed; their logs say why, and the same command trains them again" in done.err
