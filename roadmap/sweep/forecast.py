"""Duration, memory and disk space of runs before any of them has a record.

The work of a run is counted. Its speed is either measured on this machine, for about a second per network, or taken
from published measurements of a GPU (`roadmap.runtime.gpus`). Processes of the fork server do this, because it needs
torch.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING, Any

from roadmap.config.choices import Precision
from roadmap.config.names import one_line, printable
from roadmap.config.schema import RunSpec, SpecError
from roadmap.records.record import config_hash
from roadmap.runtime import gpus, system
from roadmap.runtime.logs import logger
from roadmap.sweep.placement import Placement
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.processes import process_context, unblock_signals, visible_devices

if TYPE_CHECKING:  # modules that import torch
    from roadmap.training.throughput import Throughput
    from roadmap.training.workload import MemoryNeed, Workload

LONGEST_MEASUREMENT = 60.0  # seconds for the networks of all runs; the speed of the others follows from multiply-adds
# A network of small images keeps a GPU waiting for the processor, which starts one operation after the other.
OPERATIONS_PER_LAYER = 7  # in a training iteration; counted in tests
SECONDS_PER_OPERATION = 1e-5  # of the processor; assumed
RECORD_BYTES = 50_000  # of record.json, history.csv and log.txt of a run
HERE = "here"


@dataclass
class Forecast:
    """The forecast of a sweep's runs."""

    device: str  # name of a processor or GPU
    method: str  # how the speed was determined
    seconds: dict[str, float] = field(default_factory=dict)  # config hash -> seconds of a run
    workloads: dict[str, Workload] = field(default_factory=dict)  # config hash -> work
    memory: MemoryNeed | None = None  # of the run that needs most
    largest: str = ""  # name of that run
    problem: str = ""  # why there is no forecast
    memory_problem: str = ""  # why there is none of the memory


def check_plan_device(name: str) -> None:
    """Raise SpecError if `plan_device` has no such value."""
    names = ("auto", "none", HERE, *gpus.planning_names())
    if name not in names:
        raise SpecError(f"plan_device={printable(name, 100)}: unknown; use one of {', '.join(names)}")


def make_forecast(runs: Sequence[PlannedRun], plan_device: str, placement: Placement) -> Forecast:
    """Return the forecast of all `runs` on this machine (`here`), or on a GPU of `gpus.planning_names()`.

    `placement` is where the runs would train on this machine.
    """
    specs = {config_hash(run.spec): run.spec for run in runs}
    gpu = None if plan_device == HERE else gpus.find_gpu(plan_device)
    forecast = Forecast(plan_device, "")
    num_workers = max(1, placement.num_parallel if gpu is None else min(system.num_cores(), len(specs)))
    try:
        with _pool(num_workers, placement if gpu is None else None) as pool:
            sizes = _sizes(specs, pool)
            counted = pool.map(_count, specs.values(), [sizes[key] for key in specs])
            forecast.workloads = dict(zip(specs, counted, strict=True))
            if gpu is None:
                _measure(forecast, specs, placement, num_workers, pool)
            else:
                forecast.method = "from the published training throughput of ResNet-50"
                for key, spec in specs.items():
                    forecast.seconds[key] = seconds_on_gpu(forecast.workloads[key], gpu, spec.precision)
            try:
                _add_memory(forecast, runs, specs, sizes, placement, gpu, pool)
            except SpecError as error:
                forecast.memory_problem = str(error)
    except SpecError as error:
        forecast.problem = str(error)
    except BrokenProcessPool:
        forecast.problem = "the process that measured died; the system does this when memory runs out"
    return forecast


def _sizes(specs: dict[str, RunSpec], pool: ProcessPoolExecutor) -> dict[str, tuple[int, int]]:
    """Return the sizes of the datasets; files are read once for each dataset and budget."""
    datasets = {key: repr((spec.data, spec.budget)) for key, spec in specs.items()}
    first = {dataset: key for key, dataset in reversed(datasets.items())}
    found = dict(zip(first, pool.map(_dataset_sizes, [specs[key] for key in first.values()]), strict=True))
    return {key: found[dataset] for key, dataset in datasets.items()}


def _pool(num_workers: int, placement: Placement | None) -> ProcessPoolExecutor:
    """Return a pool of processes, each with the threads, and the GPU, of one process of a run of `placement`."""
    context = process_context()
    devices = context.SimpleQueue()
    for number in range(num_workers):
        has_gpus = placement is not None and placement.num_groups > 0
        group = number % placement.num_groups if placement is not None and has_gpus else None
        devices.put(visible_devices(None if group is None or placement is None else [group * placement.num_ranks]))
    threads = None
    if placement is not None and placement.num_threads is not None:
        threads = max(1, placement.num_threads // placement.num_ranks)
    return ProcessPoolExecutor(num_workers, mp_context=context, initializer=_set_up, initargs=(devices, threads))


def _set_up(devices: Any, threads: int | None) -> None:
    unblock_signals()
    os.environ["WORLD_SIZE"] = "1"  # under torchrun too, this process is alone
    visible = devices.get()
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def _measure(
    forecast: Forecast, specs: dict[str, RunSpec], placement: Placement, num_workers: int, pool: ProcessPoolExecutor
) -> None:
    """Measure as many networks as the time allows, spread over the list, and scale to the others.

    As many networks are measured at once as runs would train at once. N processes of a run are assumed to train it N
    times as fast as one of them.
    """
    networks = "1 network" if len(specs) == 1 else f"{len(specs)} networks"
    logger.info(f"measuring {networks} on this machine, for about a minute at most (plan_device=none leaves this out)")
    started = time.monotonic()
    keys = [list(specs)[number] for number in spread(len(specs))]
    keys = keys * -(-num_workers // len(keys)) if len(keys) < num_workers else keys
    futures: dict[Future[Throughput], str] = {pool.submit(_measure_spec, specs[key]): key for key in keys}
    done, pending = wait(futures, timeout=LONGEST_MEASUREMENT)
    if not done:
        done, pending = wait(futures, return_when="FIRST_COMPLETED")
    for future in pending:
        future.cancel()
    measured: dict[str, list[Throughput]] = defaultdict(list)
    for future in done:
        measured[futures[future]].append(future.result())
    everything = [(throughput, key) for key, throughputs in measured.items() for throughput in throughputs]
    seconds_per_gmac = mean(1 / (found.train * forecast.workloads[key].cost.gmacs) for found, key in everything)
    evaluation_factor = mean(found.evaluation / found.train for found, _ in everything)
    setup_seconds = mean(found.setup_seconds for found, _ in everything)
    for key, work in forecast.workloads.items():
        rate = 1 / (seconds_per_gmac * work.cost.gmacs)
        evaluation = rate * evaluation_factor
        if key in measured:
            rate = mean(found.train for found in measured[key])
            evaluation = mean(found.evaluation for found in measured[key])
        work_seconds = work.train_images / rate + work.eval_images / evaluation
        forecast.seconds[key] = setup_seconds + work_seconds / placement.num_ranks
    forecast.device = everything[0][0].device
    seconds = time.monotonic() - started
    forecast.method = f"{len(measured)} of {networks} measured on this machine, in {seconds:.0f} s"


def spread(count: int) -> list[int]:
    """Return 0 to `count - 1` in an order whose first elements are spread over the whole range."""
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda number: f"{number:0{bits}b}"[::-1])


def seconds_on_gpu(work: Workload, gpu: gpus.Gpu, precision: Precision) -> float:
    """Return the duration of a run on `gpu`, which has a published training throughput of ResNet-50."""
    resnet50 = gpu.resnet50_fp32 if precision is Precision.fp32 else gpu.resnet50_16bit
    assert resnet50 is not None
    cost = gpus.relative_training_cost(work.cost.gmacs, work.cost.activations, work.depthwise_activations)
    iteration = work.batch_size * cost / resnet50
    launches = work.num_layers * OPERATIONS_PER_LAYER * SECONDS_PER_OPERATION
    evaluation = work.eval_images * cost / resnet50 / gpus.PASSES
    return work.iterations * max(iteration, launches) + evaluation


def _add_memory(
    forecast: Forecast,
    runs: Sequence[PlannedRun],
    specs: dict[str, RunSpec],
    sizes: dict[str, tuple[int, int]],
    placement: Placement,
    gpu: gpus.Gpu | None,
    pool: ProcessPoolExecutor,
) -> None:
    """Count the memory of the run with the largest feature maps, and of the one with the most parameters."""
    works = forecast.workloads
    largest = {max(works, key=lambda key: works[key].cost.activations * works[key].batch_size)}
    largest.add(max(works, key=lambda key: works[key].cost.params))
    memory = None if gpu is None else gpu.memory * 2**30
    share = 1.0 if gpu is not None else placement.resources.device_share
    num_ranks = runs[0].spec.processes or 1
    needs = {
        key: pool.submit(_count_memory, specs[key], sizes[key], num_ranks, memory, share) for key in sorted(largest)
    }
    key = max(needs, key=lambda key: (needs[key].result().accumulate, needs[key].result().needed))
    forecast.memory = needs[key].result()
    forecast.largest = next(run.title for run in runs if config_hash(run.spec) == key).rpartition(" seed=")[0]


def _dataset_sizes(spec: RunSpec) -> tuple[int, int]:
    from roadmap.training.workload import dataset_sizes

    return dataset_sizes(spec)


def _count(spec: RunSpec, sizes: tuple[int, int]) -> Workload:
    from roadmap.training.workload import count_workload

    return count_workload(spec, sizes)


def _measure_spec(spec: RunSpec) -> Throughput:
    from roadmap.training.throughput import measure_throughput

    try:
        return measure_throughput(spec)
    except SpecError:
        raise
    except Exception as error:  # of a driver or a full memory: the plan goes on without it
        raise SpecError(one_line(f"{type(error).__name__}: {error}")) from error


def _count_memory(
    spec: RunSpec, sizes: tuple[int, int], world_size: int, memory: float | None, share: float
) -> MemoryNeed:
    from roadmap.training.workload import memory_need

    return memory_need(spec, sizes, world_size, memory, share)
