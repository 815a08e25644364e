"""What a run computes, stores and writes, counted before it starts: for plans (`plan=true`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from roadmap.config.choices import Precision
from roadmap.config.datasets import KNOWN_DATASETS, Source
from roadmap.config.folders import is_folder
from roadmap.config.schedule import fit_to_dataset, make_schedule
from roadmap.config.schema import RunSpec, SpecError
from roadmap.data import datasets
from roadmap.data.sampling import BatchSplit
from roadmap.models.complexity import Cost, measure_cost
from roadmap.models.network import build_network
from roadmap.runtime.world import World
from roadmap.training.device import choose_device
from roadmap.training.evaluation import evaluated_epochs
from roadmap.training.memory import choose_accumulate, estimate_memory, memory_of_process

BYTES = 4  # of a parameter, and of each of its optimizer's states


@dataclass(frozen=True)
class Workload:
    """The work of one run."""

    cost: Cost
    depthwise_activations: int  # elements of the outputs of depthwise convolutions for one image
    num_layers: int  # modules without submodules
    iterations: int
    batch_size: int
    train_images: int  # over all epochs
    eval_images: int  # over all evaluations
    num_test: int
    checkpoint_bytes: int
    weights_bytes: int  # of the weights beside the record; 0 if they are not written


@dataclass(frozen=True)
class MemoryNeed:
    """The memory of a run, in bytes, on a device with `available` bytes for it."""

    needed: float
    available: float
    accumulate: int
    fits: bool


def count_workload(spec: RunSpec, sizes: tuple[int, int]) -> Workload:
    """Return the work of the run of `spec` with `sizes` of `dataset_sizes`; nothing is computed.

    Raises SpecError if a batch has more images than the dataset.
    """
    num_train, num_test = sizes
    schedule = make_schedule(spec.recipe, spec.budget, num_train)
    if num_train < schedule.batch_size:
        reason = f"there are only {num_train} training images; use {num_train} or less"
        raise SpecError(f"budget.batch_size={schedule.batch_size}: {reason}")
    cost = measure_cost(spec.network, spec.data.image_size)
    with torch.device("meta"):
        model = build_network(spec.network, spec.data.image_size)
    iterations = schedule.epochs * (num_train // schedule.batch_size)
    copies = 1 + (spec.recipe.ema_decay is not None)
    states = 1 if spec.recipe.optimizer.value == "sgd" else 2
    return Workload(
        cost=cost,
        depthwise_activations=count_depthwise_activations(model, spec),
        num_layers=sum(not list(module.children()) for module in model.modules()),
        iterations=iterations,
        batch_size=schedule.batch_size,
        train_images=iterations * schedule.batch_size,
        eval_images=copies * num_test * len(evaluated_epochs(schedule, spec.budget.evaluations)),
        num_test=num_test,
        checkpoint_bytes=BYTES * cost.params * (copies + states),
        weights_bytes=BYTES * cost.params * copies if spec.save_weights else 0,
    )


def dataset_sizes(spec: RunSpec) -> tuple[int, int]:
    """Return the numbers of training and test images with the run's budget.

    Known datasets need not be on this machine, and class folders are counted. Raises SpecError for datasets that timm
    opens, which may download files, and as `datasets.load` does.
    """
    known = KNOWN_DATASETS.get(spec.data.name)
    has_folder = known is not None and known.source is Source.folder and spec.data.root and is_folder(spec.data.root)
    if known is None:
        if spec.budget.train_images is None or spec.budget.test_images is None:
            reason = "its size is not known before a run; set budget.train_images and budget.test_images for the plan"
            raise SpecError(f"data.name={spec.data.name}: {reason}")
        return spec.budget.train_images, spec.budget.test_images
    if known.sizes is None or has_folder:
        splits = datasets.load(spec.data, spec.budget)
        return len(splits.train), len(splits.test)  # type: ignore[arg-type]
    num_train, num_test = known.sizes
    if spec.data.holdout is not None:
        num_train, num_test = num_train - spec.data.holdout, spec.data.holdout
    available = {"train_images": num_train, "test_images": num_test}
    for name, size in available.items():
        wanted = fit_to_dataset(spec.budget, name, size)
        if wanted is not None and wanted > size:
            raise SpecError(f"budget.{name}={wanted}: there are only {size} images; use {size} or less")
        available[name] = size if wanted is None else wanted
    return available["train_images"], available["test_images"]


def count_depthwise_activations(model: nn.Module, spec: RunSpec) -> int:
    """Return the elements of the outputs of the depthwise convolutions of `model`, on the meta device, for an image."""
    counts: list[int] = []

    def count(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        counts.append(output.numel())

    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    ]
    with torch.no_grad():
        model.eval()(torch.empty(1, spec.network.in_chans, spec.data.image_size, spec.data.image_size, device="meta"))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def memory_need(
    spec: RunSpec, sizes: tuple[int, int], world_size: int, memory: float | None, share: float
) -> MemoryNeed:
    """Return the memory that a run takes of a device, of which it may use `share`; None: of this device.

    Raises SpecError if its batches cannot be split.
    """
    precision, num_sharing = Precision.bf16 if spec.precision is Precision.auto else spec.precision, 1
    if memory is None:
        device_config = choose_device(spec.device, spec.precision)
        memory, precision = device_config.memory_bytes(), device_config.precision
        num_sharing = world_size if device_config.device.type == "cpu" else 1  # each process has a GPU of its own
    available = memory_of_process(spec, sizes, memory, share, num_sharing)
    batch_size = make_schedule(spec.recipe, spec.budget, sizes[0]).batch_size
    world = World(size=world_size, local_size=world_size)
    accumulate = choose_accumulate(spec, batch_size, world, available, precision)
    largest = max(map(len, BatchSplit.of(spec, batch_size, world, accumulate).parts))
    needed = estimate_memory(spec, precision).for_images(largest)
    return MemoryNeed(needed, available, accumulate, needed <= available)
