"""The benchmark of a GPU: its tables, on a processor and with one iteration for each measurement."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu import Deadline, measure_gpu
from roadmap.config.choices import Device
from roadmap.models import cpu_kernels
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("settings")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Any:
    tiny = tuple(override for override in TINY if override != "device=cpu")
    real = gpu.Case

    def tiny_case(name: str, overrides: tuple[str, ...]) -> gpu.Case:
        small = tuple(override for override in overrides if override not in ("base=resnet50", "compile=true"))
        return real(name, (*small, *tiny, "data.image_size=32", "budget.batch_size=4", "budget.train_images=8"))

    def iterate(make: Callable[..., Callable[[], int]], *arguments: Any, threads: list[int], **_: Any) -> float:
        iteration = make(*arguments)
        return len(threads) * float(iteration() + iteration())

    monkeypatch.setattr(gpu, "Case", tiny_case)
    monkeypatch.setattr(gpu, "rate", iterate)
    monkeypatch.setattr(gpu, "NUM_PHOTOGRAPHS", 10)
    # PyTorch 2.15's oneDNN corrupts memory in the strided 1x1 convolutions of the steps between, if they are narrow.
    monkeypatch.setattr(gpu, "load_roadmap", lambda: argparse.Namespace(step_names=["separate_downsampling"]))
    yield
    cpu_kernels.enable(True)


def options(minutes: float) -> argparse.Namespace:
    return argparse.Namespace(fashion=["data=digits"], device=Device.cpu, minutes=minutes, seconds=1.0)


def test_the_tables_have_a_row_for_each_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    measure_gpu(options(minutes=5))
    out = capsys.readouterr().out
    parts = dict(part.split("\n", 1) for part in out.split("### ")[1:])
    assert len(parts) == 5
    rows = {title: [line for line in part.splitlines() if line.startswith("| ")][2:] for title, part in parts.items()}
    assert [len(found) for found in rows.values()] == [1, 1, 2, 2, 4]
    assert rows["32 px, batch 128, nano, whole iterations"] == ["| separate_downsampling | 8 | 8 | **1.00** | – |"]
    assert rows["Several runs at once, 32 px, nano"][0] == "| baseline | 8 | 16 (2.00) | 32 (4.00) | 64 (8.00) |"


def test_parts_without_time_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    measure_gpu(options(minutes=0))
    out = capsys.readouterr().out
    assert out.count("No time was left for") == 5
    assert list(Deadline(minutes=1).steps(["a", "b"])) == ["a", "b"]
