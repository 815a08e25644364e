"""Benchmark of one GPU, in about ten minutes.

The parts are measured in order of importance. What does not fit the time is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.sides import Case, Flags, TimmTraining, our_training
from benchmarks.tables import CORES, print_header, print_row, rate, write_photographs
from roadmap.config.choices import Precision
from roadmap.config.compose import compose
from roadmap.config.roadmaps import load_roadmap
from roadmap.models.complexity import measure_cost
from roadmap.runtime.gpus import model_flops_utilization, peak_flops
from roadmap.training.device import choose_device

ENDS = ("baseline", "separate_downsampling")
FIRST = (*ENDS, "inverted_bottleneck", "large_kernel")  # if there is no time for all steps
RUNS_AT_ONCE = (1, 2, 4, 8)
THREADS = [max(1, CORES // 2)]  # of a process that feeds a GPU
NUM_PHOTOGRAPHS = 2048


class Deadline:
    """The time until which a part of the benchmark may start measurements."""

    def __init__(self, minutes: float) -> None:
        self.end = time.perf_counter() + 60 * minutes

    def steps(self, names: list[str]) -> Iterator[str]:
        """Yield the names until the time is over, and print how many are left out."""
        for number, name in enumerate(names):
            if time.perf_counter() > self.end:
                print(f"\nNo time was left for {len(names) - number} of {len(names)} rows.")
                return
            yield name


def measure_gpu(options: argparse.Namespace) -> None:
    """Print the tables of one GPU. Raises SpecError if there is none."""
    device_config = choose_device(options.device, Precision.auto)
    name, precision = device_config.name(), device_config.precision.value
    peak = peak_flops(name, precision)
    known = "unknown" if peak is None else f"{peak / 1e12:,.0f} TFLOP/s"
    print(f"GPU: {name}, {precision}, peak {known} (data sheet); {options.seconds} s each.")
    if precision == "fp16":
        print("timm's side computes in fp32: its part of this benchmark has no scaled loss for fp16.")
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), NUM_PHOTOGRAPHS)
        fixed = (f"device={device_config.device.type}", "budget.regularization=1")
        nano = (*options.fashion, *fixed, "budget.batch_size=128")
        photographs = ("data=folder", f"data.root={folder}", "data.num_classes=10", *fixed, "network.drop_path=0")
        large = (*photographs, "base=resnet50", "budget.batch_size=128")
        parts: list[tuple[str, float, Callable[[Deadline], None]]] = [  # with their share of the time
            ("32 px, batch 128, nano, whole iterations", 0.35, lambda end: _steps(options, nano, "all", name, end)),
            ("224 px, batch 128, training alone", 0.3, lambda end: _steps(options, large, "train", name, end)),
            ("Several runs at once, 32 px, nano", 0.15, lambda end: _runs_at_once(options, nano, end)),
            ("Loader and trainer alone, 224 px", 0.08, lambda end: _loader_and_trainer(options, large, end)),
            ("torch.compile", 0.12, lambda end: _compiled(options, {"32 px": nano, "224 px": large}, end)),
        ]
        for title, share, part in parts:
            print(f"\n### {title}\n")
            part(Deadline(share * options.minutes))


def _flags(options: argparse.Namespace) -> Flags:
    """Return the flags of timm's side that are the fastest on a GPU."""
    bf16 = choose_device(options.device, Precision.auto).precision is Precision.bf16
    return Flags(bf16=bf16, channels_last=True, workers=min(12, max(1, CORES - 1)))


def _rate(make: Any, *arguments: Any, options: argparse.Namespace, threads: list[int]) -> float:
    """Return images/s; a measurement that fails does not end the benchmark."""
    try:
        return rate(make, *arguments, options=options, threads=threads)
    except RuntimeError as error:
        print(f"\nNot measured: {error}.\n")
        return math.nan


def _steps(options: argparse.Namespace, overrides: tuple[str, ...], part: str, gpu: str, deadline: Deadline) -> None:
    """Print images/s of timm's components and of ours for each step, and our share of the GPU's peak."""
    print_header("step", ">timm", ">ours", ">ratio", ">of peak")
    flags = _flags(options)
    for step in deadline.steps(sorted(load_roadmap().step_names, key=lambda step: step not in FIRST)):
        case = Case(step, (f"+step={step}", *overrides))
        timm = _rate(TimmTraining, case, flags, part, options=options, threads=THREADS)
        ours = _rate(our_training, case, part, options=options, threads=THREADS)
        spec = compose(*case.overrides)
        gmacs = measure_cost(spec.network, spec.data.image_size).gmacs
        share = model_flops_utilization(ours, gmacs, gpu, choose_device(spec.device, Precision.auto).precision.value)
        cells = [step, f"{timm:,.0f}", f"{ours:,.0f}", f"**{ours / timm:.2f}**"]
        print_row([*cells, "–" if share is None else f"{100 * share:.1f} %"])


def _runs_at_once(options: argparse.Namespace, overrides: tuple[str, ...], deadline: Deadline) -> None:
    """Print the images/s of several runs on one GPU, together, relative to one run."""
    print_header("step", *[f">{count} at once" for count in RUNS_AT_ONCE])
    for step in deadline.steps(list(ENDS)):
        case = Case(step, (f"+step={step}", *overrides))
        rates = [_rate(our_training, case, "all", options=options, threads=[1] * count) for count in RUNS_AT_ONCE]
        print_row([step, f"{rates[0]:,.0f}", *[f"{value:,.0f} ({value / rates[0]:.2f})" for value in rates[1:]]])


def _loader_and_trainer(options: argparse.Namespace, overrides: tuple[str, ...], deadline: Deadline) -> None:
    """Print images/s of our loader with augmentation, of the trainer, and of both together."""
    print_header("step", ">loader alone", ">trainer alone", ">together", ">timm's together")
    flags = _flags(options)
    for step in deadline.steps(list(ENDS)):
        case = Case(step, (f"+step={step}", *overrides))
        rates = [_rate(our_training, case, part, options=options, threads=THREADS) for part in ("load", "train", "all")]
        rates.append(_rate(TimmTraining, case, flags, "all", options=options, threads=THREADS))
        print_row([step, *[f"{value:,.0f}" for value in rates]])


def _compiled(options: argparse.Namespace, sizes: dict[str, tuple[str, ...]], deadline: Deadline) -> None:
    """Print images/s without and with torch.compile; compiling is not in the measured time."""
    print_header("network", ">eager", ">compiled", ">ratio")
    cases = {f"{step}, {size}": (f"+step={step}", *sizes[size]) for size in sizes for step in ENDS}
    for name in deadline.steps(list(cases)):
        eager, compiled = (
            _rate(our_training, Case(name, (*cases[name], *more)), "train", options=options, threads=THREADS)
            for more in ((), ("compile=true",))
        )
        print_row([name, f"{eager:,.0f}", f"{compiled:,.0f}", f"**{compiled / eager:.2f}**"])
