"""The two sides of a comparison: training iterations of this package, and of timm's public components.

Each measurement runs in a process of its own (`images_per_second`), so that the settings of one side do not change the
other.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import nn

from roadmap.config.choices import Precision
from roadmap.config.compose import compose
from roadmap.config.schedule import make_schedule
from roadmap.config.schema import RunSpec
from roadmap.data import datasets
from roadmap.data.transforms import pil_mode, test_transform, train_transform
from roadmap.models import layers
from roadmap.models.network import Network
from roadmap.training import device, trainer
from roadmap.training.metrics import Metrics

Iteration = Callable[[], int]  # does one training iteration and returns its number of images


@dataclass(frozen=True)
class Case:
    """One training that both sides do."""

    name: str
    overrides: tuple[str, ...]  # of run_roadmap.py
    timm_model: str | None = None  # timm's name of the same network; None: our network on PyTorch's own layers
    shape: str = ""  # of the network: ResNet, ConvNeXt or between


@dataclass(frozen=True)
class Flags:
    """Settings of timm's side. Our side has no such settings."""

    bf16: bool = True
    channels_last: bool = True
    workers: int = 1

    def arguments(self) -> list[str]:
        """Return the flags as arguments of `benchmarks.timm_script`."""
        arguments = [f"--workers={self.workers}", *([] if self.bf16 else ["--fp32"])]
        return arguments + ([] if self.channels_last else ["--contiguous"])

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{'bf16' if self.bf16 else 'fp32'}, {layout}, {self.workers} workers"


def our_training(case: Case, part: str) -> Iteration:
    """Return a training iteration of `roadmap.training.trainer`.

    `part` is "all", "load" (only loading and augmentation) or "train" (only training, on the same batch each time).
    """
    spec = compose(*case.overrides)
    training = trainer.Trainer(spec, device.choose_device(spec.device, Precision.auto), Metrics())
    batch_size, forward = training.schedule.batch_size, training.wrap_model()
    batches = _endless(lambda epoch: training.augment.augment_in_chunks(training.train_batches.epoch(epoch), epoch))
    if part == "load":
        return lambda: len(training.augment(next(batches), 0, 0, batch_size)[0])
    if part == "train":
        batch = next(batches)
        images, targets = training.augment(batch, 0, 0, batch_size)
        training.augment = lambda *_: (images, targets)  # type: ignore[assignment, misc]
        batches = iter(lambda: batch, None)

    def iteration() -> int:
        training.model.train()
        training.train_iteration(forward, batches)
        training.iteration = (training.iteration + 1) % training.iterations_per_epoch
        return batch_size

    return iteration


class TimmTraining:
    """Training iterations as in timm's train.py, built from the public components that the script uses."""

    def __init__(self, case: Case, flags: Flags, part: str = "all") -> None:
        """`part` is "all" or "train": only training, on the same batch each time."""
        import timm
        from timm.data import create_loader
        from timm.data.mixup import FastCollateMixup
        from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.utils import AverageMeter

        self.spec = spec = compose(*case.overrides)
        recipe, self.flags = spec.recipe, flags
        self.device = device.choose_device(spec.device, Precision.auto).device
        if self.device.type == "cuda":  # as timm's script does
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
        splits = datasets.load(spec.data, spec.budget)
        self.schedule = make_schedule(recipe, spec.budget, len(splits.train))  # type: ignore[arg-type]
        self.layout = torch.channels_last if flags.channels_last else torch.contiguous_format
        mixing = recipe.mixup > 0 or recipe.cutmix > 0
        mix: dict[str, Any] = {"mixup_alpha": recipe.mixup, "cutmix_alpha": recipe.cutmix}
        mix |= {"label_smoothing": recipe.label_smoothing, "num_classes": spec.network.num_classes}
        common: dict[str, Any] = {
            "input_size": (spec.data.in_chans, spec.data.image_size, spec.data.image_size),
            "mean": tuple(spec.data.mean),
            "std": tuple(spec.data.std),
            "num_workers": flags.workers,
            "device": self.device,
        }
        train: Any = _Images(splits.train, spec)
        test: Any = _Images(splits.test, spec)
        self.loader: Any = create_loader(
            train,
            batch_size=self.schedule.batch_size,
            is_training=True,
            re_prob=recipe.random_erasing,
            re_mode="pixel",
            collate_fn=FastCollateMixup(**mix) if mixing else None,
            **common,
        )
        train.transform = train_transform(spec.data, recipe, spec.budget.regularization)
        self.test: Any = create_loader(test, batch_size=2 * self.schedule.batch_size, **common)
        test.transform = test_transform(spec.data, recipe)
        if case.timm_model:
            options = {"num_classes": spec.network.num_classes, "in_chans": spec.data.in_chans}
            model = timm.create_model(case.timm_model, drop_path_rate=spec.network.drop_path, **options)
        else:
            model = with_plain_layers(Network(spec.network))
        self.model = model.to(self.device).to(memory_format=self.layout).train()
        opt = "momentum" if recipe.optimizer.value == "sgd" else "adamw"
        settings = {"lr": self.schedule.lr, "weight_decay": recipe.weight_decay, "fused": True}
        self.optimizer = create_optimizer_v2(model, opt=opt, **settings)
        self.loss = SoftTargetCrossEntropy() if mixing else LabelSmoothingCrossEntropy(recipe.label_smoothing)
        self.losses, self.batches = AverageMeter(), _endless(lambda _: iter(self.loader))
        self.iterations = 0
        if part == "train":
            batch = next(self.batches)
            self.batches = iter(lambda: batch, None)

    def __call__(self) -> int:
        """Do one training iteration and return its number of images."""
        images, targets = next(self.batches)
        images = images.contiguous(memory_format=self.layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.flags.bf16):
            loss = self.loss(self.model(images), targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.iterations % self.log_interval == 0:  # reading the loss waits for a GPU
            self.losses.update(loss.item(), len(images))
        self.iterations += 1
        return len(images)

    @property
    def log_interval(self) -> int:
        """Iterations between two losses that are read; 50 is the default of timm's script."""
        return 1 if self.device.type == "cpu" else 50

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the top-1 accuracy on the test set, in percent."""
        self.model.eval()
        hits = total = 0
        for images, targets in self.test:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.flags.bf16):
                logits = self.model(images.contiguous(memory_format=self.layout))
            hits, total = hits + int((logits.argmax(1) == targets).sum()), total + len(targets)
        self.model.train()
        return 100 * hits / total


class _Images(torch.utils.data.Dataset[Any]):
    """Images in the form of timm's datasets. timm's loader sets `transform`; `TimmTraining` replaces it."""

    def __init__(self, images: Any, spec: RunSpec) -> None:
        self.images, self.mode, self.transform = images, pil_mode(spec.data), None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.images[index]
        assert self.transform is not None
        return self.transform(image.convert(self.mode)).numpy(), label


def with_plain_layers(model: nn.Module) -> nn.Module:
    """Replace our layers of `model` by those of PyTorch and timm, in place, and return `model`."""
    from timm.layers import LayerNorm2d

    plain: dict[type[nn.Module], type[nn.Module]] = {
        layers.Conv2d: nn.Conv2d,
        layers.DepthwiseConv2d: nn.Conv2d,
        layers.LayerNorm: LayerNorm2d,
    }
    for module in model.modules():
        module.__class__ = plain.get(type(module), type(module))
    return model


def _endless(batches_of_epoch: Callable[[int], Iterator[Any]]) -> Iterator[Any]:
    for epoch in count():
        yield from batches_of_epoch(epoch)


def images_per_second(make: Callable[..., Iteration], *arguments: Any, threads: list[int], seconds: float) -> float:
    """Return the images per second of several processes at once, together.

    There is one process for each number in `threads`, with that many threads. Each calls `make(*arguments)`, does three
    iterations to warm up, waits for the others and measures for `seconds`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.sides", "timm"])
    barrier, rates = context.Barrier(len(threads)), context.SimpleQueue()
    children = [
        context.Process(target=_measure, args=(make, arguments, number, seconds, barrier, rates)) for number in threads
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        if child.exitcode != 0:
            raise RuntimeError(f"a measurement ended with exit code {child.exitcode}")
    return sum(rates.get() for _ in children)


def _measure(
    make: Callable[..., Iteration], arguments: Any, threads: int, seconds: float, barrier: Any, out: Any
) -> None:
    if sys.platform == "linux":  # timm's loader processes, as in its script; otherwise they would be the fork server's
        multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(threads)
    iteration = make(*arguments)
    for _ in range(3):
        iteration()
    _wait_for_gpu()
    barrier.wait()
    images, started = 0, time.perf_counter()
    while images == 0 or time.perf_counter() - started < seconds:
        images += iteration()
    _wait_for_gpu()
    out.put(images / (time.perf_counter() - started))


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def fastest_flags(case: Case, threads: list[int], options: argparse.Namespace) -> Flags:
    """Return the fastest flags of timm's side: first precision and memory layout, then the number of loader workers."""

    def fastest(candidates: list[Flags]) -> Flags:
        settings = {"threads": threads, "seconds": options.seconds}
        rates = [options.measure(images_per_second, TimmTraining, case, flags, **settings) for flags in candidates]
        return candidates[rates.index(max(rates))]

    flags = fastest([Flags(bf16, channels_last) for bf16 in (True, False) for channels_last in (True, False)])
    return fastest([replace(flags, workers=workers) for workers in (0, 1, 2, 4)])
