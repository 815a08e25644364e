"""The subcommand `roadmap runs`: statuses, filters, comparison, logs and removal of made-up runs."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from roadmap.commands import run_removal
from roadmap.config.schema import RunSpec
from roadmap.records.record import run_folder
from roadmap.runtime import lock
from tests.commands.experiments import make_experiments, write_progress
from tests.helpers import call_main, make_spec, write_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, RunSpec]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return make_experiments(Path("experiments"))


def listed(*arguments: str) -> list[dict[str, Any]]:
    result = call_main("runs", *arguments, "--json")
    assert result.code == 0, result.err
    found: list[dict[str, Any]] = json.loads(result.out)
    return found


def name_of(spec: RunSpec) -> str:
    return run_folder(spec).name


def test_every_status_is_recognized(runs: dict[str, RunSpec]) -> None:
    found = {run["run"]: run for run in listed("mine")}
    assert {status: found[name_of(spec)]["status"] for status, spec in runs.items() if status != "orphaned"} == {
        status: status for status in runs if status != "orphaned"
    }
    assert found[name_of(runs["running"])]["top1"] == 45.5
    assert found[name_of(runs["completed"])]["top1"] == 91.25
    assert found[name_of(runs["waiting"])]["size_bytes"] == 0
    assert found[name_of(runs["failed"])]["problem"] == "MemoryError: too [red] large"


def test_a_study_is_given_by_name_or_folder_and_without_one_all_runs_are_listed(runs: dict[str, RunSpec]) -> None:
    assert [run["run"] for run in listed("mine")] == [run["run"] for run in listed("experiments/mine")]
    everything = {run["run"]: run["orphaned"] for run in listed()}
    assert len(everything) == 7
    assert [name for name, orphaned in everything.items() if orphaned] == [name_of(runs["orphaned"])]


def test_a_locked_run_is_running_whatever_its_files_say(runs: dict[str, RunSpec]) -> None:
    with lock.hold(run_folder(runs["failed"])), lock.hold(run_folder(runs["interrupted"])):
        found = {run["run"]: run["status"] for run in listed("mine")}
    assert found[name_of(runs["failed"])] == found[name_of(runs["interrupted"])] == "running"


def test_a_run_killed_on_this_machine_is_interrupted_at_once(
    runs: dict[str, RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "else")  # the host in the progress.json, which is a second old
    found = {run["run"]: run["status"] for run in listed("mine")}
    assert found[name_of(runs["running"])] == "interrupted"


def test_listing_writes_nothing(runs: dict[str, RunSpec]) -> None:
    before = sorted((str(path), path.stat().st_mtime_ns) for path in Path("experiments").rglob("*"))
    call_main("runs")
    call_main("runs", "mine", "--wide")
    assert before == sorted((str(path), path.stat().st_mtime_ns) for path in Path("experiments").rglob("*"))


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_no_line_of_the_table_is_longer_than_the_terminal(
    runs: dict[str, RunSpec], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    long = write_run(Path("experiments"), 50.0, "+step=separate_downsampling", "seed=123456")
    record = run_folder(long) / "record.json"
    content = json.loads(record.read_text()) | {"name": "名前" * 40}  # characters that are two columns wide
    record.write_text(json.dumps(content))
    out = call_main("runs").out
    table = out.partition("not shown")[0].partition("\n\n")[0]
    assert all(len(line.rstrip()) + line.count("名") + line.count("前") <= columns for line in table.splitlines())
    assert ("not shown" in out) == (columns < 200)


def test_at_80_columns_the_table_has_the_main_columns_and_names_the_others(runs: dict[str, RunSpec]) -> None:
    out = call_main("runs", "mine").out
    assert out.split("\n")[0].split()[:6] == ["status", "step", "seed", "top-1", "size", "age"]
    assert "--wide shows all columns" in out
    assert "note" not in out.split("\n")[0]
    assert "MemoryError: too [red] large" in call_main("runs", "mine", "--wide").out
    assert re.search(r"6 runs: 1 completed, 1 diverged, 1 failed, 1 interrupted, 1 waiting, 1 running; ", out)


def test_filters(runs: dict[str, RunSpec]) -> None:
    def names(*arguments: str) -> set[str]:
        return {run["run"] for run in listed(*arguments)}

    assert names("--status", "failed,diverged") == {name_of(runs["failed"]), name_of(runs["diverged"])}
    assert names("--step", "gel*") == {name_of(runs["diverged"]), name_of(runs["interrupted"])}
    assert names("--seed", "7") == names("--orphaned") == {name_of(runs["orphaned"])}
    old = run_folder(runs["completed"])
    for path in old.iterdir():
        os.utime(path, (time.time() - 8 * 86400,) * 2)
    assert names("--older", "7d") == {old.name}
    assert names("--older", "7d", "--step", "grn") == set()
    assert "no run matches" in call_main("runs", "--seed", "99").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--status", "broken"], "--status=broken: 'broken' is unknown; use running, waiting"),
        (["--seed", "one"], "--seed=one: must be numbers"),
        (["--older", "7 years"], "--older=7 years: must be a number with s, min, h, d or w"),
        (["nope"], "nope: no such study in experiments; existing studies: mine"),
        (["--out", "nope"], "--out=nope: no such folder"),
        (["--log", "nope"], "nope: no such run"),
        (["--compare", "baseline", "gelu"], "baseline: matches 3 runs"),
        (["--remove"], "--remove: which runs?"),
        (["x" * 300], "no such study"),
        (["a\0b"], "no such study"),
    ],
)
def test_invalid_arguments_give_a_one_line_error(runs: dict[str, RunSpec], arguments: list[str], message: str) -> None:
    result = call_main("runs", *arguments)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert not result.out


def test_comparison_shows_the_fields_that_differ_and_the_results(runs: dict[str, RunSpec]) -> None:
    other = write_run(Path("experiments"), 81.5, "+step=baseline", "budget.epochs=3", "seed=7")
    out = call_main("runs", "--compare", name_of(runs["orphaned"]), str(run_folder(other))).out
    fields, results = out.split("\n\n")[1:3]
    assert [line.split()[0] for line in fields.splitlines()[2:]] == ["budget.epochs"]
    assert re.search(r"top-1 \(%\) +80 +81.5 +\+1.5", results)
    result = call_main("runs", "--compare", name_of(runs["orphaned"]), name_of(runs["running"]))
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "has no record yet" in result.err


def test_log_shows_path_and_end_without_control_characters(runs: dict[str, RunSpec]) -> None:
    folder = run_folder(runs["running"])
    hash_and_seed = folder.name.removeprefix("baseline-")
    out = call_main("runs", "--log", hash_and_seed[:6] + "-seed1").out
    assert out.splitlines()[0] == str(folder / "log.txt")
    assert "last line" in out
    assert "\x1b" not in out
    assert call_main("runs", "--log", name_of(runs["completed"])).code == 2


def test_removal_needs_an_answer_or_yes(runs: dict[str, RunSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(runs["failed"])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    result = call_main("runs", "--status", "failed", "--remove")
    assert (result.code, folder.exists()) == (2, True)
    assert "add --yes" in result.err
    assert str(folder) in result.out
    for answer, is_there in (("", True), ("no", True), ("y", False)):
        stdin = io.StringIO(answer + "\n" if answer else "")
        monkeypatch.setattr(stdin, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", stdin)
        result = call_main("runs", "--status", "failed", "--remove")
        assert (result.code, folder.exists()) == (0, is_there)


def test_only_the_selected_runs_are_removed_and_the_study_keeps_their_names(runs: dict[str, RunSpec]) -> None:
    before = {path.name for path in Path("experiments/runs").iterdir()}
    manifest = Path("experiments/mine/study.json").read_text()
    named = name_of(runs["diverged"])
    assert call_main("runs", "--remove", named, named, "--yes").out.endswith("KiB\n")
    assert call_main("runs", "--orphaned", "--remove", "--yes").code == 0
    assert before - {path.name for path in Path("experiments/runs").iterdir()} == {named, name_of(runs["orphaned"])}
    assert Path("experiments/mine/study.json").read_text() == manifest
    assert {run["status"] for run in listed("mine") if run["run"] == named} == {"waiting"}


def test_a_run_that_trains_is_never_removed(runs: dict[str, RunSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [run_folder(runs[status]) for status in ("running", "interrupted", "completed")]
    with lock.hold(folders[1]), lock.hold(folders[2]):
        result = call_main("runs", "--remove", *(folder.name for folder in folders), "--yes")
    assert result.code == 1  # a record shows that the third is finished, but its lock is held
    assert "removed 0 of 1 runs" in result.out
    assert all((folder / "log.txt").exists() for folder in folders[:2])
    assert (folders[2] / "record.json").exists()


def test_an_interrupted_run_of_no_study_is_not_orphaned(runs: dict[str, RunSpec]) -> None:
    single = make_spec(Path("experiments"), "+step=gelu", "seed=8")
    write_progress(single, updated=0.0)
    assert {run["run"]: run["status"] for run in listed()}[name_of(single)] == "interrupted"
    assert name_of(single) not in {run["run"] for run in listed("--orphaned")}


def test_links_are_not_followed(runs: dict[str, RunSpec], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(run_folder(runs["orphaned"]), outside / "kept")
    linked = Path("experiments/runs") / name_of(runs["orphaned"]).replace("seed7", "seed9")
    linked.symlink_to(outside / "kept", target_is_directory=True)
    (run_folder(runs["orphaned"]) / "link").symlink_to(outside, target_is_directory=True)
    assert linked.name not in {run["run"] for run in listed()}
    assert call_main("runs", "--remove", linked.name, "--yes").code == 2
    assert call_main("runs", "--orphaned", "--remove", "--yes").code == 0
    assert not run_folder(runs["orphaned"]).exists()
    assert (outside / "kept" / "record.json").exists() and linked.is_symlink()
    assert not run_removal.remove_run(Path("experiments/runs"), linked)
    assert not run_removal.remove_run(Path("experiments/runs"), Path("experiments/mine"))


def test_the_next_removal_deletes_the_leftovers_of_a_stopped_one(
    runs: dict[str, RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("roadmap.commands.run_removal.shutil.rmtree", stop)
        assert call_main("runs", "--status", "diverged", "--remove", "--yes").code == 75
    assert len(listed("mine", "--status", "waiting")) == 2
    assert call_main("runs", "--status", "failed", "--remove", "--yes").code == 0
    assert not list(Path("experiments/runs").glob(".removed*"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 3}', b"\xff\xfe"])
def test_a_damaged_record_is_listed_as_damaged(runs: dict[str, RunSpec], content: bytes) -> None:
    folder = run_folder(runs["completed"])
    (folder / "record.json").write_bytes(content)
    (run_folder(runs["running"]) / "progress.json").write_bytes(content)
    (run_folder(runs["interrupted"]) / "history.csv").write_bytes(content)
    result = call_main("runs", "mine")
    assert result.code == 0
    assert f"damaged: {folder}: record.json" in result.out
    assert [run["run"] for run in listed("--status", "damaged")] == [folder.name]


def test_a_damaged_study_list_is_noted_and_no_run_counts_as_orphaned(runs: dict[str, RunSpec]) -> None:
    Path("experiments/mine/study.json").write_text("{")
    result = call_main("runs", "mine")
    assert result.code == 0
    assert "note: experiments/mine/study.json: invalid study file" in result.out
    assert "3 runs: " in result.out  # those whose record names the study
    result = call_main("runs", "--orphaned", "--remove", "--yes")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert run_folder(runs["orphaned"]).exists()


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_removal_from_a_read_only_folder_is_refused(runs: dict[str, RunSpec]) -> None:
    folder = Path("experiments/runs")
    folder.chmod(0o555)
    try:
        result = call_main("runs", "--status", "failed", "--remove", "--yes")
    finally:
        folder.chmod(0o755)
    assert result.code == 2
    assert run_folder(runs["failed"]).exists()


def test_an_empty_folder_of_experiments_has_no_runs(tmp_path: Path) -> None:
    assert call_main("runs", "--out", str(tmp_path)).out == f"no runs in {tmp_path / 'runs'}\n"
