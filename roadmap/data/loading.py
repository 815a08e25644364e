"""From a dataset of images to batches for a step.

Workers crop, flip and run RandAugment image by image (timm's and torchvision's transforms) and hand over uint8;
normalization, random erasing, Mixup and CutMix work on the whole batch (`roadmap.recipe`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.data import create_transform
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode, str_to_pil_interp
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from torchvision import transforms

from roadmap.seeds import derive, seed_all
from roadmap.spec import DataSpec, RecipeSpec, RunSpec, SpecError

Transform = Callable[[Any], Tensor]  # PIL image -> uint8 C,H,W


class TrainLoader:
    """Batches of one epoch: (uint8 images N,C,H,W, labels N). The last incomplete batch is dropped.

    The order and every augmentation depend on (seed, epoch, image) alone, not on the number of workers (streamed
    datasets: on the workers too, each of which reads its own shards).
    """

    def __init__(self, images: Dataset[Any], run: RunSpec, batch_size: int, workers: int) -> None:
        data, seed, self.batch_size = run.data, run.seed, batch_size
        transform = train_transform(data, run.recipe, run.budget.regularization)
        self.streamed = isinstance(images, IterableDataset)
        source: Dataset[Any]
        if isinstance(images, IterableDataset):
            workers = _set_workers(images, workers)
            source = AugmentedStream(images, data, transform, seed)
        else:
            source = Augmented(images, data, transform, seed)
        self.source = source
        self.num_images = len(images)  # type: ignore[arg-type]
        readers = max(1, workers) if self.streamed else 1
        if self.num_images // readers < batch_size:
            raise SpecError(f"budget.batch_size={batch_size}: there are only {self.num_images} training images")
        self.sampler = EpochSampler(self.num_images, batch_size, seed)
        common: dict[str, Any] = {"num_workers": workers, "pin_memory": torch.cuda.is_available()}
        if self.streamed:
            self.loader = DataLoader(source, batch_size=batch_size, drop_last=True, **common)
        else:
            self.loader = DataLoader(source, batch_sampler=self.sampler, persistent_workers=workers > 0, **common)

    @property
    def steps_per_epoch(self) -> int:
        if self.streamed:  # each worker reads its share and drops its own last incomplete batch
            readers = max(1, self.loader.num_workers)
            return readers * (self.num_images // readers // self.batch_size)
        return self.num_images // self.batch_size

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`steps_per_epoch` batches; `epoch` counts from 0."""
        self.sampler.epoch = epoch
        if isinstance(self.source, AugmentedStream):
            self.source.set_epoch(epoch)
        batches = iter(self.loader)
        for _ in range(self.steps_per_epoch):
            yield next(batches)


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (image index, epoch): a permutation of the images for each epoch."""

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_images // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(derive(self.seed, "order", self.epoch))
        order = torch.randperm(self.num_images, generator=generator).tolist()
        for i in range(len(self)):
            yield [(index, self.epoch) for index in order[i * self.batch_size : (i + 1) * self.batch_size]]


class Augmented(Dataset[Any]):
    """Augmented images of a map-style dataset, addressed by (index, epoch)."""

    def __init__(self, images: Dataset[Any], data: DataSpec, transform: Transform, seed: int) -> None:
        self.images, self.mode, self.transform, self.seed = images, pil_mode(data), transform, seed

    def __getitem__(self, address: tuple[int, int]) -> tuple[Tensor, int]:
        index, epoch = address
        image, label = self.images[index]
        seed_all(derive(self.seed, "image", epoch, index))
        return self.transform(image.convert(self.mode)), label


class AugmentedStream(IterableDataset[Any]):
    """Augmented images of a streamed dataset, which shuffles by itself."""

    def __init__(self, images: IterableDataset[Any], data: DataSpec, transform: Transform, seed: int) -> None:
        self.images, self.mode, self.transform, self.seed = images, pil_mode(data), transform, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.images.set_epoch(epoch)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        worker = torch.utils.data.get_worker_info()
        for count, (image, label) in enumerate(self.images):
            seed_all(derive(self.seed, "stream", self.epoch, worker.id if worker else 0, count))
            yield self.transform(image.convert(self.mode)), label


class Plain(Dataset[Any]):
    """Test images of a map-style dataset."""

    def __init__(self, images: Dataset[Any], data: DataSpec, transform: Transform) -> None:
        self.images, self.mode, self.transform = images, pil_mode(data), transform

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        return self.transform(image.convert(self.mode)), label


class PlainStream(IterableDataset[Any]):
    """Test images of a streamed dataset, in its order."""

    def __init__(self, images: IterableDataset[Any], data: DataSpec, transform: Transform) -> None:
        self.images, self.mode, self.transform = images, pil_mode(data), transform

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for image, label in self.images:
            yield self.transform(image.convert(self.mode)), label


def eval_loader(images: Dataset[Any], run: RunSpec, batch_size: int, workers: int) -> DataLoader[Any]:
    """The whole test set once, in its own order: batches of (uint8 images N,C,H,W, labels N)."""
    data, transform = run.data, test_transform(run.data, run.recipe)
    if isinstance(images, IterableDataset):
        _set_workers(images, 1)  # one reader keeps the order
        return DataLoader(PlainStream(images, data, transform), batch_size=batch_size)
    source = Plain(images, data, transform)
    pin = torch.cuda.is_available()
    return DataLoader(source, batch_size, num_workers=workers, persistent_workers=workers > 0, pin_memory=pin)


def train_transform(data: DataSpec, recipe: RecipeSpec, share: float) -> Transform:
    """The recipe's augmentation of single images, RandAugment for a `share` of them.

    Small images get a crop of the padded image instead of a random resized crop, which would blow up a few pixels (the
    usual form on CIFAR: He et al. 2016, section 4.2).
    """
    size, interpolation = data.image_size, recipe.interpolation
    if data.small_images:
        steps: list[Any] = [
            transforms.Resize((size, size), str_to_interp_mode(interpolation)),
            transforms.RandomCrop(size, padding=data.crop_padding),
        ]
    else:
        steps = [RandomResizedCropAndInterpolation(size, interpolation=interpolation)]
    steps.append(transforms.RandomHorizontalFlip(data.flip))
    if recipe.rand_augment is not None and share > 0:
        grey_or_colour = tuple(round(255 * mean) for mean in _fill(data))
        hparams = {
            "translate_const": round(data.image_size * 0.45),  # timm's share of the image for RandAugment
            "img_mean": grey_or_colour if data.in_chans == 3 else grey_or_colour[0],
            "interpolation": str_to_pil_interp(interpolation),
        }
        rand_augment = rand_augment_transform(recipe.rand_augment, hparams)
        steps.append(transforms.RandomApply([rand_augment], share) if share < 1 else rand_augment)
    return transforms.Compose([*steps, transforms.PILToTensor()])


def test_transform(data: DataSpec, recipe: RecipeSpec) -> Transform:
    """Resize and centre crop; small images are only brought to size."""
    if not data.small_images:
        return create_transform(
            input_size=(data.in_chans, data.image_size, data.image_size),
            use_prefetcher=True,
            crop_pct=recipe.test_crop,
            interpolation=recipe.interpolation,
        )
    size = (data.image_size, data.image_size)
    resize = transforms.Resize(size, str_to_interp_mode(recipe.interpolation))
    return transforms.Compose([resize, transforms.PILToTensor()])


def channel_stats(data: DataSpec) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, (C,1,1), of images in 0..255."""
    mean, std = (torch.tensor(_per_channel(values, data.in_chans)) for values in (data.mean, data.std))
    return 255 * mean.view(-1, 1, 1), 255 * std.view(-1, 1, 1)


def _per_channel(values: list[float], channels: int) -> list[float]:
    if len(values) == channels:
        return list(values)
    return [sum(values) / len(values)] * channels


def _fill(data: DataSpec) -> list[float]:
    return _per_channel(data.mean, data.in_chans)


def pil_mode(data: DataSpec) -> str:
    return "L" if data.in_chans == 1 else "RGB"


def _set_workers(images: IterableDataset[Any], workers: int) -> int:
    """Tell a streamed dataset how many workers share it: `workers`, but no more than it has shards to share."""
    reader: Any = images.reader  # type: ignore[attr-defined]
    shards = getattr(getattr(reader, "split_info", None), "filenames", None)
    workers = min(workers, len(shards)) if shards else workers
    images.set_loader_cfg(num_workers=max(1, workers))  # type: ignore[attr-defined]
    return workers


def num_workers(data: DataSpec, device: str) -> int:
    """Loader processes: as asked for; else, training on the CPU, half of the cores for large images and none for small
    ones (the cores are the trainer's), and on an accelerator all cores but one, at most 12."""
    if data.workers is not None:
        return data.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device == "cpu":
        return 0 if data.small_images else max(1, cores // 2)
    return min(12, max(1, cores - 1))
