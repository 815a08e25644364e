"""Benchmarks of training iterations on the processor: against timm's components, and against the processor's peak."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.sides import Case, TimmTraining, fastest_flags, our_training
from benchmarks.tables import (
    CORES,
    ONE_PER_CORE,
    ONE_PROCESS,
    STEPS,
    median,
    nano_cases,
    print_header,
    print_row,
    rate,
    ratios,
    write_photographs,
)
from roadmap.config.compose import compose
from roadmap.config.designs import reference_overrides
from roadmap.config.roadmaps import load_roadmap
from roadmap.models.complexity import measure_cost
from roadmap.training.device import cpu_bf16_unit


def cases(folder: Path, fashion: list[str]) -> list[Case]:
    """Return the trainings of the comparison with timm; `folder` holds an image folder."""
    full32 = ("base=resnet50", *fashion, "budget.regularization=1", "budget.batch_size=64", "network.drop_path=0")
    colour = ("data=folder", f"data.root={folder}", "data.num_classes=10", "budget.regularization=1")
    full224 = ("base=resnet50", *colour, "budget.batch_size=8", "network.drop_path=0")
    all_cases = nano_cases(fashion)
    for overrides, size in ((full32, "32 px, batch 64"), (full224, "224 px, batch 8")):
        for step, model, shape in (
            ("baseline", "resnet50", "ResNet"),
            ("separate_downsampling", "convnext_tiny", "ConvNeXt"),
        ):
            all_cases.append(Case(f"{model}, {size}", (f"+step={step}", *overrides), model, shape))
    return all_cases


def compare_with_timm(options: argparse.Namespace) -> None:
    """Print images/s of timm's components with their fastest flags, of ours in one process, of ours with one process
    per core, and of our loader (with augmentation) and our trainer alone. The sides are measured in turn."""
    ours = (">ours", "ratio", ">process per core", "ratio", ">our loader", ">our trainer")
    print_header("network", "shape", "timm's flags", ">timm", *ours)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), 256)
        for case in [case for case in cases(Path(folder), options.fashion) if options.only in case.name]:
            small = "224" not in case.name
            flags = fastest_flags(case, ONE_PROCESS, options)
            rates: list[list[float]] = []
            for _ in range(options.repeats):
                rates.append([rate(TimmTraining, case, flags, options=options)])
                rates[-1].append(rate(our_training, case, "all", options=options))
                if small:
                    rates[-1].append(rate(our_training, case, "all", options=options, threads=ONE_PER_CORE))
            columns = list(zip(*rates, strict=True))
            cells = [case.name, case.shape, str(flags), f"{median(columns[0]):,.0f}"]
            for column in columns[1:]:
                cells += [f"{median(column):,.0f}", ratios(column, columns[0])]
            cells += ["–", "–"] * (len(columns) < 3)
            cells += [f"{rate(our_training, case, part, options=options):,.0f}" for part in ("load", "train")]
            print_row(cells)


def measure_share_of_peak(options: argparse.Namespace) -> None:
    """Print multiply-adds per second of the training of each step, as a share of those of a large matrix product.

    A training iteration counts as three times the multiply-adds of its forward pass: the backward pass has two products
    for each product of the forward pass.
    """
    bf16 = cpu_bf16_unit() is not None
    peak = options.measure(_matmul_peak, torch.bfloat16 if bf16 else torch.float32)
    print(f"Peak: {peak / 1e9:,.0f} GMAC/s, a {'bf16' if bf16 else 'fp32'} product of 4096 x 4096, {CORES} threads.\n")
    columns = (">32 px: images/s", ">GMAC/s", ">of peak", ">224 px: images/s", ">GMAC/s", ">of peak")
    print_header("step", *columns)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), 64)
        for step in load_roadmap().step_names:
            cells = [step]
            for overrides in (
                (*options.fashion, "budget.batch_size=64"),
                ("data=folder", f"data.root={folder}", "data.num_classes=10", "budget.batch_size=8"),
            ):
                case = Case(step, (f"+step={step}", "base=resnet50", *overrides, "network.drop_path=0"))
                spec = compose(*case.overrides)
                images = rate(our_training, case, "train", options=options)
                macs = 3e9 * measure_cost(spec.network, spec.data.image_size).gmacs * images
                cells += [f"{images:,.1f}", f"{macs / 1e9:,.0f}", f"{100 * macs / peak:.0f} %"]
            print_row(cells)


def measure_steps(options: argparse.Namespace) -> None:
    """Print multiply-adds and images/s of the networks of the published study, relative to its enhanced ResNet.

    One thread per run, as the study trains. Each repeat measures all networks in turn, so that other load on the
    machine affects all of them.
    """
    overrides = {step: [f"+step={step}"] for step in STEPS} | {"swin": reference_overrides("swin", load_roadmap())}
    networks = [Case(name, (*own, "+preset=fashion_mnist", *options.fashion)) for name, own in overrides.items()]
    rates: dict[str, list[float]] = {case.name: [] for case in networks}
    for _ in range(options.repeats):
        for case in networks:
            rates[case.name].append(rate(our_training, case, "all", options=options, threads=ONE_PER_CORE))
    specs = {case.name: compose(*case.overrides) for case in networks}
    mmacs = {name: 1e3 * measure_cost(spec.network, spec.data.image_size).gmacs for name, spec in specs.items()}
    first = "training_recipe"
    print_header("network", ">MMACs", f">of {first}'s", ">images/s", f"of {first}'s")
    for name, values in rates.items():
        share = f"{mmacs[name] / mmacs[first]:.2f}"
        print_row([name, f"{mmacs[name]:.2f}", share, f"{median(values):,.0f}", ratios(values, rates[first])])


def _matmul_peak(dtype: torch.dtype) -> float:
    """Return the multiply-adds per second of a matrix product, the best of ten."""
    torch.set_num_threads(CORES)
    a, b = (torch.randn(4096, 4096).to(dtype) for _ in range(2))
    times = []
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 4096**3 / min(times)
