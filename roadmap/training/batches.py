"""The batches of a run, and its schedule: what follows from the spec, the dataset and the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset

from roadmap.config.schedule import Schedule, make_schedule
from roadmap.config.schema import RunSpec
from roadmap.data import datasets
from roadmap.data.download import download_if_absent
from roadmap.data.loaders import Loader, eval_loader, num_workers, train_loader
from roadmap.data.sampling import BatchSplit
from roadmap.runtime import distributed
from roadmap.runtime.system import Resources
from roadmap.runtime.world import World
from roadmap.training.device import DeviceConfig
from roadmap.training.memory import choose_accumulate, memory_of_process


class Batches(NamedTuple):
    """The batches of a run in one of its processes."""

    schedule: Schedule
    split: BatchSplit
    train: Loader
    test: Any  # an iterable of batches that can be repeated


def load_batches(
    spec: RunSpec, device_config: DeviceConfig, world: World, resources: Resources, log: Callable[[str], None]
) -> Batches:
    """Load the dataset, downloaded by rank zero if necessary. Raises SpecError if it does not fit the spec."""
    device = device_config.device
    if world.is_rank_zero:
        download_if_absent(spec.data)
    distributed.all_gather(None)  # the other processes wait for the download
    splits = datasets.load(spec.data, spec.budget)
    num_train = len(splits.train)  # type: ignore[arg-type]
    schedule = make_schedule(spec.recipe, spec.budget, num_train)
    workers = num_workers(spec.data, device.type, max(1, resources.cores // world.local_size))
    accumulate = 1
    if not isinstance(splits.train, IterableDataset):
        num_sharing = world.local_size if device.type == "cpu" else 1  # each process has a GPU of its own
        sizes = (num_train, len(splits.test))  # type: ignore[arg-type]
        device_memory, share = device_config.memory_bytes(), resources.device_share
        memory = memory_of_process(spec, sizes, device_memory, share, num_sharing)
        chosen = choose_accumulate(spec, schedule.batch_size, world, memory, device_config.precision)
        if spec.accumulate is None:
            chosen = max(chosen, resources.min_accumulate)
        accumulate = int(*distributed.all_reduce_max(chosen))  # devices may differ
    elif spec.accumulate is not None:
        accumulate = spec.accumulate
    split = BatchSplit.of(spec, schedule.batch_size, world, accumulate)
    if accumulate > 1 and spec.accumulate is None:
        log(f"accumulate={accumulate}: batches of {schedule.batch_size:,} images in parts that fit the memory")
    train = train_loader(splits.train, spec, split, workers, device)
    available = {"train_images": num_train, "test_images": len(splits.test), "batch_size": schedule.batch_size}  # type: ignore[arg-type]
    if fewer := [f"{name}={size}" for name, size in available.items() if size < (getattr(spec.budget, name) or 0)]:
        log(f"budget={spec.budget.name} reduced to the size of the dataset: {', '.join(fewer)}")
    test = eval_loader(splits.test, spec, min(2 * schedule.batch_size, 512), workers, device, world)
    return Batches(schedule, split, train, test)
