"""How many runs share a GPU: the networks of small images leave it idle most of the time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import TYPE_CHECKING

from roadmap.config.names import one_line
from roadmap.config.schema import RunSpec, SpecError
from roadmap.records.record import config_hash
from roadmap.runtime import system
from roadmap.runtime.logs import logger
from roadmap.sweep.placement import Placement, choose_placement
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.processes import process_context, unblock_signals

if TYPE_CHECKING:  # imports torch
    from roadmap.training.throughput import GpuUse

USABLE = 0.8  # of the memory of a GPU


def place_runs(runs: Sequence[PlannedRun]) -> Placement:
    """Return `choose_placement`, but with several runs per GPU where the GPU has time and memory for them.

    The largest network of `runs` is measured for a second. One run per GPU is left where the images are large, where a
    run uses several GPUs or torch.compile, and where `parallel` gives the number of runs at once.
    """
    placement = choose_placement(runs)
    one_per_gpu = (
        not placement.num_gpus
        or placement.num_ranks > 1
        or len(runs) <= placement.num_gpus
        or any(run.spec.parallel or run.spec.compile or not run.spec.data.small_images for run in runs)
    )
    if one_per_gpu:
        return placement
    specs = {config_hash(run.spec): run.spec for run in runs}
    try:
        # Two processes at once, because some clusters allow only one process on a GPU.
        with _process() as first, _process() as second:
            use = first.submit(_measure_largest, list(specs.values())).result()
            second.submit(_use_gpu).result()
    except (SpecError, BrokenProcessPool) as error:
        logger.info(f"one run per GPU: {error}")
        return placement
    count = runs_per_gpu(use, system.num_cores() // placement.num_gpus)
    memory = f"{use.memory / 2**30:.1f} of {use.available / 2**30:.0f} GiB"
    logger.info(f"one run keeps a GPU busy for {100 * use.busy:.0f} % of the time and takes {memory}: {count} per GPU")
    num_parallel = min(count * placement.num_gpus, len(runs))
    return placement._replace(num_parallel=num_parallel, num_threads=max(1, system.num_cores() // num_parallel))


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=process_context(), initializer=unblock_signals)


def runs_per_gpu(use: GpuUse, num_cores: int) -> int:
    """Return how many runs that each need `use` fit one GPU and the cores that feed it; at least 1."""
    if use.busy <= 0:  # unknown
        return 1
    return max(1, min(int(1 / use.busy), int(USABLE * use.available / use.memory), num_cores))


def _measure_largest(specs: Sequence[RunSpec]) -> GpuUse:
    from roadmap.models.complexity import measure_cost
    from roadmap.training.memory import dataset_bytes
    from roadmap.training.throughput import measure_gpu_use
    from roadmap.training.workload import dataset_sizes

    largest = max(specs, key=lambda spec: measure_cost(spec.network, spec.data.image_size).gmacs)
    try:
        use = measure_gpu_use(largest)
        return replace(use, memory=use.memory + dataset_bytes(largest, dataset_sizes(largest)))
    except SpecError:
        raise
    except Exception as error:  # a sweep does not need the measurement
        raise SpecError(one_line(f"the measurement failed ({type(error).__name__}: {error})")) from error


def _use_gpu() -> None:
    import torch

    try:
        torch.zeros(1, device="cuda")
    except Exception as error:
        raise SpecError(one_line(f"a second process cannot use it ({error})")) from error
