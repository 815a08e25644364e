"""What two choices are worth on this CPU: `python benchmarks/cpu.py [--size 32] [--repeats 3]`.

1. Depthwise convolutions in float32 while the rest is in bfloat16, against PyTorch's autocast as it is.
2. One process of one thread per core, against one process with all of them.

Both sides of a ratio run in turn, `--repeats` times; images/s of forward, backward and AdamW's step, base=nano.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from roadmap import road
from roadmap.config import compose
from roadmap.device import cpu_bf16_unit
from roadmap.layers import DepthwiseConv2d
from roadmap.network import Network
from roadmap.record import cpu_name, versions

STEPS = [step.name for step in road.road()]


def images_per_second(step: str, size: int, seconds: float, plain: bool = False, batch: int = 128) -> float:
    """Training throughput; with `plain`, depthwise convolutions as PyTorch's autocast runs them."""
    network = compose(f"+step={step}", "data=fashion_mnist", "data.download=true", f"data.image_size={size}").network
    model = Network(network).to(memory_format=torch.channels_last).train()
    if plain:
        for module in model.modules():
            if isinstance(module, DepthwiseConv2d):
                module.__class__ = nn.Conv2d  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(batch, network.in_chans, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 10

    def step_once() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_bf16_unit() is not None):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):
        step_once()
    done, started = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - started < seconds:
        step_once()
        done += 1
    return done * batch / (time.perf_counter() - started)


def _worker(step: str, size: int, seconds: float, threads: int, barrier: Any, rates: Any) -> None:
    torch.set_num_threads(threads)
    images_per_second(step, size, 0.0)  # warm
    barrier.wait()
    rates.put(images_per_second(step, size, seconds))


def processes(step: str, size: int, seconds: float, count: int, threads: int) -> float:
    """Images/s of `count` processes of `threads` threads together."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(count), context.Queue()
    running = [
        context.Process(target=_worker, args=(step, size, seconds, threads, barrier, rates)) for _ in range(count)
    ]
    for process in running:
        process.start()
    total = sum(rates.get() for _ in running)
    for process in running:
        process.join()
    return total


def line(name: str, ratios: list[float], here: float, there: float) -> None:
    spread = f"{min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"
    print(f"{name:<24} {there:>10,.0f} {here:>10,.0f}   {spread}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{cpu_name()}, {cores} cores, {cpu_bf16_unit() or 'no bf16'}, {platform.platform()}, {versions()['torch']}")
    print(f"\n{'1. depthwise in fp32':<24} {'autocast':>10} {'ours':>10}   ratio: min / median / max")
    for step in STEPS[STEPS.index("depthwise_conv") :]:
        pairs = [
            (
                images_per_second(step, options.size, options.seconds),
                images_per_second(step, options.size, options.seconds, plain=True),
            )
            for _ in range(options.repeats)
        ]
        line(step, [a / b for a, b in pairs], *(statistics.median(side) for side in zip(*pairs, strict=True)))
    print(f"\n{f'2. {cores} processes':<24} {'threads':>10} {'processes':>10}   ratio: min / median / max")
    for step in ("baseline", "large_kernel", "separate_downsampling"):
        pairs = [
            (
                processes(step, options.size, options.seconds, cores, 1),
                processes(step, options.size, options.seconds, 1, cores),
            )
            for _ in range(options.repeats)
        ]
        line(step, [a / b for a, b in pairs], *(statistics.median(side) for side in zip(*pairs, strict=True)))


if __name__ == "__main__":
    main()
