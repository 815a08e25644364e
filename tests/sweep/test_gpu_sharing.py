"""Several runs on one GPU: their number follows from the time, the memory and the cores that one run needs."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import MagicMock, Mock

import pytest
import torch

from roadmap.config.compose import compose
from roadmap.sweep import gpu_sharing, placement
from roadmap.sweep.gpu_sharing import place_runs, runs_per_gpu
from roadmap.sweep.placement import Placement
from roadmap.sweep.planned_run import PlannedRun
from roadmap.training.throughput import GpuUse
from tests.conftest import TINY

GIB = 2.0**30
STEPS = ("baseline", "gelu", "layer_norm", "grn", "stage_ratio", "patchify_stem")


def sweep(*overrides: str) -> list[PlannedRun]:
    return [PlannedRun(compose(f"+step={step}", *TINY, "device=cuda", *overrides), []) for step in STEPS]


@pytest.mark.parametrize(
    ("busy", "memory", "cores", "expected"),
    [
        (0.2, 1, 16, 5),  # by time
        (0.34, 1, 16, 2),
        (0.6, 1, 16, 1),
        (0.01, 8, 64, 8),  # by memory: 80 % of 80 GiB
        (0.01, 100, 64, 1),
        (0.1, 1, 4, 4),  # by cores
        (0.1, 1, 0, 1),  # more GPUs than cores
        (0.0, 1, 16, 1),  # the profiler saw nothing
    ],
)
def test_the_number_of_runs_per_gpu(busy: float, memory: float, cores: int, expected: int) -> None:
    assert runs_per_gpu(GpuUse(busy, memory * GIB, 80 * GIB), cores) == expected


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Two GPUs and 16 cores; the measurement is the result of the mock."""
    pool = MagicMock()
    result: Mock = pool.return_value.__enter__.return_value.submit.return_value.result
    result.return_value = GpuUse(0.3, GIB, 80 * GIB)
    monkeypatch.setattr(placement, "count_gpus", lambda: 2)
    monkeypatch.setattr(gpu_sharing, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(gpu_sharing.system, "num_cores", lambda: 16)
    monkeypatch.setattr(gpu_sharing, "process_context", Mock())
    return result


def test_runs_of_small_images_share_the_gpus(two_gpus: Mock, caplog: pytest.LogCaptureFixture) -> None:
    chosen = place_runs(sweep())
    assert chosen == Placement(6, 2, 2)  # 16 cores for 6 runs: two threads each
    assert (chosen.resources.device_share, chosen.resources.cores) == (1 / 3, 2)
    assert "one run keeps a GPU busy for 30 % of the time and takes 1.0 of 80 GiB: 3 per GPU" in caplog.text
    two_gpus.return_value = GpuUse(0.05, GIB, 80 * GIB)
    assert place_runs(sweep()).num_parallel == len(STEPS)  # not more than there are


@pytest.mark.parametrize("overrides", [("parallel=2",), ("compile=true",), ("data.small_images=false",)])
def test_other_runs_have_a_gpu_of_their_own(overrides: tuple[str, ...], two_gpus: Mock) -> None:
    assert place_runs(sweep(*overrides)) == Placement(2, None, 2)
    two_gpus.assert_not_called()


def test_as_many_runs_as_gpus_and_runs_of_several_gpus_are_not_measured(two_gpus: Mock) -> None:
    assert place_runs(sweep()[:2]) == Placement(2, None, 2)
    assert place_runs(sweep("processes=2")) == Placement(1, None, 2, 2)
    two_gpus.assert_not_called()


def test_a_failed_measurement_leaves_one_run_per_gpu(two_gpus: Mock, caplog: pytest.LogCaptureFixture) -> None:
    two_gpus.side_effect = gpu_sharing.BrokenProcessPool("it died")
    assert place_runs(sweep()) == Placement(2, None, 2)
    assert "one run per GPU: it died" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_small_runs_share_a_real_gpu() -> None:
    runs = sweep("budget.batch_size=32")
    runs = [PlannedRun(replace(run.spec, seed=seed), []) for seed in range(16) for run in runs]
    chosen = place_runs(runs)
    assert chosen.num_parallel > chosen.num_gpus
