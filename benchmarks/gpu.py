"""Benchmark of one GPU, in about ten minutes.

The parts are measured in order of importance. What does not fit the time is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.sides import Case, Flags, TimmTraining, our_training
from benchmarks.tables import CORES, print_header, print_row, rate, write_photographs
from roadmap.config.choices import Precision
from roadmap.config.compose import compose
from roadmap.config.steps import step_names
from roadmap.models.complexity import measure_cost
from roadmap.runtime.gpus import model_flops_utilization, peak_flops
from roadmap.training.device import choose_device

ENDS = ("baseline", "separate_downsampling")
RUNS_AT_ONCE = (1, 2, 4, 8)
THREADS = [max(1, CORES // 2)]  # of a process that feeds a GPU
NUM_PHOTOGRAPHS = 2048


class Deadline:
    """The time that the benchmark may take."""

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
    name, deadline = device_config.name(), Deadline(options.minutes)
    peak = peak_flops(name, device_config.precision.value)
    known = "unknown" if peak is None else f"{peak / 1e12:,.0f} TFLOP/s"
    print(f"GPU: {name}, {device_config.precision.value}, peak {known} (data sheet); {options.seconds} s each.")
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), NUM_PHOTOGRAPHS)
        fixed = (f"device={device_config.device.type}", "budget.regularization=1")
        nano = (*options.fashion, *fixed, "budget.batch_size=128")
        photographs = ("data=folder", f"data.root={folder}", "data.num_classes=10", *fixed, "network.drop_path=0")
        large = (*photographs, "base=resnet50", "budget.batch_size=128")
        parts: list[tuple[str, Callable[[], None]]] = [
            ("32 px, batch 128, nano, whole iterations", lambda: _steps(options, nano, "all", name, deadline)),
            ("224 px, batch 128, training alone", lambda: _steps(options, large, "train", name, deadline)),
            ("Several runs at once, 32 px, nano", lambda: _runs_at_once(options, nano, deadline)),
            ("Loader and trainer alone, 224 px", lambda: _loader_and_trainer(options, large, deadline)),
            ("torch.compile", lambda: _compiled(options, {"32 px": nano, "224 px": large}, deadline)),
        ]
        for title, part in parts:
            print(f"\n### {title}\n")
            part()


def _steps(options: argparse.Namespace, overrides: tuple[str, ...], part: str, gpu: str, deadline: Deadline) -> None:
    """Print images/s of timm's components and of ours for each step, and our share of the GPU's peak."""
    print_header("step", ">timm", ">ours", ">ratio", ">of peak")
    flags = Flags(bf16=True, channels_last=True, workers=min(12, max(1, CORES - 1)))
    for step in deadline.steps(step_names()):
        case = Case(step, (f"+step={step}", *overrides))
        timm = rate(TimmTraining, case, flags, part, options=options, threads=THREADS)
        ours = rate(our_training, case, part, options=options, threads=THREADS)
        spec = compose(*case.overrides)
        gmacs = measure_cost(spec.network, spec.data.image_size).gmacs
        share = model_flops_utilization(ours, gmacs, gpu, "bf16")
        cells = [step, f"{timm:,.0f}", f"{ours:,.0f}", f"**{ours / timm:.2f}**"]
        print_row([*cells, "–" if share is None else f"{100 * share:.1f} %"])


def _runs_at_once(options: argparse.Namespace, overrides: tuple[str, ...], deadline: Deadline) -> None:
    """Print the images/s of several runs on one GPU, together, relative to one run."""
    print_header("step", *[f">{count} at once" for count in RUNS_AT_ONCE])
    for step in deadline.steps(list(ENDS)):
        case = Case(step, (f"+step={step}", *overrides))
        rates = [rate(our_training, case, "all", options=options, threads=[1] * count) for count in RUNS_AT_ONCE]
        print_row([step, f"{rates[0]:,.0f}", *[f"{value:,.0f} ({value / rates[0]:.2f})" for value in rates[1:]]])


def _loader_and_trainer(options: argparse.Namespace, overrides: tuple[str, ...], deadline: Deadline) -> None:
    """Print images/s of our loader with augmentation, of the trainer, and of both together."""
    print_header("step", ">loader alone", ">trainer alone", ">together", ">timm's together")
    flags = Flags(bf16=True, channels_last=True, workers=min(12, max(1, CORES - 1)))
    for step in deadline.steps(list(ENDS)):
        case = Case(step, (f"+step={step}", *overrides))
        rates = [rate(our_training, case, part, options=options, threads=THREADS) for part in ("load", "train", "all")]
        rates.append(rate(TimmTraining, case, flags, "all", options=options, threads=THREADS))
        print_row([step, *[f"{value:,.0f}" for value in rates]])


def _compiled(options: argparse.Namespace, sizes: dict[str, tuple[str, ...]], deadline: Deadline) -> None:
    """Print images/s without and with torch.compile; compiling is not in the measured time."""
    print_header("network", ">eager", ">compiled", ">ratio")
    cases = {f"{step}, {size}": (f"+step={step}", *sizes[size]) for size in sizes for step in ENDS}
    for name in deadline.steps(list(cases)):
        eager, compiled = (
            rate(our_training, Case(name, (*cases[name], *more)), "train", options=options, threads=THREADS)
            for more in ((), ("compile=true",))
        )
        print_row([name, f"{eager:,.0f}", f"{compiled:,.0f}", f"**{compiled / eager:.2f}**"])
