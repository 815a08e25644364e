"""Checkpoints are written while the training continues, and take little of its time."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from roadmap.training import checkpoint

RUN = "gelu-0123456789ab-seed0"


def test_the_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has the values at the time of `save`, although the training changes its tensors at once."""
    may_write = threading.Event()
    save = checkpoint.save

    def save_later(*arguments: Any) -> None:
        assert may_write.wait(60)
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", save_later)
    writer = checkpoint.Writer(tmp_path, RUN, 0.0, shares_processor=True, report=pytest.fail)
    weights = torch.zeros(1000)
    writer.save({"nested": [{"weights": weights}]}, "epoch 1, iteration 1")
    weights += 1
    assert not (tmp_path / checkpoint.NAME).exists()
    may_write.set()
    writer.wait()
    state = checkpoint.read(tmp_path / checkpoint.NAME, RUN)
    assert torch.equal(state["nested"][0]["weights"], torch.zeros(1000))


def test_regular_checkpoints_take_at_most_one_percent_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    times = SimpleNamespace(monotonic=lambda: now, perf_counter=lambda: now, thread_time=lambda: now)
    monkeypatch.setattr(checkpoint, "time", times)

    def copy(state: Any) -> Any:
        nonlocal now
        now += 2.0
        return state

    monkeypatch.setattr(checkpoint, "_to_cpu", copy)
    writer = checkpoint.Writer(tmp_path, RUN, 60.0, shares_processor=False, report=pytest.fail)
    for interval in (60.0, 200.0):  # that of the user, then 100 times the two seconds
        now += interval - 1
        assert not writer.is_due
        now += 1
        assert writer.is_due
        writer.save({}, "epoch 1, iteration 1")
        writer.wait()
