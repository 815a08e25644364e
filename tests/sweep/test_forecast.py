"""Plans of runs that have no records: time, cost, memory and disk, and their later comparison with records."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from roadmap.config.choices import Precision
from roadmap.config.compose import compose
from roadmap.records.record import config_hash
from roadmap.runtime import gpus
from roadmap.runtime.exit_codes import EXIT_BAD_INPUT
from roadmap.sweep import estimate, forecast
from roadmap.sweep.estimate import makespan
from roadmap.sweep.forecast import Forecast, seconds_on_gpu, spread
from roadmap.sweep.placement import Placement
from roadmap.sweep.planned_run import PlannedRun
from roadmap.training.throughput import Throughput
from roadmap.training.workload import Workload, count_workload, dataset_sizes
from tests.conftest import TINY
from tests.helpers import RESULTS, call_main, write_run

PAPER = ("data=imagenet", "base=resnet50", "budget=paper", "plan=true")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def work_of(*overrides: str) -> Workload:
    spec = compose(*overrides)
    return count_workload(spec, dataset_sizes(spec))


def planned(*overrides: str, seed: int = 0) -> PlannedRun:
    return PlannedRun(replace(compose(*overrides), seed=seed), [])


def test_makespan_starts_runs_in_order_in_the_first_free_slot() -> None:
    assert makespan([3, 1, 1, 1], 1) == 6
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 1, 3], 2) == 4
    assert makespan([1, 1], 64) == 1


def test_spread_begins_with_distant_elements() -> None:
    assert spread(1) == [0]
    assert spread(8)[:4] == [0, 4, 2, 6]
    assert sorted(spread(18)) == list(range(18))


def test_the_duration_on_a_gpu_follows_from_its_published_throughput() -> None:
    work = work_of("+step=baseline", *PAPER)
    gpu = gpus.find_gpu("a100")
    assert gpu is not None
    expected = 90 * (1_281_167 // 256) * 256 / 1582 + 10 * 50_000 / 1582 / 3
    assert seconds_on_gpu(work, gpu, Precision.auto) == pytest.approx(expected, rel=0.001)
    assert seconds_on_gpu(work, gpu, Precision.fp32) == pytest.approx(expected * 1582 / 1066, rel=0.001)


def test_small_networks_wait_for_the_processor_that_starts_their_operations() -> None:
    work = work_of("+step=baseline", "data=cifar10")
    duration = {name: seconds_on_gpu(work, gpu, Precision.bf16) for name, gpu in gpus.GPUS if gpu.resnet50_16bit}
    assert duration["H100"] == pytest.approx(duration["A100"], rel=0.05)  # not in proportion to their throughput
    assert duration["H100"] > work.iterations * 0.002


def test_a_plan_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    """Two steps of the paper, 30 seeds each, planned on a machine without GPU and without ImageNet."""
    seeds = ",".join(map(str, range(30)))
    result = call_main("-m", "+step=training_recipe,separate_downsampling", f"seed={seeds}", *PAPER, "plan_device=h100")
    assert result.code == 0, result.err
    num_runs = result.out.count("  to do ")
    assert num_runs == 60
    assert f"runs: {num_runs} runs, 0 done, {num_runs} to do" in result.out
    time = re.search(r"time: ([\d,]+) h on 1 GPU; (\d+) h on 8 GPUs.*; (\d+) h on 64 GPUs", result.out)
    assert time is not None, result.out
    one, eight, many = (float(hours.replace(",", "")) for hours in time.groups())
    assert one / 8 == pytest.approx(eight, rel=0.1)
    assert one / 64 <= many < one / 50
    assert f"cost: {time[1]} h of GPU time" in result.out
    memory = re.search(r"memory: ([\d.]+) GiB of 80.0 GiB with accumulate=\d+ \(\w+\)\n", result.out)
    assert memory is not None
    assert 40 < float(memory[1]) < 0.8 * 80
    disk = re.search(r"disk: ([\d.]+) GiB for the results, and up to (\d+) MiB for each run that trains", result.out)
    assert disk is not None
    assert float(disk[1]) == pytest.approx(num_runs * 28e6 * 4 / 2**30, rel=0.15)
    assert float(disk[2]) == pytest.approx(3 * 28.6e6 * 12 / 2**20, rel=0.01)  # three files with AdamW's states
    assert "forecast for h100: from the published training throughput of ResNet-50" in result.out
    assert list(tmp_path.iterdir()) == []


def test_processes_of_a_run_are_taken_from_the_command() -> None:
    result = call_main("+step=gelu", *PAPER, "base=nano", "plan_device=h100", "processes=16")
    assert "does not fit 1 GPU; a run with processes=16 does not fit 8 GPUs; " in result.out
    assert re.search(r"; \d+:\d\d on 64 GPUs \(processes=16\)", result.out)


def test_a_plan_without_records_measures_the_networks_here(tmp_path: Path) -> None:
    result = call_main("-m", "+step=baseline,gelu", "seed=0,1", *TINY, "plan=true")
    assert result.code == 0, result.err
    assert re.search(r"forecast for .+: 2 of 2 networks measured on this machine, in \d+ s\n", result.out)
    assert len(re.findall(r"to do +~0:\d\d  (?:baseline|gelu) seed=", result.out)) == 4
    assert re.search(r"time: 0:\d\d of run time, 0:\d\d with \d+ at once\n", result.out)
    assert re.search(r"memory: \d+ MiB of .* GiB", result.out)
    assert list(tmp_path.iterdir()) == []


def test_only_runs_without_an_estimate_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"wall_seconds": 30.0, "plan": {"epochs": 1}}
    write_run(tmp_path / "experiments", 90.0, "+step=gelu", "seed=0", *TINY, **fields)
    asked: list[list[str]] = []

    def make_forecast(runs: list[PlannedRun], device: str, placement: Placement) -> Forecast:
        asked.append([run.title for run in runs])
        return Forecast(device, "invented", {config_hash(run.spec): 100.0 for run in runs})

    monkeypatch.setattr(estimate, "make_forecast", make_forecast)
    sweep = ("-m", "+step=gelu", "seed=0,1", "plan=true")
    assert "estimated from 1 records" in call_main(*sweep, *TINY).out
    assert asked == []
    other = call_main(*sweep, *TINY, "data=cifar10")
    assert asked == [["gelu seed=0", "gelu seed=1"]]
    assert "time: 3:20 of run time" in other.out
    call_main(*sweep, *TINY, "data=cifar10", "plan_device=none")
    assert len(asked) == 1
    compared = call_main(*sweep, *TINY, "plan_device=h100")  # all runs, but the record is of another device
    assert asked[1:] == [["gelu seed=0", "gelu seed=1"]]
    assert "check:" not in compared.out


@pytest.mark.parametrize(
    ("device", "record_device", "shown"),
    [("here", "a processor", True), ("a100", "NVIDIA A100-SXM4-80GB", True), ("a100", "NVIDIA H100 PCIe", False)],
)
def test_forecasts_are_compared_with_records_of_the_same_device(
    device: str, record_device: str, shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, seconds in enumerate((50.0, 200.0)):
        fields = {"wall_seconds": seconds, "device": {**RESULTS["device"], "name": record_device}}
        write_run(tmp_path / "experiments", 90.0, "+step=gelu", f"seed={seed}", *TINY, **fields)

    def make_forecast(runs: list[PlannedRun], plan_device: str, placement: Placement) -> Forecast:
        name = "a processor" if plan_device == "here" else plan_device
        return Forecast(name, "invented", {config_hash(run.spec): 100.0 for run in runs})

    monkeypatch.setattr(estimate, "make_forecast", make_forecast)
    out = call_main("-m", "+step=gelu", "seed=0,1,2", *TINY, "plan=true", f"plan_device={device}").out
    line = "check: for 2 completed runs, the estimate differs from the record by -50 % to +100 %, median +25 %"
    assert (line in out) == shown


def test_estimates_from_records_are_compared_with_the_records_of_others(tmp_path: Path) -> None:
    for seed, seconds in enumerate((100.0, 100.0, 130.0)):
        fields = {"wall_seconds": seconds, "plan": {"epochs": 1}}
        write_run(tmp_path / "experiments", 90.0, "+step=gelu", f"seed={seed}", *TINY, **fields)
    out = call_main("-m", "+step=gelu", "seed=0,1,2,3", *TINY, "plan=true").out
    # (115 - 100) / 100 twice, (100 - 130) / 130
    assert "for 3 completed runs, the estimate differs from the record by -23 % to +15 %, median +15 %" in out
    assert "~1:50  gelu seed=3" in out


def test_networks_that_were_not_measured_in_time_are_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [planned(f"+step={step}", *TINY) for step in ("baseline", "training_recipe", "gelu")]
    measured: list[str] = []

    class Pool:
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def map(self, function: object, *lists: list[object]) -> list[object]:
            return [function(*arguments) for arguments in zip(*lists, strict=True)]  # type: ignore[operator]

        def submit(self, function: object, *arguments: object) -> object:
            future: forecast.Future[object] = forecast.Future()
            if function is not forecast._measure_spec:
                future.set_result(function(*arguments))  # type: ignore[operator]
            elif not measured:
                measured.append("first")
                future.set_result(Throughput("a device", 2.0, 1000.0, 3000.0))
            return future

    monkeypatch.setattr(forecast, "_pool", Mock(return_value=Pool()))
    monkeypatch.setattr(forecast, "LONGEST_MEASUREMENT", 0.01)
    result = forecast.make_forecast(runs, "here", Placement(2, 1, 0))
    assert result.method.startswith("1 of 3 networks measured")
    assert result.device == "a device"
    works = [result.workloads[config_hash(run.spec)] for run in runs]
    for run, work in zip(runs, works, strict=True):
        rate = 1000 * works[0].cost.gmacs / work.cost.gmacs
        expected = 2 + work.train_images / rate + work.eval_images / (3 * rate)
        assert result.seconds[config_hash(run.spec)] == pytest.approx(expected)


def test_an_unknown_device_of_a_plan_is_refused() -> None:
    for overrides in (("+step=gelu",), ("-m", "+step=gelu,baseline")):
        result = call_main(*overrides, "plan_device=h1000")
        assert result.code == EXIT_BAD_INPUT
        assert result.err.startswith(
            "error: plan_device=h1000: unknown; use one of auto, none, here, h100-pcie, h100, "
        )
        assert result.err.count("\n") == 1


def test_a_device_that_is_absent_leaves_the_time_unknown() -> None:
    result = call_main("+step=gelu", *TINY, "device=mps", "plan=true")
    assert result.code == 0
    assert "time, cost: unknown: device=mps: PyTorch finds no such device here" in result.out


def test_a_plan_under_torchrun_measures_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = call_main("+step=gelu", *TINY, "plan=true")
    assert result.code == 0, result.err
    assert "1 of 1 network measured on this machine" in result.out
    monkeypatch.setenv("RANK", "1")
    assert call_main("+step=gelu", *TINY, "plan=true").out.strip() == ""


def test_a_plan_for_a_cluster_does_not_measure_the_login_node(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra [slurm] is not installed")
    monkeypatch.setattr(estimate, "make_forecast", Mock(side_effect=AssertionError))
    result = call_main("-m", "+step=gelu,baseline", *TINY, "plan=true", "hydra/launcher=submitit_slurm")
    assert "time, cost: unknown until a run with this data, base and budget is completed; plan_device=GPU" in result.out


def test_several_processes_on_the_processor_share_the_threads_of_a_run() -> None:
    pools: list[tuple[int, object]] = []

    class Pool:
        def __init__(self, num_workers: int, initargs: tuple[object, ...], **_: object) -> None:
            pools.append((num_workers, initargs[1]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast, "ProcessPoolExecutor", Pool)
        for placement in (Placement(2, 4, 0), Placement(2, 4, 0, 2), Placement(1, 1, 0, 2), Placement(1, None, 0)):
            forecast._pool(placement.num_parallel, placement)
    assert pools == [(2, 4), (2, 2), (1, 1), (1, None)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data=timm", "data.name=hfds/a/b", "data.num_classes=3"), "data.name=hfds/a/b: its size is not known"),
        (("budget.train_images=2000",), "budget.train_images=2000: there are only 1437 images; use 1437 or less"),
        (("budget.batch_size=2000",), "budget.batch_size=2000: there are only 1437 training images"),
    ],
)
def test_a_run_that_would_be_refused_has_no_forecast(overrides: tuple[str, ...], message: str) -> None:
    result = call_main("+step=gelu", *overrides, "plan=true")
    assert result.code == 0, result.err
    assert f"time, cost: unknown: {message}" in result.out


def test_a_batch_that_cannot_be_split_leaves_the_memory_unknown() -> None:
    result = call_main("+step=gelu", "budget.batch_size=64", "processes=64", "plan=true", "plan_device=a100")
    assert (
        "memory: unknown: budget.batch_size=64: 64 processes with 1 parts each need two images per part" in result.out
    )
    assert "time: " in result.out
