"""Benchmark of the CPU kernels (`roadmap.models.cpu_kernels`): training iterations with the kernels on and off."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.tables import median, print_header, print_row, ratios
from roadmap.config.compose import compose
from roadmap.config.roadmaps import load_roadmap
from roadmap.models import cpu_kernels
from roadmap.models.network import Network
from roadmap.training.device import cpu_bf16_unit

STEPS = load_roadmap().step_names
ENDS = ["baseline", "increase_width", "separate_downsampling"]
LARGE = ["base=resnet50", "data=cifar10", "data.stem_stride=4"]
REGIMES = {  # name: steps, batch size, other overrides
    "nano, 32 px, batch 128": (STEPS, 128, ["data=fashion_mnist", "data.image_size=32", "data.stem_stride=4"]),
    "nano, 8 px, batch 64": (STEPS, 64, ["data=digits", "data.image_size=8", "data.stem_stride=1"]),
    "resnet50, 32 px, batch 64": (ENDS, 64, [*LARGE, "data.image_size=32"]),
    "resnet50, 224 px, batch 8": (ENDS, 8, [*LARGE, "data.image_size=224"]),
}


def measure_kernels(options: argparse.Namespace) -> None:
    """Print images/s of training iterations with the kernels off and on, in turn, in one process with one thread.

    An iteration is forward pass, cross entropy, backward pass and AdamW. Both sides keep freed memory. Off means
    PyTorch's kernels, with depthwise convolutions in float32 under autocast.
    """
    torch.set_num_threads(1)
    cpu_kernels.keep_memory()
    print_header("network", "step", "precision", ">off", ">on", "ratio")
    for name, (steps, batch_size, overrides) in REGIMES.items():
        if options.only not in name:
            continue
        for step in steps:
            for bf16 in [True, False] if cpu_bf16_unit() else [False]:
                iteration = _make_iteration(step, batch_size, overrides, bf16)
                pairs = [options.measure(_off_and_on, iteration, options.seconds) for _ in range(options.repeats)]
                off, on = zip(*pairs, strict=True)
                rates = [f"{batch_size / median(side):,.0f}" for side in (off, on)]
                print_row([name, step, "bf16" if bf16 else "fp32", *rates, ratios(off, on)])


def _make_iteration(step: str, batch_size: int, overrides: list[str], bf16: bool) -> Callable[[], None]:
    """Return a training iteration of the network of `step`, on random images."""
    spec = compose(f"+step={step}", *overrides)
    torch.manual_seed(0)
    model = Network(spec.network).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(batch_size, spec.network.in_chans, spec.data.image_size, spec.data.image_size)
    images, labels = images.contiguous(memory_format=torch.channels_last), torch.arange(batch_size) % 10

    def iteration() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return iteration


def _off_and_on(iteration: Callable[[], None], seconds: float) -> list[float]:
    """Return the mean time of an iteration with the kernels off and on, each measured for `seconds`."""
    times = []
    for on in (False, True):
        cpu_kernels.enable(on)
        iteration()  # warm up
        num_iterations, started = 0, time.perf_counter()
        while num_iterations == 0 or time.perf_counter() - started < seconds:
            iteration()
            num_iterations += 1
        times.append((time.perf_counter() - started) / num_iterations)
    return times
