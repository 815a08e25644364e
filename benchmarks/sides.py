"""The two sides of a comparison: one training step after another, by this project and by timm's public pieces.

Each measurement runs in a process of its own (`images_per_second`), so that neither side sees what the other switched.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import nn

from roadmap.config.compose import compose
from roadmap.config.schedule import make_schedule
from roadmap.config.schema import Device, Precision, RunSpec
from roadmap.data import datasets
from roadmap.data.transforms import pil_mode, test_transform, train_transform
from roadmap.models import layers
from roadmap.models.network import Network
from roadmap.training import device, trainer
from roadmap.training.metrics import Metrics

Step = Callable[[], int]  # does one step, tells its number of images


@dataclass(frozen=True)
class Case:
    """What both sides do."""

    name: str
    words: tuple[str, ...]  # of run_roadmap.py
    timm_model: str | None = None  # the same network by timm; None: ours, on PyTorch's own layers
    ends: str = ""  # shape: ResNet, ConvNeXt or between


@dataclass(frozen=True)
class Flags:
    """How timm's side is run; `ours` knows no such choice."""

    bf16: bool = True
    channels_last: bool = True
    workers: int = 1

    def words(self) -> list[str]:
        """Of `benchmarks.timm_script`."""
        words = [f"--workers={self.workers}", *([] if self.bf16 else ["--fp32"])]
        return words + ([] if self.channels_last else ["--contiguous"])

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{'bf16' if self.bf16 else 'fp32'}, {layout}, {self.workers} workers"


def ours(case: Case, what: str) -> Step:
    """A step of `roadmap.train`; `what` is "all", "load" (batches alone) or "train" (one batch again and again)."""
    spec = compose(*case.words)
    training = trainer.Trainer(spec, device.choose_device(Device.auto, Precision.auto), Metrics())
    batches = _endless(lambda epoch: training.augment.ahead(training.batches.epoch(epoch), epoch))
    if what == "load":
        return lambda: len(training.augment(next(batches), 0, 0, training.plan.batch_size)[0])
    if what == "train":
        batch = next(batches)
        images, targets = training.augment(batch, 0, 0, training.plan.batch_size)
        training.augment = lambda *_: (images, targets)  # type: ignore[assignment, misc]
        batches = iter(lambda: batch, None)

    def step() -> int:
        training.model.train()
        training.train_step(training.model, batches)
        training.step = (training.step + 1) % training.batches.steps_per_epoch
        return training.plan.batch_size

    return step


class Timms:
    """Steps as timm's train.py makes them, from the public pieces that the script is made of."""

    def __init__(self, case: Case, flags: Flags) -> None:
        import timm
        from timm.data import create_loader
        from timm.data.mixup import FastCollateMixup
        from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.utils import AverageMeter

        self.spec = spec = compose(*case.words)
        recipe, self.flags = spec.recipe, flags
        self.plan = make_schedule(recipe, spec.budget)
        self.layout = torch.channels_last if flags.channels_last else torch.contiguous_format
        mixing = recipe.mixup > 0 or recipe.cutmix > 0
        mix: dict[str, Any] = {"mixup_alpha": recipe.mixup, "cutmix_alpha": recipe.cutmix}
        mix |= {"label_smoothing": recipe.label_smoothing, "num_classes": spec.network.num_classes}
        common: dict[str, Any] = {
            "input_size": (spec.data.in_chans, spec.data.image_size, spec.data.image_size),
            "mean": tuple(spec.data.mean),
            "std": tuple(spec.data.std),
            "num_workers": flags.workers,
            "device": torch.device("cpu"),
        }
        splits = datasets.load(spec.data, spec.budget)
        self.loader: Any = create_loader(
            _Images(splits.train, spec),
            batch_size=self.plan.batch_size,
            is_training=True,
            re_prob=recipe.random_erasing,
            re_mode="pixel",
            collate_fn=FastCollateMixup(**mix) if mixing else None,
            **common,
        )
        self.loader.dataset.transform = train_transform(spec.data, recipe, spec.budget.regularization)
        self.test: Any = create_loader(_Images(splits.test, spec), batch_size=2 * self.plan.batch_size, **common)
        self.test.dataset.transform = test_transform(spec.data, recipe)
        if case.timm_model:
            options = {"num_classes": spec.network.num_classes, "in_chans": spec.data.in_chans}
            model = timm.create_model(case.timm_model, drop_path_rate=spec.network.drop_path, **options)
        else:
            model = plain(Network(spec.network))
        self.model = model.to(memory_format=self.layout).train()
        opt = "momentum" if recipe.optimizer.value == "sgd" else "adamw"
        settings = {"lr": self.plan.lr, "weight_decay": recipe.weight_decay, "fused": True}
        self.optimizer = create_optimizer_v2(model, opt=opt, **settings)
        self.loss = SoftTargetCrossEntropy() if mixing else LabelSmoothingCrossEntropy(recipe.label_smoothing)
        self.losses, self.batches = AverageMeter(), _endless(lambda _: iter(self.loader))

    def __call__(self) -> int:
        images, targets = next(self.batches)
        images = images.contiguous(memory_format=self.layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.flags.bf16):
            loss = self.loss(self.model(images), targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.update(loss.item(), len(images))
        return len(images)

    @torch.no_grad()
    def accuracy(self) -> float:
        """Top-1 on the test set, percent."""
        self.model.eval()
        hits = total = 0
        for images, targets in self.test:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.flags.bf16):
                logits = self.model(images.contiguous(memory_format=self.layout))
            hits, total = hits + int((logits.argmax(1) == targets).sum()), total + len(targets)
        self.model.train()
        return 100 * hits / total


class _Images(torch.utils.data.Dataset[Any]):
    """Images as timm's datasets hand them out: `transform` is set by timm's loader."""

    def __init__(self, images: Any, spec: RunSpec) -> None:
        self.images, self.mode, self.transform = images, pil_mode(spec.data), None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.images[index]
        assert self.transform is not None
        return self.transform(image.convert(self.mode)).numpy(), label


def plain(model: nn.Module) -> nn.Module:
    """The same network on PyTorch's and timm's own layers."""
    from timm.layers import LayerNorm2d

    own = {layers.Conv2d: nn.Conv2d, layers.DepthwiseConv2d: nn.Conv2d, layers.LayerNorm: LayerNorm2d}
    for module in model.modules():
        module.__class__ = own.get(type(module), type(module))
    return model


def _endless(epoch: Callable[[int], Iterator[Any]]) -> Iterator[Any]:
    for number in count():
        yield from epoch(number)


def images_per_second(maker: Callable[..., Step], *arguments: Any, threads: list[int], seconds: float) -> float:
    """Of as many processes at once as `threads` has numbers, together; each makes its own step and warms up."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.sides", "timm"])
    barrier, rates = context.Barrier(len(threads)), context.SimpleQueue()
    children = [
        context.Process(target=_measure, args=(maker, arguments, number, seconds, barrier, rates)) for number in threads
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        if child.exitcode != 0:
            raise RuntimeError(f"a measurement ended with exit code {child.exitcode}")
    return sum(rates.get() for _ in children)


def _measure(maker: Callable[..., Step], arguments: Any, threads: int, seconds: float, barrier: Any, out: Any) -> None:
    torch.set_num_threads(threads)
    with contextlib.redirect_stdout(io.StringIO()):  # a training tells where it runs
        step = maker(*arguments)
    for _ in range(3):
        step()
    barrier.wait()
    images, started = 0, time.perf_counter()
    while images == 0 or time.perf_counter() - started < seconds:
        images += step()
    out.put(images / (time.perf_counter() - started))


def best_flags(case: Case, threads: list[int], seconds: float) -> Flags:
    """The fastest way to run timm's side: precision and layout first, then loader workers."""

    def fastest(candidates: list[Flags]) -> Flags:
        rates = [images_per_second(Timms, case, flags, threads=threads, seconds=seconds) for flags in candidates]
        return candidates[rates.index(max(rates))]

    found = fastest([Flags(bf16, layout) for bf16 in (True, False) for layout in (True, False)])
    return fastest([replace(found, workers=workers) for workers in (0, 1, 2, 4)])
