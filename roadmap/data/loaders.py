"""From a dataset of images to the batches of a step.

Small datasets are one uint8 tensor in memory, on the accelerator if there is one; all their augmentation works on whole
batches (`roadmap.recipe`). Large ones stream through worker processes, which crop, flip and run RandAugment image by
image. Either way the order and every draw depend on (seed, epoch, image) alone: not on the number of workers, nor on
how many processes share a batch.
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
from roadmap.runtime.system import num_cores
from roadmap.runtime.world import SINGLE_PROCESS, World


def train_loader(images: Dataset[Any], run: RunSpec, split: BatchSplit, workers: int, device: torch.device) -> Loader:
    """Raises SpecError where there are fewer images than a batch takes."""
    if isinstance(images, ImageArray) and run.data.small_images:
        return MemoryLoader(images, run, split, device)
    return WorkerLoader(images, run, split, workers, device)


class Loader:
    """Batches of one epoch; the last incomplete one is dropped."""

    augments = False  # whether its images are cropped, flipped and RandAugmented already
    num_images: int
    steps_per_epoch: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The parts of steps `start` to `steps_per_epoch` - 1; `epoch` counts from 0."""
        raise NotImplementedError

    def _set_size(self, num_images: int, batch_size: int, readers: int = 1) -> None:
        self.num_images = num_images
        if num_images // readers < batch_size:
            raise SpecError(f"budget.batch_size={batch_size}: there are only {num_images} training images")
        # of a streamed dataset each worker reads its share and drops its own last incomplete batch
        self.steps_per_epoch = readers * (num_images // readers // batch_size)


class MemoryLoader(Loader):
    """A dataset in memory: a batch is a choice of rows."""

    def __init__(self, images: ImageArray, run: RunSpec, split: BatchSplit, device: torch.device) -> None:
        self.images, self.labels = in_memory(images, run, device)
        self.seed, self.split = run.seed, split
        self._set_size(len(images), split.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for index, places in self.split.addresses(self.num_images, self.seed, epoch, start):
            rows = index.to(self.images.device)
            yield Batch(self.images[rows], self.labels[rows], index, places)


def in_memory(images: ImageArray, run: RunSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """All images at the run's size, uint8 (N,C,H,W), and labels (N,), on `device`."""
    size, array = run.data.image_size, images.images
    channels = 1 if array.ndim == 3 else 3
    if array.shape[1:3] == (size, size) and channels == run.data.in_chans:
        pixels = torch.tensor(array.reshape(len(array), size, size, channels)).permute(0, 3, 1, 2)
    else:
        transform, mode = test_transform(run.data, run.recipe), pil_mode(run.data)
        pixels = torch.stack([transform(image.convert(mode)) for image, _ in images])
    return pixels.contiguous().to(device), torch.tensor(images.targets, dtype=torch.int64).to(device)


class WorkerLoader(Loader):
    """A dataset that worker processes read and augment image by image."""

    augments = True

    def __init__(
        self, images: Dataset[Any], run: RunSpec, split: BatchSplit, workers: int, device: torch.device
    ) -> None:
        transform = train_transform(run.data, run.recipe, run.budget.regularization)
        self.on_error = run.data.on_error
        self.streamed = isinstance(images, IterableDataset)
        common = _common(workers, device)
        self.source: AugmentedImages | AugmentedImageStream
        if isinstance(images, IterableDataset):
            if len(split.parts) > 1 or split.world.size > 1:
                raise SpecError(f"data.name={run.data.name}: a streamed dataset trains in one process and one part")
            common = _common(workers := _set_workers(images, workers), device)
            self.source = AugmentedImageStream(images, run.data, transform, run.seed)
            self.loader = DataLoader(self.source, batch_size=split.batch_size, drop_last=True, **common)
        else:
            self.source = AugmentedImages(images, run.data, transform, run.seed)
            self.sampler = EpochSampler(len(images), run.seed, split)  # type: ignore[arg-type]
            self.loader = DataLoader(self.source, batch_sampler=self.sampler, persistent_workers=workers > 0, **common)
        self._set_size(len(images), split.batch_size, max(1, workers) if self.streamed else 1)  # type: ignore[arg-type]
        self.parts = len(split.parts)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        skip = 0
        if isinstance(self.source, AugmentedImageStream):
            self.source.set_epoch(epoch)
            skip = start  # a stream has no middle to begin at: what was done is read again and dropped
        else:
            self.sampler.epoch, self.sampler.start = epoch, start
        batches = iter(self.loader)
        for number in range(skip + (self.steps_per_epoch - start) * self.parts):
            batch = next(batches)
            if number >= skip:
                yield readable(batch, self.on_error)


def eval_loader(
    images: Dataset[Any],
    run: RunSpec,
    batch_size: int,
    workers: int,
    device: torch.device,
    world: World = SINGLE_PROCESS,
) -> Any:
    """This process's share of the test set, each image once: can be iterated again and again for its batches."""
    if isinstance(images, ImageArray) and run.data.small_images:
        pixels, labels = in_memory(images, run, device)
        mine = torch.arange(world.rank, len(labels), world.size)
        return [Batch(pixels[index], labels[index], index, index) for index in mine.split(batch_size)]
    transform = test_transform(run.data, run.recipe)
    if isinstance(images, IterableDataset):
        _set_workers(images, 1)  # one reader keeps the order
        return DataLoader(TestImageStream(images, run.data, transform), batch_size=batch_size, collate_fn=collate)
    source = TestImages(images, run.data, transform)
    mine = range(world.rank, len(source), world.size)
    return DataLoader(source, batch_size, sampler=mine, persistent_workers=workers > 0, **_common(workers, device))


def _common(workers: int, device: torch.device) -> dict[str, Any]:
    """What all loaders are told. Workers are forked, as PyTorch's are on Linux: a run in a process of its own would
    otherwise inherit the study's way to start processes, and import everything anew for each worker."""
    common: dict[str, Any] = {"num_workers": workers, "pin_memory": device.type == "cuda", "collate_fn": collate}
    if workers > 0 and sys.platform == "linux":
        common |= {"multiprocessing_context": "fork", "worker_init_fn": _ignore_foreign_sigterm}
    return common


def _ignore_foreign_sigterm(_worker: int) -> None:
    """A signal that asks all processes of a job to stop must not take the workers from a run that is about to write
    its checkpoint: of a worker, SIGTERM ends it only if its own run sends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _set_workers(images: IterableDataset[Any], workers: int) -> int:
    """Tell a streamed dataset how many workers share it: `workers`, but no more than it has shards to share."""
    reader: Any = images.reader  # type: ignore[attr-defined]
    shards = getattr(getattr(reader, "split_info", None), "filenames", None)
    workers = min(workers, len(shards)) if shards else workers
    images.set_loader_cfg(num_workers=max(1, workers))  # type: ignore[attr-defined]
    return workers


def num_workers(data: DataSpec, device: str, world: World = SINGLE_PROCESS) -> int:
    """Loader processes: as asked for; else, training on the CPU, half of the cores for large images and none for small
    ones (the cores are the trainer's), and on an accelerator all cores but one, at most 12. Processes that torchrun
    started share the cores."""
    if data.workers is not None:
        return data.workers
    mine = max(1, num_cores() // world.size)
    if device == "cpu":
        return 0 if data.small_images else max(1, mine // 2)
    return min(12, max(1, mine - 1))
