"""The command line: three ways to call it, its subcommands and its exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from roadmap import cli
from roadmap.runtime.exit_codes import EXIT_STOPPED
from roadmap.runtime.signals import Stopped
from tests.conftest import ROOT
from tests.helpers import make_study

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
    result = call([*WAYS[way], "+step=gelu", "plan=true"], tmp_path)
    assert result.returncode == 0 and "gelu seed=0" in result.stdout, result.stderr
    result = call([*WAYS[way], "+step=gelo"], tmp_path)
    assert result.returncode == 2 and result.stderr == "error: step=gelo: unknown; did you mean gelu?\n"
    assert not list(tmp_path.iterdir())


def test_the_subcommand_report_writes_a_report(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    result = call([*WAYS["module"], "report", str(study), "--to", str(tmp_path / "here")], tmp_path)
    assert result.returncode == 0, result.stderr
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
    assert result.stderr == "error: reports: unknown subcommand; use report, cost, or overrides as field=value\n"


def test_a_signal_stops_a_subcommand_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_arguments: list[str]) -> int:
        raise Stopped("stopped by SIGTERM")

    monkeypatch.setattr(cli, "raise_on_signal", lambda: None)  # the handlers of this process stay
    monkeypatch.setitem(cli.SUBCOMMANDS, "report", stop)
    monkeypatch.setattr(sys, "argv", ["roadmap", "report"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == EXIT_STOPPED and capsys.readouterr().err == "stopped by SIGTERM\n"


def test_help_names_the_subcommands(tmp_path: Path) -> None:
    result = call([*WAYS["module"], "--help"], tmp_path)
    assert result.returncode == 0 and "roadmap report ..." in result.stdout and "roadmap cost ..." in result.stdout
