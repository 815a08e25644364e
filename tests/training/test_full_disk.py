"""A finished run on a full disk: its record is written without the files that do not fit, or the run is resumed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from roadmap.config.compose import compose
from roadmap.records.record import read_record, run_folder
from roadmap.runtime import files
from roadmap.training import checkpoint
from roadmap.training.run import run
from tests.conftest import FAULTS, ROOT, TINY
from tests.helpers import call_main

pytestmark = pytest.mark.usefixtures("folder")

RUN = ("+step=gelu", *TINY)


def fill_disk(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let writing the files with these names fail as on a full disk."""

    def write(path: Path, content: bytes, **options: Any) -> None:
        if path.name in names:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        files.write_atomically(path, content, **options)

    for module in ("training.run", "records.record", "training.checkpoint"):
        monkeypatch.setattr(f"roadmap.{module}.write_atomically", write)


@pytest.mark.parametrize("missing", [["model.pt"], ["correct.npy"], ["correct.npy", "model.pt"]], ids="+".join)
def test_a_full_disk_for_the_results_does_not_lose_the_record(
    missing: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = compose(*RUN)
    fill_disk(monkeypatch, *missing)
    folder = run_folder(spec)
    folder.mkdir(parents=True)
    for name in missing:
        (folder / name).write_bytes(b"of an earlier attempt")
    record = run(spec)
    reasons = [f"{name}: No space left on device" for name in missing]
    assert record["status"] == "completed" and record["missing"] == reasons
    assert read_record(folder) == record
    assert capsys.readouterr().out.count(f"  not written: {', '.join(reasons)}; the record is complete") == 1
    for name in ("correct.npy", "model.pt"):
        assert (folder / name).exists() is (name not in missing)


def test_weights_that_fit_without_the_checkpoint_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = compose(*RUN, "checkpoint_steps=1")
    folder = run_folder(spec)

    def write(path: Path, content: bytes, **options: Any) -> None:
        if path.name == "model.pt" and (folder / checkpoint.NAME).exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        files.write_atomically(path, content, **options)

    monkeypatch.setattr("roadmap.training.run.write_atomically", write)
    record = run(spec)
    assert "missing" not in record and read_record(folder) == record
    assert torch.load(folder / "model.pt", weights_only=True) and not (folder / checkpoint.NAME).exists()
    assert "not written" not in capsys.readouterr().out


def test_a_run_whose_record_cannot_be_written_keeps_its_checkpoint_and_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*RUN, "budget.epochs=2", "checkpoint_steps=3")
    spec = compose(*overrides)
    with monkeypatch.context() as full:
        fill_disk(full, "record.json")
        done = call_main(*overrides)
    folder = run_folder(spec)
    reason = "No space left on device; the same command runs it again, from its checkpoint if any"
    assert done.code == 1 and done.err == f"error: {folder / 'record.json'}: {reason}\n"
    assert (folder / checkpoint.NAME).exists() and not (folder / "record.json").exists()
    again = call_main(*overrides)
    assert again.code == 0 and "resuming from checkpoint at epoch 2, iteration 2" in again.out
    record = read_record(folder)
    assert record is not None and record["status"] == "completed" and "missing" not in record
    assert torch.load(folder / "model.pt", weights_only=True) and not (folder / checkpoint.NAME).exists()


def limited(kib: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with a limit of `kib` KiB for the size of each file."""
    command = ["bash", "-c", f'ulimit -f {kib}; exec "$@"', "bash", sys.executable, str(ROOT / "run_roadmap.py")]
    return subprocess.run([*command, *overrides], capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.faults
@pytest.mark.skipif(os.name != "posix", reason="ulimit")
def test_weights_above_the_limit_of_the_size_of_files_are_left_out() -> None:
    done = limited(40, *RUN)
    assert done.returncode == 0, done.stderr
    (path,) = Path().glob("experiments/runs/*/record.json")
    assert json.loads(path.read_text())["missing"] == ["model.pt: File too large"]
    assert "not written: model.pt: File too large; the record is complete" in done.stdout
    FAULTS["full disks survived"] += 1


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.skipif(os.name != "posix", reason="ulimit")
def test_a_sweep_whose_records_are_above_the_limit_ends_without_a_traceback() -> None:
    done = limited(4, "-m", *RUN)
    path = run_folder(compose(*RUN)) / "record.json"
    assert done.returncode == 1 and not path.exists()
    assert f"{path}: File too large; the same command runs it again" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert call_main(*RUN).code == 0 and path.exists()
    FAULTS["full disks survived"] += 1
