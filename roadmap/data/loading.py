"""From a dataset of images to the batches of a step.

Small datasets are one uint8 tensor in memory, on the accelerator if there is one; all their augmentation works on whole
batches (`roadmap.recipe`). Large ones stream through worker processes, which crop, flip and run RandAugment image by
image. Either way the order and every draw depend on (seed, epoch, image) alone: not on the number of workers, nor on
how many processes share a batch.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from PIL.Image import DecompressionBombError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset

from roadmap.data.datasets import ImageArray
from roadmap.data.transforms import Transform, pil_mode, test_transform, train_transform
from roadmap.distributed import ALONE, World, positions
from roadmap.record import cores
from roadmap.seeds import derive, seed_all
from roadmap.spec import DataSpec, OnError, RunSpec, SpecError


class Batch(NamedTuple):
    images: Tensor  # uint8 N,C,H,W
    labels: Tensor  # int64 N
    indices: Tensor  # int64 N, in the dataset; on the CPU
    positions: Tensor  # int64 N, in the batch of all processes and parts; on the CPU
    unreadable: tuple[str, ...] = ()  # the images that were left out: path and reason


# What Pillow raises for files that are no images, or not whole.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, DecompressionBombError, struct.error, zlib.error)


class BadImageError(Exception):
    """An image that cannot be read; the message names it."""


class Split:
    """How one batch is shared out: over `world`, and in each process over `accumulate` parts, one after the other."""

    def __init__(self, batch_size: int, world: World = ALONE, accumulate: int = 1) -> None:
        self.batch_size, self.world, self.accumulate = batch_size, world, accumulate
        parts = world.size * accumulate
        what = f"there are {world.size} processes with {accumulate} parts each, and a part takes a pair of images"
        if parts > 1 and batch_size < 2 * parts:
            raise SpecError(f"budget.batch_size={batch_size}: {what}; take {2 * parts} or more")
        self.parts = [positions(batch_size, world.rank * accumulate + i, parts) for i in range(accumulate)]

    def addresses(self, num_images: int, seed: int, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's (image indices, positions) of every part of every step from `start` on."""
        generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
        order = torch.randperm(num_images, generator=generator)
        for step in range(start, num_images // self.batch_size):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            for part in self.parts:
                yield batch[part], part


def train_loader(images: Dataset[Any], run: RunSpec, split: Split, workers: int, device: torch.device) -> Loader:
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

    def __init__(self, images: ImageArray, run: RunSpec, split: Split, device: torch.device) -> None:
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

    def __init__(self, images: Dataset[Any], run: RunSpec, split: Split, workers: int, device: torch.device) -> None:
        transform = train_transform(run.data, run.recipe, run.budget.regularization)
        self.on_error = run.data.on_error
        self.streamed = isinstance(images, IterableDataset)
        common = _common(workers, device)
        self.source: Augmented | AugmentedStream
        if isinstance(images, IterableDataset):
            if len(split.parts) > 1 or split.world.size > 1:
                raise SpecError(f"data.name={run.data.name}: a streamed dataset trains in one process and one part")
            common = _common(workers := _set_workers(images, workers), device)
            self.source = AugmentedStream(images, run.data, transform, run.seed)
            self.loader = DataLoader(self.source, batch_size=split.batch_size, drop_last=True, **common)
        else:
            self.source = Augmented(images, run.data, transform, run.seed)
            self.sampler = EpochSampler(len(images), run.seed, split)  # type: ignore[arg-type]
            self.loader = DataLoader(self.source, batch_sampler=self.sampler, persistent_workers=workers > 0, **common)
        self._set_size(len(images), split.batch_size, max(1, workers) if self.streamed else 1)  # type: ignore[arg-type]
        self.parts = len(split.parts)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        skip = 0
        if isinstance(self.source, AugmentedStream):
            self.source.set_epoch(epoch)
            skip = start  # a stream has no middle to begin at: what was done is read again and dropped
        else:
            self.sampler.epoch, self.sampler.start = epoch, start
        batches = iter(self.loader)
        for number in range(skip + (self.steps_per_epoch - start) * self.parts):
            batch = next(batches)
            if number >= skip:
                yield readable(batch, self.on_error)


class EpochSampler(Sampler[list[tuple[int, int, int]]]):
    """The parts of an epoch's steps as (image index, epoch, position), from step `start` on."""

    def __init__(self, num_images: int, seed: int, split: Split) -> None:
        self.num_images, self.seed, self.split = num_images, seed, split
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for index, places in self.split.addresses(self.num_images, self.seed, self.epoch, self.start):
            yield [(i, self.epoch, place) for i, place in zip(index.tolist(), places.tolist(), strict=True)]


class Item(NamedTuple):
    image: Tensor | None  # uint8 C,H,W; None: it could not be read
    label: int
    number: int  # in the dataset
    position: int
    error: str = ""


class Augmented(Dataset[Any]):
    """Augmented images of a map-style dataset, addressed by (index, epoch, position)."""

    def __init__(self, images: Dataset[Any], data: DataSpec, transform: Transform, seed: int) -> None:
        self.images, self.data, self.transform, self.seed = images, data, transform, seed

    def __getitem__(self, address: tuple[int, int, int]) -> Item:
        index, epoch, position = address
        item = read_image(self.images, index, self.data)
        if isinstance(item, str):
            return Item(None, -1, index, position, item)
        seed_all(derive(self.seed, "image", epoch, index))
        return Item(self.transform(item[0]), item[1], index, position)


class AugmentedStream(IterableDataset[Any]):
    """Augmented images of a streamed dataset, which shuffles by itself: its draws depend on the workers too."""

    def __init__(self, images: IterableDataset[Any], data: DataSpec, transform: Transform, seed: int) -> None:
        self.images, self.mode, self.transform, self.seed = images, pil_mode(data), transform, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.images.set_epoch(epoch)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Item]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for count, (image, label) in enumerate(self.images):
            seed_all(derive(self.seed, "stream", self.epoch, worker, count))
            number = count * workers + worker
            yield Item(self.transform(image.convert(self.mode)), label, number, number)


class Plain(Dataset[Any]):
    """Test images of a map-style dataset."""

    def __init__(self, images: Dataset[Any], data: DataSpec, transform: Transform) -> None:
        self.images, self.data, self.transform = images, data, transform

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        item = read_image(self.images, index, self.data)
        if isinstance(item, str):
            return Item(None, -1, index, index, item)
        return Item(self.transform(item[0]), item[1], index, index)


class PlainStream(IterableDataset[Any]):
    """Test images of a streamed dataset, in its order."""

    def __init__(self, images: IterableDataset[Any], data: DataSpec, transform: Transform) -> None:
        self.images, self.mode, self.transform = images, pil_mode(data), transform

    def __iter__(self) -> Iterator[Item]:
        for number, (image, label) in enumerate(self.images):
            yield Item(self.transform(image.convert(self.mode)), label, number, number)


def read_image(images: Any, index: int, data: DataSpec) -> tuple[Any, int] | str:
    """The image, of the right mode, and its label; where it cannot be read, its path and the reason."""
    try:
        image, label = images[index]
        return image.convert(pil_mode(data)), int(label)
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"{path_of(images, index)}: {type(error).__name__}: {reason}"


def path_of(images: Any, index: int) -> str:
    """Where an image lies, as far as the dataset knows; else its number."""
    if isinstance(images, Subset):
        return path_of(images.dataset, images.indices[index])
    if hasattr(images, "samples"):  # torchvision's folders
        return str(images.samples[index][0])
    if hasattr(images, "filename"):  # timm's datasets
        return str(images.filename(index, absolute=True))
    return f"image {index}"


def collate(items: list[Item]) -> Batch:
    good = [item for item in items if item.image is not None]
    images = torch.stack([item.image for item in good if item.image is not None]) if good else torch.empty(0)
    labels, index, places = (torch.tensor([item[i] for item in good], dtype=torch.int64) for i in (1, 2, 3))
    return Batch(images, labels, index, places, tuple(item.error for item in items if item.image is None))


def readable(batch: Batch, on_error: OnError) -> Batch:
    """The batch, if what it left out may be left out. Raises BadImageError."""
    for error in batch.unreadable:
        if on_error is OnError["raise"]:
            raise BadImageError(f"{error}; mend or remove it, or leave such images out with data.on_error=skip")
    if batch.unreadable and len(batch.labels) == 0:
        raise BadImageError(f"no image of a batch could be read, the first is {batch.unreadable[0]}")
    return batch


def eval_loader(
    images: Dataset[Any], run: RunSpec, batch_size: int, workers: int, device: torch.device, world: World = ALONE
) -> Any:
    """This process's share of the test set, each image once: can be iterated again and again for its batches."""
    if isinstance(images, ImageArray) and run.data.small_images:
        pixels, labels = in_memory(images, run, device)
        mine = torch.arange(world.rank, len(labels), world.size)
        return [Batch(pixels[index], labels[index], index, index) for index in mine.split(batch_size)]
    transform = test_transform(run.data, run.recipe)
    if isinstance(images, IterableDataset):
        _set_workers(images, 1)  # one reader keeps the order
        return DataLoader(PlainStream(images, run.data, transform), batch_size=batch_size, collate_fn=collate)
    source = Plain(images, run.data, transform)
    mine = range(world.rank, len(source), world.size)
    return DataLoader(source, batch_size, sampler=mine, persistent_workers=workers > 0, **_common(workers, device))


def _common(workers: int, device: torch.device) -> dict[str, Any]:
    """What all loaders are told. Workers are forked, as PyTorch's are on Linux: a run in a process of its own would
    otherwise inherit the study's way to start processes, and import everything anew for each worker."""
    common: dict[str, Any] = {"num_workers": workers, "pin_memory": device.type == "cuda", "collate_fn": collate}
    if workers > 0 and sys.platform == "linux":
        common |= {"multiprocessing_context": "fork", "worker_init_fn": _heed_parent_alone}
    return common


def _heed_parent_alone(_worker: int) -> None:
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


def num_workers(data: DataSpec, device: str, world: World = ALONE) -> int:
    """Loader processes: as asked for; else, training on the CPU, half of the cores for large images and none for small
    ones (the cores are the trainer's), and on an accelerator all cores but one, at most 12. Processes that torchrun
    started share the cores."""
    if data.workers is not None:
        return data.workers
    mine = max(1, cores() // world.size)
    if device == "cpu":
        return 0 if data.small_images else max(1, mine // 2)
    return min(12, max(1, mine - 1))
