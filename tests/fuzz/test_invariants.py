"""Tests of the checks that the fuzz tests use."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from roadmap.runtime.exit_codes import EXIT_STOPPED
from tests.fuzz.invariants import Snapshot, Violation, Workplace, changes, find_violations, finished_files, snapshot
from tests.helpers import Result

GOOD = Result(2, "", "error: seed=-1: must not be negative\n")
BEFORE = {"runs/a/record.json": "1", "file": "2"}


@pytest.mark.parametrize(
    ("result", "after", "found"),
    [
        (Result(1, "", "Traceback (most recent call last):\nKeyError: 'x'\n"), BEFORE, "traceback: KeyError: 'x'"),
        (Result(-9, "", "killed"), BEFORE, "exit code -9"),
        (Result(2, "", "error: one\ntwo\n"), BEFORE, "exit code 2 without a line that says why"),
        (Result(2, "", "error: \n"), BEFORE, "exit code 2 without a line that says why"),
        (Result(2, "", ""), BEFORE, "exit code 2 without a line that says why"),
        (Result(2, "", "usage: roadmap runs [--help]\n"), BEFORE, "exit code 2 with usage, but without an error"),
        (Result(1, "", ""), BEFORE, "exit code 1 without a reason"),
        (GOOD, BEFORE | {"new": "3"}, r"exit code 2, but written: \['\+new'\]"),
        (Result(0, "", ""), {"file": "2"}, "finished runs lost or changed"),
        (Result(0, "", ""), BEFORE | {"runs/a/record.json": "3"}, "finished runs lost or changed"),
    ],
)
def test_each_broken_invariant_is_found(result: Result, after: Snapshot, found: str) -> None:
    violations = find_violations(result, BEFORE, after, {"runs/a/record.json": "1"}, dry=False)
    with pytest.raises(Violation, match=found):
        raise Violation("\n".join(violations))
    assert len(violations) == 1


def test_good_results_give_no_violations() -> None:
    usage = Result(2, "", "usage: roadmap runs [--help]\nroadmap runs: error: unrecognized arguments: -x\n")
    for result in (GOOD, usage, Result(0, "done", ""), Result(75, "", "stopped by SIGINT")):
        assert not find_violations(result, BEFORE, BEFORE, BEFORE, dry=True)


def test_a_dry_run_that_writes_is_found() -> None:
    violations = find_violations(Result(0, "", ""), BEFORE, BEFORE | {"file": "3"}, {}, dry=True)
    assert violations == ["exit code 0, dry run, but written: ['~file']"]


def test_a_case_changes_nothing_for_the_next_one(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(workplace.root)
    runs = finished_files(before, workplace.root)
    assert any(path.endswith("correct.npy") for path in runs)

    def remove(_arguments: list[str]) -> int:
        Path("experiments/demo/study.json").unlink()
        Path(next(iter(runs)).removeprefix("work/")).write_text("{}")
        return 0

    monkeypatch.setattr("roadmap.commands.report.report_command", remove)
    monkeypatch.delenv("ROADMAP_FUZZ_COLLECT", raising=False)
    with pytest.raises(Violation, match="finished runs lost or changed"):
        workplace.check("report")
    assert not changes(before, snapshot(workplace.root))


def test_an_error_of_the_code_is_found(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_arguments: list[str]) -> int:
        raise KeyError("seed")

    monkeypatch.setattr("roadmap.commands.report.report_command", fail)
    monkeypatch.delenv("ROADMAP_FUZZ_COLLECT", raising=False)
    with pytest.raises(Violation, match="traceback: KeyError: 'seed'"):
        workplace.check("report")


def test_a_case_that_does_not_end_is_stopped(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(_arguments: list[str]) -> int:
        time.sleep(60)
        return 0

    monkeypatch.setattr("roadmap.commands.report.report_command", wait)
    result = workplace.check("report", seconds=0.1)
    assert result is not None and result.code == EXIT_STOPPED
