"""Checkpoints on disk: the previous one is used if the newest is damaged, and a full disk does not end a run."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from roadmap.config.choices import Device, Precision
from roadmap.config.compose import compose
from roadmap.config.schema import RunSpec, SpecError
from roadmap.records.record import run_folder, run_name
from roadmap.training import checkpoint
from roadmap.training.device import choose_device
from roadmap.training.metrics import Metrics
from roadmap.training.trainer import Trainer
from tests.conftest import FAULTS, TINY, until
from tests.training.faults import LOADED, assert_same_results, start

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("folder")]

RUN = "gelu-0123456789ab-seed0"


class Malice:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


DAMAGES: dict[str, Any] = {
    "truncated": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "bit-flipped": lambda raw: raw[:1000] + bytes([raw[1000] ^ 1]) + raw[1001:],
    "foreign": lambda raw: b"GIF89a" + raw,
    "malicious": lambda raw: pickle.dumps(Malice()),
    "another run's": lambda raw: torch_bytes({"run": "gelu-000000000000-seed0", "state": {}}),
}
REASONS = {
    "malicious": "contains more than tensors and plain values; not loaded",
    "another run's": "belongs to another run (gelu-000000000000-seed0)",
}
DAMAGED = "damaged, its checksum differs"


def damage_files(folder: Path, damage: str, both: bool) -> None:
    """Damage the newest checkpoint or both. Those with a reason in REASONS have the right checksum."""
    for name in (checkpoint.NAME, checkpoint.PREVIOUS)[: 1 + both]:
        content = DAMAGES[damage]((folder / name).read_bytes())
        (folder / name).write_bytes(content)
        if damage in REASONS:
            write_checksum(folder / name)


def write_checksum(path: Path) -> None:
    checkpoint.checksum_path(path).write_text(hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("both", [False, True], ids=["newest", "both"])
def test_damaged_files_are_reported_and_the_previous_one_is_loaded(damage: str, both: bool, folder: Path) -> None:
    for epoch in (1, 2):
        checkpoint.save(folder, RUN, {"epoch": epoch, "weights": torch.arange(1000)})
    damage_files(folder, damage, both)
    with pytest.raises(checkpoint.CheckpointError, match="checkpoint.pt: "):
        checkpoint.read(folder / checkpoint.NAME, RUN)
    messages: list[str] = []
    state = checkpoint.load(folder, RUN, messages.append)
    assert state is None if both else state is not None and state["epoch"] == 1
    assert len(messages) == 1 + both and (folder / checkpoint.BAD).exists()
    assert messages[0].startswith("checkpoint not used:") and REASONS.get(damage, DAMAGED) in messages[0]
    assert not Path("executed").exists()
    FAULTS["corrupt files found"] += 1 + both


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSpec]:
    """A completed run and, in another folder, the same run killed after it had left two checkpoints."""
    folder = tmp_path_factory.mktemp("halfway")
    overrides = ("+step=gelu", *LOADED)
    uninterrupted = compose(*overrides, f"out={folder}/uninterrupted")
    start(uninterrupted).finish()
    interrupted = compose(*overrides, f"out={folder}/interrupted", "checkpoint_steps=1")
    run = start(interrupted)
    until(lambda: all((run_folder(interrupted) / name).exists() for name in (checkpoint.NAME, checkpoint.PREVIOUS)))
    run.process.kill()
    run.process.join()
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        # The kill may have come between a file and its checksum, which test_checkpoint_kills.py covers.
        write_checksum(run_folder(interrupted) / name)
    return folder / "interrupted", uninterrupted


CASES = [
    pytest.param(damage, both, marks=[] if (damage, both) == ("truncated", False) else pytest.mark.slow)
    for damage in DAMAGES
    for both in (False, True)
]


@pytest.mark.parametrize(("damage", "both"), CASES)
def test_a_run_with_damaged_checkpoints_ends_with_the_same_bits(
    halfway: tuple[Path, RunSpec], tmp_path: Path, damage: str, both: bool
) -> None:
    interrupted, uninterrupted = halfway
    shutil.copytree(interrupted, tmp_path / "copy")
    copied = dataclasses.replace(uninterrupted, out=str(tmp_path / "copy"))
    folder = run_folder(copied)
    damage_files(folder, damage, both)
    before = (folder / "log.txt").read_text()
    start(copied).finish()
    log = (folder / "log.txt").read_text().removeprefix(before)
    assert log.count("checkpoint not used:") == 1 + both and (folder / checkpoint.BAD).exists()
    assert ("resuming from checkpoint" in log) is not both
    assert not (folder / "executed").exists() and not Path("executed").exists()
    assert_same_results(copied, uninterrupted)


def new_trainer() -> Trainer:
    spec = compose("+step=gelu", *TINY)
    return Trainer(spec, choose_device(Device.cpu, Precision.fp32), Metrics())


def test_a_checkpoint_of_another_version_is_refused(folder: Path) -> None:
    trainer = new_trainer()
    with trainer._checkpoints_in(folder):
        trainer.save()
    name = run_name(trainer.spec)
    state = checkpoint.read(folder / checkpoint.NAME, name)
    assert state.keys() == {
        "epoch", "step", "loss", "model", "optimizer", "scaler", "ema", "outcome", "evaluation", "ema_evaluation",
    }  # fmt: skip
    state["outcome"]["unknown"] = 1
    checkpoint.save(folder, name, state)
    with pytest.raises(SpecError, match=r"checkpoint.pt: written by another version of this code; delete it to start"):
        trainer.resume(folder)


def test_the_previous_checkpoint_is_kept_if_the_disk_is_full(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer = new_trainer()
    with trainer._checkpoints_in(folder):
        trainer.save()
    before = (folder / checkpoint.NAME).read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with trainer._checkpoints_in(folder):
        trainer.save()
    message = "no checkpoint at epoch 1, iteration 0: No space left on device; previous checkpoint kept"
    assert message in capsys.readouterr().out
    assert (folder / checkpoint.NAME).read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [checkpoint.NAME, f"{checkpoint.NAME}.sha256"]


@pytest.mark.parametrize("has_links", [True, False])
def test_the_last_two_checkpoints_are_kept_and_removed(
    has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    folder = tmp_path / "missing" / "run"
    for number in range(3):
        checkpoint.save(folder, RUN, {"number": number})
    names = [name + ending for name in (checkpoint.NAME, checkpoint.PREVIOUS) for ending in ("", ".sha256")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert checkpoint.read(folder / checkpoint.NAME, RUN) == {"number": 2}
    assert checkpoint.read(folder / checkpoint.PREVIOUS, RUN) == {"number": 1}
    (folder / checkpoint.BAD).touch()
    checkpoint.remove(folder)
    assert not any(folder.iterdir())


def test_a_checkpoint_is_a_file_of_torch_with_a_checksum_of_sha256sum(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, RUN, {"epoch": 1, "weights": torch.arange(1000)})
    saved = torch.load(tmp_path / checkpoint.NAME, weights_only=True)
    assert saved["run"] == RUN and torch.equal(saved["state"]["weights"], torch.arange(1000))
    content = (tmp_path / checkpoint.NAME).read_bytes()
    line = f"{hashlib.sha256(content).hexdigest()}  {checkpoint.NAME}\n"
    assert (tmp_path / f"{checkpoint.NAME}.sha256").read_text() == line


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / checkpoint.NAME).mkdir()  # root may read any file
    messages: list[str] = []
    assert checkpoint.load(tmp_path, RUN, messages.append) is None
    assert messages == [f"checkpoint not used: {tmp_path / checkpoint.NAME}: Is a directory; kept as {checkpoint.BAD}"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "small"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root on Linux can mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_run_survives_a_full_disk(small_disk: Path) -> None:
    spec = compose("+step=gelu", *TINY, "budget.epochs=400", "checkpoint_steps=10", f"out={small_disk}")
    path = run_folder(spec) / checkpoint.NAME
    log = run_folder(spec) / "log.txt"
    run = start(spec)
    until(path.exists)
    filler = small_disk / "filler"
    while True:
        try:
            with filler.open("ab") as file:
                file.write(bytes(4096))
        except OSError:
            break
    before = path.stat().st_mtime_ns
    time.sleep(1)
    assert path.stat().st_mtime_ns == before
    assert run.process.is_alive()
    checkpoint.read(path, run_name(spec))  # intact
    filler.unlink()
    until(lambda: path.stat().st_mtime_ns != before)  # with free space it writes checkpoints again
    run.terminate()
    run.process.join()
    assert "no checkpoint at epoch" in log.read_text()
    assert "No space left on device; previous checkpoint kept" in log.read_text()
