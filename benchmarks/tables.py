"""Cells of the tables that the benchmarks print, and the parts that several benchmarks share."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.sides import Case, images_per_second
from roadmap.config.roadmaps import load_roadmap
from roadmap.runtime.system import num_cores

CORES = num_cores()
STEPS = [*load_roadmap().file.steps, *sorted(load_roadmap().file.variants)]
# Threads of each process: one process on all cores, or one process per core as in studies with small images.
ONE_PROCESS, ONE_PER_CORE = [CORES], [1] * CORES


def print_row(cells: Iterable[str]) -> None:
    """Print a row of a Markdown table at once."""
    print("| " + " | ".join(cells) + " |", flush=True)


def print_header(*columns: str) -> None:
    """Print the header of a Markdown table; columns whose names start with ">" are aligned to the right."""
    print_row(column.removeprefix(">") for column in columns)
    print_row("---:" if column.startswith(">") else ":---" for column in columns)


def rate(make: Any, *arguments: Any, options: argparse.Namespace, threads: list[int] = ONE_PROCESS) -> float:
    """Return images/s of `make(*arguments)`, measured while the machine is quiet."""
    measured: float = options.measure(images_per_second, make, *arguments, threads=threads, seconds=options.seconds)
    return measured


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def ratios(numerators: Iterable[float], denominators: Iterable[float]) -> str:
    """Return minimum / median / maximum of the ratios of each repeat."""
    values = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    return f"{values[0]:.2f} / **{median(values):.2f}** / {values[-1]:.2f}"


def nano_cases(fashion: Sequence[str]) -> list[Case]:
    """Return the four networks for small images whose speed is compared: from ResNet to ConvNeXt."""
    small = (*fashion, "budget.regularization=1", "budget.batch_size=128")
    shapes = {
        "baseline": "ResNet",
        "inverted_bottleneck": "between",
        "large_kernel": "between",
        "separate_downsampling": "ConvNeXt",
    }
    return [
        Case(f"{step}, nano, 32 px, batch 128", (f"+step={step}", *small), shape=shape)
        for step, shape in shapes.items()
    ]


def write_photographs(folder: Path, count: int) -> None:
    """Write JPEG files of 500x375 smooth noise in ten classes. Decoding them takes as long as decoding photographs."""
    generator = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 10)):
        for i in range(number):
            path = folder / split / str(i % 10) / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            rough = Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8))
            rough.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
