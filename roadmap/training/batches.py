"""The batches of a run, and its schedule: what follows from the spec, the dataset and the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from roadmap.config.schedule import Schedule, make_schedule
from roadmap.config.schema import RunSpec
from roadmap.data import datasets
from roadmap.data.download import download_if_absent
from roadmap.data.loaders import Loader, eval_loader, num_workers, train_loader
from roadmap.data.sampling import BatchSplit
from roadmap.runtime import distributed
from roadmap.runtime.world import World


class Batches(NamedTuple):
    """The batches of a run in one of its processes."""

    schedule: Schedule
    split: BatchSplit
    train: Loader
    test: Any  # an iterable of batches that can be repeated


def load_batches(spec: RunSpec, device: torch.device, world: World, log: Callable[[str], None]) -> Batches:
    """Load the dataset, downloaded by rank zero if necessary. Raises SpecError if it does not fit the spec."""
    if world.is_rank_zero:
        download_if_absent(spec.data)
    distributed.all_gather(None)  # the other processes wait for the download
    splits = datasets.load(spec.data, spec.budget)
    num_train = len(splits.train)  # type: ignore[arg-type]
    schedule = make_schedule(spec.recipe, spec.budget, num_train)
    workers = num_workers(spec.data, device.type, world)
    split = BatchSplit.of(spec, schedule.batch_size, world)
    train = train_loader(splits.train, spec, split, workers, device)
    sizes = {"train_images": num_train, "test_images": len(splits.test), "batch_size": schedule.batch_size}  # type: ignore[arg-type]
    if fewer := [f"{name}={size}" for name, size in sizes.items() if size < (getattr(spec.budget, name) or 0)]:
        log(f"budget={spec.budget.name} reduced to the size of the dataset: {', '.join(fewer)}")
    test = eval_loader(splits.test, spec, min(2 * schedule.batch_size, 512), workers, device, world)
    return Batches(schedule, split, train, test)
