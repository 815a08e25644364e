"""Loaders: from a dataset of images to the batches of an epoch.

Small datasets are one uint8 tensor in memory, on the accelerator if there is one; whole batches of it are augmented
(`roadmap.training.recipe`). Large datasets are streamed by worker processes, which crop, flip and apply RandAugment to
single images. In both cases the order and every draw depend only on (seed, epoch, image): not on the number of workers
and not on how many processes share a batch.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from roadmap.config.schema import DataSpec, RunSpec, SpecError
from roadmap.data.datasets import ImageArray
from roadmap.data.images import (
    AugmentedImages,
    AugmentedImageStream,
    Batch,
    TestImages,
    TestImageStream,
    collate,
    readable,
)
from roadmap.data.sampling import BatchSplit, EpochSampler
from roadmap.data.transforms import pil_mode, test_transform, train_transform
from roadmap.runtime.world import SINGLE_PROCESS, World

# Loader processes of an evaluation. They end with it: those of the training wait meanwhile and keep their memory.
EVAL_WORKERS = 4


def train_loader(images: Dataset[Any], run: RunSpec, split: BatchSplit, workers: int, device: torch.device) -> Loader:
    """Return the loader of the training images. Raises SpecError if there are fewer images than a batch takes."""
    if isinstance(images, ImageArray) and run.data.small_images:
        return MemoryLoader(images, run, split, device)
    return WorkerLoader(images, run, split, workers, device)


class Loader:
    """Batches of one epoch; the last incomplete batch is dropped."""

    augments = False  # whether the loader crops, flips and applies RandAugment
    num_images: int
    iterations_per_epoch: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the parts of the batches of an epoch, from iteration `start` on; `epoch` counts from 0."""
        raise NotImplementedError

    def _set_size(self, num_images: int, batch_size: int, readers: int = 1) -> None:
        """Set the number of images and of iterations.

        Each of the `readers` workers of a streamed dataset reads its own images and drops its last incomplete batch.
        """
        self.num_images = num_images
        if num_images // readers < batch_size:
            message = f"there are only {num_images} training images"
            message += f" for {readers} loader processes" if readers > 1 else ""
            raise SpecError(f"budget.batch_size={batch_size}: {message}; use {num_images // readers} or less")
        self.iterations_per_epoch = readers * (num_images // readers // batch_size)


class MemoryLoader(Loader):
    """Loader of a dataset in memory: a batch is a selection of rows."""

    def __init__(self, images: ImageArray, run: RunSpec, split: BatchSplit, device: torch.device) -> None:
        self.images, self.labels = in_memory(images, run, device)
        self.seed, self.split = run.seed, split
        self._set_size(len(images), split.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the parts of the batches of an epoch, from iteration `start` on; `epoch` counts from 0."""
        order = self.split.order(self.num_images, self.seed, epoch)
        rows = order.to(self.images.device)  # once, because each transfer of a part would wait for the device
        for place, positions in self.split.addresses(self.num_images, start):
            yield Batch(self.images[rows[place]], self.labels[rows[place]], order[place], positions)


def in_memory(images: ImageArray, run: RunSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return all images at the run's image size, uint8 (N,C,H,W), and labels, int64 (N,), on `device`."""
    size, array = run.data.image_size, images.images
    channels = 1 if array.ndim == 3 else 3
    if array.shape[1:3] == (size, size) and channels == run.data.in_chans:
        pixels = torch.tensor(array.reshape(len(array), size, size, channels)).permute(0, 3, 1, 2)
    else:
        transform, mode = test_transform(run.data, run.recipe), pil_mode(run.data)
        pixels = torch.stack([transform(image.convert(mode)) for image, _ in images])
    return pixels.contiguous().to(device), torch.tensor(images.targets, dtype=torch.int64).to(device)


class WorkerLoader(Loader):
    """Loader of a dataset that worker processes read and augment image by image."""

    augments = True

    def __init__(
        self, images: Dataset[Any], run: RunSpec, split: BatchSplit, workers: int, device: torch.device
    ) -> None:
        transform = train_transform(run.data, run.recipe, run.budget.regularization)
        self.on_error = run.data.on_error
        self.num_parts = len(split.parts)
        self.source: AugmentedImages | AugmentedImageStream
        readers = 1
        if isinstance(images, IterableDataset):
            if len(split.parts) > 1 or split.world.size > 1:
                message = "a streamed dataset trains in one process and in one part; set accumulate=1, without torchrun"
                raise SpecError(f"data.name={run.data.name}: {message}")
            workers = _limit_workers(images, workers)
            readers = max(1, workers)
            self.source = AugmentedImageStream(images, run.data, transform, run.seed)
            options = _common_options(workers, device)
            self.loader = DataLoader(self.source, batch_size=split.batch_size, drop_last=True, **options)
        else:
            self.source = AugmentedImages(images, run.data, transform, run.seed)
            self.sampler = EpochSampler(len(images), run.seed, split)  # type: ignore[arg-type]
            options = _common_options(workers, device)
            self.loader = DataLoader(self.source, batch_sampler=self.sampler, persistent_workers=workers > 0, **options)
        self._set_size(len(images), split.batch_size, readers)  # type: ignore[arg-type]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the parts of the batches of an epoch, from iteration `start` on; `epoch` counts from 0."""
        skipped = 0
        if isinstance(self.source, AugmentedImageStream):
            self.source.set_epoch(epoch)
            skipped = start  # a stream cannot begin in the middle: the first iterations are read again and dropped
        else:
            self.sampler.epoch, self.sampler.start = epoch, start
        batches = iter(self.loader)
        for number in range(skipped + (self.iterations_per_epoch - start) * self.num_parts):
            batch = next(batches)
            if number >= skipped:
                if isinstance(self.source, AugmentedImageStream):
                    batch = batch._replace(positions=torch.arange(len(batch.labels)))
                yield readable(batch, self.on_error)


def eval_loader(
    images: Dataset[Any],
    run: RunSpec,
    batch_size: int,
    workers: int,
    device: torch.device,
    world: World = SINGLE_PROCESS,
) -> Any:
    """Return this process's share of the test set, each image once, as an iterable of batches that can be repeated."""
    if isinstance(images, ImageArray) and run.data.small_images:
        pixels, labels = in_memory(images, run, device)
        own = torch.arange(world.rank, len(labels), world.size)
        return [Batch(pixels[indices], labels[indices], indices, indices) for indices in own.split(batch_size)]
    transform = test_transform(run.data, run.recipe)
    if isinstance(images, IterableDataset):
        _limit_workers(images, 1)  # one reader keeps the order
        return DataLoader(TestImageStream(images, run.data, transform), batch_size=batch_size, collate_fn=collate)
    source = TestImages(images, run.data, transform)
    sampler = range(world.rank, len(source), world.size)
    return DataLoader(source, batch_size, sampler=sampler, **_common_options(min(workers, EVAL_WORKERS), device))


def _common_options(workers: int, device: torch.device) -> dict[str, Any]:
    """Return the options of every DataLoader.

    Workers are forked on Linux. A newly started interpreter would import everything again;
    Python 3.14 starts one by default.
    """
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": device.type == "cuda", "collate_fn": collate}
    if workers > 0 and sys.platform == "linux":
        options |= {"multiprocessing_context": "fork", "worker_init_fn": block_foreign_sigterm}
    return options


def block_foreign_sigterm(_worker: int) -> None:
    """Let SIGTERM end this worker only if its own run sends it.

    A signal sent to all processes of a cluster job must not end the workers of a run that is about to write its
    checkpoint.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_on_sigterm_of_parent, daemon=True).start()


def _exit_on_sigterm_of_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _limit_workers(images: IterableDataset[Any], workers: int) -> int:
    """Tell a streamed dataset how many workers share it, and return that number: at most one per shard."""
    reader: Any = images.reader  # type: ignore[attr-defined]
    shards = getattr(getattr(reader, "split_info", None), "filenames", None)
    workers = min(workers, len(shards)) if shards else workers
    images.set_loader_cfg(num_workers=max(1, workers))  # type: ignore[attr-defined]
    return workers


def num_workers(data: DataSpec, device: str, cores: int) -> int:
    """Return the number of loader processes: `data.workers`, or a number chosen from the `cores` of this process.

    On the CPU, which also trains, large images get half of the cores and small ones none; on an accelerator all cores
    but one, at most 12.
    """
    if data.workers is not None:
        return data.workers
    if device == "cpu":
        return 0 if data.small_images else max(1, cores // 2)
    return min(12, max(1, cores - 1))
