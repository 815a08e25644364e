"""history.csv and progress.json: complete after a resume; a run continues if they cannot be written."""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import pytest

from roadmap.records import history
from roadmap.records.history import History, IterationLog, Progress, read_history, read_iterations, write_progress
from roadmap.records.record import FORMAT, write_record

CURVE: list[dict[str, Any]] = [
    {"epoch": 1, "lr": 0.1, "train_loss": 2.5},
    {"epoch": 2, "lr": 0.05, "train_loss": 1.0 / 3, "test_top1": 50.0, "test_loss": 1.25},
    {"epoch": 3, "lr": 0.01, "train_loss": 0.25},
]


def no_space(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def lines(folder: Path) -> list[str]:
    return (folder / "history.csv").read_text().splitlines()


def test_the_curve_has_one_line_per_epoch_with_empty_cells(tmp_path: Path) -> None:
    written = History(tmp_path, [])
    for row in CURVE[:2]:
        written.append(row, 1.23456 * row["epoch"])
    header = "epoch,lr,train_loss,test_top1,test_loss,seconds"
    assert lines(tmp_path) == [header, "1,0.1,2.5,,,1.235", f"2,0.05,{1 / 3!r},50.0,1.25,2.469"]
    assert [row["test_top1"] for row in read_history(tmp_path)] == ["", "50.0"]


@pytest.mark.parametrize("tail", ["", "4,0.0", "\0\0\0", "x,y\n", "3,0.01,0.3,,,9.0\n", "x" * 200_000 + "\n"])
def test_after_a_resume_each_epoch_has_one_line(tmp_path: Path, tail: str) -> None:
    """`tail` is the text that a killed run has left at the end of the file."""
    written = History(tmp_path, [])
    for row in CURVE:
        written.append(row, row["epoch"])
    before = lines(tmp_path)
    with (tmp_path / "history.csv").open("a") as file:
        file.write(tail)
    resumed = History(tmp_path, CURVE[:1])  # the checkpoint is of epoch 1
    assert lines(tmp_path) == before[:2]
    for row in CURVE[1:]:
        resumed.append(row, row["epoch"])
    assert lines(tmp_path) == before


def test_after_a_full_disk_the_next_epoch_completes_the_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = History(tmp_path, [])
    written.append(CURVE[0], 1.0)
    with monkeypatch.context() as full:
        full.setattr(Path, "open", no_space)
        written.append(CURVE[1], 2.0)
    assert len(lines(tmp_path)) == 2
    with (tmp_path / "history.csv").open("a") as file:
        file.write("2,0.")  # the part of the line that fitted on the disk
    written.append(CURVE[2], 3.0)
    assert [row["epoch"] for row in read_history(tmp_path)] == ["1", "2", "3"]


def test_progress_is_replaced_and_deleted_with_the_record(tmp_path: Path) -> None:
    write_progress(tmp_path, Progress(1, 3, 0, 8))
    write_progress(tmp_path, Progress(2, 3, 4, 8, 0.5, 100.0, 50.0, 12.0))
    content = json.loads((tmp_path / "progress.json").read_text())
    assert content.pop("updated") == pytest.approx(time.time(), abs=60)
    assert content == {
        "epoch": 2, "epochs": 3, "iteration": 4, "iterations_per_epoch": 8, "train_loss": 0.5,
        "images_per_second": 100.0, "top1": 50.0, "seconds_left": 12.0, "pid": os.getpid(),
        "host": platform.node(),
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]
    write_record(tmp_path, {"format": FORMAT})
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_progress_that_cannot_be_written_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_progress(tmp_path / "absent", Progress(1, 3, 0, 8))
    monkeypatch.setattr(Path, "replace", no_space)
    write_progress(tmp_path, Progress(1, 3, 0, 8))
    written = history.History(tmp_path, [])
    written.append(CURVE[0], 1.0)
    assert not list(tmp_path.iterdir())


def iteration_lines(folder: Path) -> list[list[str]]:
    return [line.split(",") for line in (folder / "iterations.csv").read_text().splitlines()[1:]]


def append_iterations(log: IterationLog, first: int, last: int) -> None:
    """Append the iterations after `first` to `last` of epochs of 10 iterations; the loss of iteration i is 1 / i."""
    for i in range(first + 1, last + 1):
        epoch, iteration = divmod(i - 1, 10)
        mean = sum(1 / j for j in range(10 * epoch + 1, i + 1)) / (iteration + 1)
        log.append(epoch, iteration + 1, 0.1 / i, mean, 100.0)


def test_iterations_have_the_mean_loss_since_the_line_before(tmp_path: Path) -> None:
    append_iterations(IterationLog(tmp_path, 0, 10, 4), 0, 22)
    found = read_iterations(tmp_path)
    assert [int(row["iteration"]) for row in found] == [4, 8, 10, 14, 18, 20]
    assert [int(row["epoch"]) for row in found] == [1, 1, 1, 2, 2, 2]
    parts = [(1, 4), (5, 8), (9, 10), (11, 14), (15, 18), (19, 20)]
    for row, (first, last) in zip(found, parts, strict=True):
        expected = sum(1 / i for i in range(first, last + 1)) / (last - first + 1)
        assert float(row["loss"]) == pytest.approx(expected, rel=1e-12) and float(row["lr"]) == 0.1 / last


@pytest.mark.parametrize("position", [0, 3, 4, 9, 10, 13, 20])
@pytest.mark.parametrize("tail", ["", "23,3,0.", "\0\0\0", "x,y\n", "40,4,0.1,1.0,1.0,9\n", "4,1,nan,1.0,1.0,9\n"])
def test_after_a_resume_each_iteration_has_one_line_with_the_same_values(
    tmp_path: Path, position: int, tail: str
) -> None:
    append_iterations(IterationLog(tmp_path, 0, 10, 4), 0, 22)
    before = iteration_lines(tmp_path)
    with (tmp_path / "iterations.csv").open("a") as file:
        file.write(tail)
    resumed = IterationLog(tmp_path, position, 10, 4)
    assert iteration_lines(tmp_path) == [row for row in before if int(row[0]) <= position]
    append_iterations(resumed, position, 22)
    assert iteration_lines(tmp_path) == before
