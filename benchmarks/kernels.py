"""Speed of the CPU kernels (`roadmap.models.cpu_kernels`): `python benchmarks/kernels.py [--threads 1] [--repeats 5]`.

Prints images/s of a training iteration (forward pass, cross entropy, backward pass, AdamW) with the kernels off and on,
in turn, in one process on one network. Freed memory is kept on both sides, except with --give-back. Off means depthwise
convolutions in float32 under autocast.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from roadmap.config.compose import compose
from roadmap.config.steps import step_names
from roadmap.models import cpu_kernels
from roadmap.models.network import Network
from roadmap.runtime.system import cpu_name, package_versions
from roadmap.training.device import cpu_bf16_unit

STEPS = step_names()
ENDS = ["baseline", "increase_width", "separate_downsampling"]
REGIMES = {  # name: steps, batch size, other overrides
    "nano 32": (STEPS, 128, ["data=fashion_mnist", "data.image_size=32", "data.stem_stride=4"]),
    "nano 8": (STEPS, 64, ["data=digits", "data.image_size=8", "data.stem_stride=1"]),
    "resnet50 32": (ENDS, 64, ["base=resnet50", "data=cifar10", "data.image_size=32", "data.stem_stride=4"]),
    "resnet50 224": (ENDS, 8, ["base=resnet50", "data=cifar10", "data.image_size=224", "data.stem_stride=4"]),
}


def make_iteration(step: str, batch_size: int, overrides: list[str], bf16: bool) -> Callable[[], None]:
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


def seconds_per_iteration(iteration: Callable[[], None], fast: bool, seconds: float) -> float:
    """Return the mean time of an iteration with the kernels on (`fast`) or off, measured for `seconds`."""
    cpu_kernels.enable(fast)
    iteration()  # warm up
    done, started = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - started < seconds:
        iteration()
        done += 1
    return (time.perf_counter() - started) / done


def main() -> None:
    """Print one table for each regime and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regime", choices=REGIMES, nargs="*", default=list(REGIMES), help="default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="length of each measurement")
    parser.add_argument("--give-back", action="store_true", help="do not keep freed memory: glibc's default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = not options.give_back and cpu_kernels.keep_memory()
    print(f"{cpu_name()}, {options.threads} threads, {cpu_bf16_unit() or 'no bf16'}, {platform.platform()}")
    print(f"torch {package_versions()['torch']}, freed memory {'kept' if kept else 'given back'}")
    for regime in options.regime:
        steps, batch_size, overrides = REGIMES[regime]
        for bf16 in (True, False):
            print(f"\n{regime + (' bf16' if bf16 else ' fp32'):<24} {'off':>8} {'on':>8}   ratio: min / median / max")
            for step in steps:
                iteration = make_iteration(step, batch_size, overrides, bf16)
                pairs = [
                    [seconds_per_iteration(iteration, fast, options.seconds) for fast in (False, True)]
                    for _ in range(options.repeats)
                ]
                ratios = sorted(off / on for off, on in pairs)
                off, on = (statistics.median(side) for side in zip(*pairs, strict=True))
                spread = f"{ratios[0]:.2f} / {statistics.median(ratios):.2f} / {ratios[-1]:.2f}"
                print(f"{step:<24} {batch_size / off:>8,.0f} {batch_size / on:>8,.0f}   {spread}", flush=True)


if __name__ == "__main__":
    main()
