"""The subcommand `roadmap watch`: its table, its messages when runs change, and its end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roadmap.commands import watch
from roadmap.config.schema import RunSpec
from roadmap.records.listing import RunFolder
from roadmap.records.record import new_record, run_folder, write_record
from roadmap.runtime import lock
from tests.commands.experiments import make_experiments, progress_of
from tests.conftest import ROOT, TINY, CommandLine
from tests.helpers import call_main, write_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, RunSpec]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return make_experiments(Path("experiments"))


def row_of(out: str, start: str) -> list[str]:
    return next(line for line in out.splitlines() if line.startswith(start)).split()


def test_the_table_shows_progress_of_every_run(runs: dict[str, RunSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "130")
    result = call_main("watch", "mine", "--once")
    assert result.code == 0
    assert row_of(result.out, "running")[:3] == ["running", "baseline", "1"]
    assert row_of(result.out, "running")[-5:] == ["3/4", "0.750", "45.50", "1,234", "1:30"]
    assert row_of(result.out, "interrupted")[-4:-2] == ["3/4", "0.750"]  # no time left: it does not train
    assert row_of(result.out, "completed")[-2:] == ["91.25", "100"]
    assert row_of(result.out, "waiting") == ["waiting", "grn", "1"]
    assert "failed: grn seed=0: MemoryError: too [red] large" in result.out
    totals = next(line for line in result.out.splitlines() if line.startswith("6 runs: "))
    assert totals.startswith(
        "6 runs: 1 completed, 1 diverged, 1 failed, 1 interrupted, 1 waiting, 1 running; 66 % done"
    )
    # running: 90 s of 180 s left; interrupted: half of the mean of 3 s and 180 s; waiting: all of it
    assert totals.endswith("about 3:47 left")


@pytest.mark.parametrize("columns", [32, 40, 60, 80, 100, 200])
def test_no_line_is_longer_than_the_terminal(
    runs: dict[str, RunSpec], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = call_main("watch", "mine", "--once").out
    assert max(map(len, out.splitlines())) <= columns
    assert "3/4" in out and ("91.25" in out) == ("top-1" in out.splitlines()[0])  # no digit is cut
    wide = call_main("watch", "mine", "--once", "--wide").out
    assert wide.splitlines()[0].split()[-1] == "left"


def test_damaged_files_and_lists_are_shown_in_the_table(runs: dict[str, RunSpec]) -> None:
    folder = run_folder(runs["running"])
    huge = json.dumps(progress_of(train_loss=10**400))
    for content in (
        "",
        "{",
        "[1]",
        '{"epoch": "x"}',
        '{"epoch": 1e999}',
        json.dumps(progress_of(epochs=0)),
        "\0",
        huge,
    ):
        (folder / "progress.json").write_text(content)
        (folder / "history.csv").write_text(content)
        result = call_main("watch", "mine", "--once")
        assert result.code == 0
        assert row_of(result.out, "interrupted")[1:3] == ["baseline", "1"]
    (folder / "record.json").write_text("{")
    Path("experiments/other").mkdir()
    Path("experiments/other/study.json").write_text("{")
    result = call_main("watch", "--once")
    assert result.code == 0
    assert row_of(result.out, "damaged")[1:3] == ["baseline", "1"]
    assert "note: experiments/other/study.json: invalid study file" in result.out


def test_a_run_on_another_machine_is_running_for_a_minute_after_its_last_update(runs: dict[str, RunSpec]) -> None:
    path = run_folder(runs["running"]) / "progress.json"
    for age, status in ((2, "running"), (50, "running"), (70, "interrupted")):
        path.write_text(json.dumps(progress_of(updated=time.time() - age)))
        found = {run.name: run.status for run in RunFolder(Path("experiments"), "mine").read().runs}
        assert found[path.parent.name] == status


def test_without_a_terminal_a_line_is_printed_per_change_until_all_runs_have_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: dict[str, RunSpec]
) -> None:
    running, folder = runs["running"], run_folder(runs["running"])
    steps = iter(range(3))

    def next_change(_: float) -> None:
        step = next(steps)
        if step == 0:
            (folder / "progress.json").write_text(json.dumps(progress_of(epoch=4, top1=50.0)))
        if step == 1:  # nothing changes: no line
            return
        if step == 2:
            for status in ("running", "interrupted", "waiting"):
                record = json.loads((run_folder(runs["completed"]) / "record.json").read_text())
                write_record(
                    run_folder(runs[status]), record | new_record(runs[status], "roadmap") | {"status": "completed"}
                )

    monkeypatch.setattr("roadmap.commands.watch.time.sleep", next_change)
    result = call_main("watch", "mine")
    assert result.code == 0
    changes = [line for line in result.out.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert changes[0][9:] == "baseline seed=1: running · epoch 4/4 · loss 0.750 · top-1 50.00 %"
    assert len(changes) == 4
    assert result.out.splitlines()[-1] == "6 runs: 4 completed, 1 diverged, 1 failed; 100 % done"
    assert running.seed == 1


def test_many_runs_are_cut_to_the_height_of_the_terminal(runs: dict[str, RunSpec]) -> None:
    from rich.console import Console

    listing = RunFolder(Path("experiments"), "mine").read()
    console = Console(width=80, height=9, record=True, file=io.StringIO())
    console.print(watch._view(listing, wide=False, height=11))
    lines = console.export_text().splitlines()
    assert len(lines) <= 11
    assert any(line.startswith("running") for line in lines)
    assert any(line.startswith("... and 3 runs") or line.startswith("... and") for line in lines)


def test_an_unknown_study_or_an_invalid_interval_gives_a_one_line_error(runs: dict[str, RunSpec]) -> None:
    for arguments, message in (
        (["nope"], "nope: no such study in experiments; existing studies: mine"),
        (["mine", "--every", "0"], "--every=0: must be a number of seconds"),
        (["mine", "--every", "nan"], "--every=nan: must be a number of seconds"),
    ):
        result = call_main("watch", *arguments)
        assert (result.code, result.out) == (2, "")
        assert message in result.err and len(result.err.splitlines()) == 1


def test_ctrl_c_ends_with_code_0_and_sigterm_with_75(runs: dict[str, RunSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    for number, code in ((signal.SIGINT, 0), (signal.SIGTERM, 75)):

        def send_signal(_: float, number: signal.Signals = number) -> None:
            os.kill(os.getpid(), number)

        monkeypatch.setattr("roadmap.commands.watch.time.sleep", send_signal)
        assert call_main("watch", "mine").code == code


@pytest.mark.faults
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_the_table_is_live_and_ctrl_c_leaves_it_usable(runs: dict[str, RunSpec]) -> None:
    import pty

    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    command = [sys.executable, str(ROOT / "run_roadmap.py"), "watch", "mine", "--every", "0.1"]
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    output = b""
    end = time.monotonic() + 60
    while output.count(b"6 runs: ") < 3 and time.monotonic() < end:
        output += os.read(parent, 65536)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # the terminal ends with the process
        while part := os.read(parent, 65536):
            output += part
    assert process.wait(30) == 0
    assert b"Traceback" not in output
    assert output.rstrip().endswith(b"\x1b[?25h")  # the cursor is shown again
    os.close(parent)


@pytest.mark.slow
def test_a_real_run_is_watched_and_listed(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command_line("-m", "+step=baseline,gelu", *TINY, "study=tiny", "budget.epochs=3", "budget.allow_chance=true")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    out = call_main("watch", "tiny").out
    assert len([line for line in out.splitlines() if line.startswith("completed")]) == 2
    assert "2 runs: 2 completed; 100 % done" in out
    assert "2 runs: 2 completed" in call_main("runs", "tiny").out


def test_a_run_with_an_unlocked_lock_file_is_not_running(runs: dict[str, RunSpec]) -> None:
    with lock.hold(run_folder(runs["interrupted"])):
        pass
    write_run(Path("experiments"), None, "+step=baseline", "seed=5", status="failed", error="x")
    found = {run.name: run.status for run in RunFolder(Path("experiments"), "mine").read().runs}
    assert found[run_folder(runs["interrupted"]).name] == "interrupted"
