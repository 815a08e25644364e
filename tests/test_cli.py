"""The command line: three ways to call it, its subcommands and its exit codes."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from roadmap import __version__, cli
from roadmap.runtime.exit_codes import EXIT_RUN_FAILED, EXIT_STOPPED
from roadmap.runtime.signals import Stopped
from tests.conftest import ROOT, TINY
from tests.helpers import call_main, make_study

WAYS = {
    "script": [sys.executable, str(ROOT / "run_roadmap.py")],
    "module": [sys.executable, "-m", "roadmap"],
    "console script": [str(Path(sys.executable).parent / "roadmap")],
}


def call(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_take_overrides(way: str, tmp_path: Path) -> None:
    if not Path(WAYS[way][0]).exists():
        pytest.skip("the package is not installed in this environment")
    result = call([*WAYS[way], "+step=gelu", "plan=true", "plan_device=none"], tmp_path)
    assert result.returncode == 0 and "gelu seed=0" in result.stdout, result.stderr
    result = call([*WAYS[way], "+step=gelo"], tmp_path)
    assert result.returncode == 2 and result.stderr == "error: step=gelo: unknown; did you mean gelu?\n"
    assert not list(tmp_path.iterdir())


def test_the_subcommand_report_writes_a_report(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    result = call_main("report", str(study), "--to", str(tmp_path / "here"))
    assert result.code == 0, result.err
    assert {"roadmap.csv", "roadmap.md", "index.html"} <= {path.name for path in (tmp_path / "here").iterdir()}


@pytest.mark.parametrize("command", [["-m", "roadmap", "report"], ["-m", "roadmap.report"]], ids=" ".join)
def test_a_report_without_records_is_refused_in_one_line(command: list[str], tmp_path: Path) -> None:
    result = call([sys.executable, *command, "experiments/nothing"], tmp_path)
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    assert result.stderr.startswith("error: experiments/nothing: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["-m", "roadmap", "cost"], ["-m", "roadmap.cost"]], ids=" ".join)
def test_cost_has_help(command: list[str], tmp_path: Path) -> None:
    result = call([sys.executable, *command, "--help"], tmp_path)
    assert result.returncode == 0 and "--csv" in result.stdout


def test_an_unknown_subcommand_is_refused(tmp_path: Path) -> None:
    result = call([*WAYS["module"], "reports"], tmp_path)
    assert result.returncode == 2
    known = ", ".join(cli.SUBCOMMANDS)
    assert result.stderr == f"error: reports: unknown subcommand; use {known}, or overrides as field=value\n"


def test_a_signal_stops_a_subcommand_with_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_arguments: list[str]) -> int:
        raise Stopped("stopped by SIGTERM")

    monkeypatch.setattr("roadmap.commands.report.report_command", stop)
    result = call_main("report")
    assert result.code == EXIT_STOPPED and result.err == "stopped by SIGTERM\n"


def test_help_names_the_subcommands(tmp_path: Path) -> None:
    result = call([*WAYS["module"], "--help"], tmp_path)
    assert result.returncode == 0 and "roadmap report ..." in result.stdout and "roadmap cost ..." in result.stdout


def test_an_error_of_the_code_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors of the configuration and of the operating system are one line; other errors are bugs."""

    def fail(_arguments: list[str]) -> int:
        raise ValueError("list.remove(x): x not in list")

    monkeypatch.setattr("roadmap.commands.report.report_command", fail)
    with pytest.raises(ValueError, match="not in list"):
        call_main("report")


def test_an_error_of_the_system_is_one_line_with_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_arguments: list[str]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "reports/roadmap.csv")

    monkeypatch.setattr("roadmap.commands.report.report_command", fail)
    result = call_main("report")
    assert result.code == EXIT_RUN_FAILED and result.err == "error: reports/roadmap.csv: No space left on device\n"


DRY_RUN, LIST = "+step=gelu plan=true plan_device=none", "runs --out ."


@pytest.mark.parametrize(
    ("command", "redirect", "code", "error"),
    [
        (DRY_RUN, ">&-", 0, ""),
        (DRY_RUN, "2>&-", 0, ""),
        (DRY_RUN, ">&- 2>&- <&-", 0, ""),
        (LIST, "> /dev/full", 1, "error: No space left on device\n"),
        (DRY_RUN, "| head -c 1 > /dev/null", 0, ""),  # the exit code of head
    ],
)
def test_standard_output_may_be_closed_or_full(
    command: str, redirect: str, code: int, error: str, tmp_path: Path
) -> None:
    make_study(tmp_path)
    result = call(["bash", "-c", f"{shlex.join(WAYS['module'])} {command} {redirect}"], tmp_path)
    assert (result.returncode, result.stderr) == (code, error)


def test_an_encoding_without_the_characters_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = call([*WAYS["module"], "report", str(make_study(tmp_path)), "--to", str(tmp_path / "report")], tmp_path)
    assert result.returncode == 0 and not result.stderr and "93.00 ? 2.00" in result.stdout


@pytest.mark.faults
def test_ctrl_c_during_an_import_is_one_line(tmp_path: Path) -> None:
    """The process sends itself the signal when it imports the package."""
    program = """if True:
        import os, signal, sys
        from roadmap.cli import main

        package = sys.argv[1]

        class Interruption:
            def find_spec(name, *_):
                if name == package:
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Interruption)
        main(["+step=gelu", "plan=true", "plan_device=none"])
    """
    for package in ("yaml", "hydra", "omegaconf"):
        result = call([sys.executable, "-c", program, package], tmp_path)
        assert (result.returncode, result.stderr) == (EXIT_STOPPED, "stopped by SIGINT\n")


def test_the_version_is_that_of_this_package() -> None:
    result = call_main("--version")
    assert (result.code, result.out) == (0, f"roadmap {__version__}\n")


def test_a_damaged_list_of_runs_is_refused_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "experiments" / "runs" / "study.json"
    path.parent.mkdir(parents=True)
    path.write_text("[")
    result = call_main("+step=gelu", *TINY)
    assert result.code == 2 and "study.json" in result.err and result.err.count("\n") == 1
    assert path.read_text() == "[" and list(path.parent.iterdir()) == [path]
