"""Speed of this package, compared with what a user would use instead.

    python -m benchmarks timm      # training iterations against the components of timm's train.py
    python -m benchmarks peak      # each step's share of the processor's peak throughput
    python -m benchmarks study     # a whole study against the same runs with timm's components, one after another
    python -m benchmarks steps     # the networks of the published study against its ResNet: multiply-adds and images/s

`python benchmarks/kernels.py` measures our CPU kernels alone. `stations` is an older name of `steps`.
The output is Markdown, with a description of the machine. Ratios are minimum / median / maximum of the repeats.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.sides import Case, TimmTraining, fastest_flags, images_per_second, our_training
from roadmap.config.compose import compose
from roadmap.config.designs import reference_overrides
from roadmap.config.steps import all_steps, step_names
from roadmap.models.complexity import measure_cost
from roadmap.runtime.system import cpu_name, git_state, num_cores, package_versions
from roadmap.training.device import cpu_bf16_unit

ROOT = Path(__file__).parent.parent
CORES = num_cores()
STEPS = [step for step in all_steps() if step != "resnextify"]  # an alias
# Threads of each process: one process on all cores, or one process per core as in studies with small images.
ONE_PROCESS, ONE_PER_CORE = [CORES], [1] * CORES


def cases(folder: Path, fashion: list[str]) -> list[Case]:
    """Return the trainings of the comparison with timm; `folder` holds an image folder."""
    small = (*fashion, "budget.regularization=1", "budget.batch_size=128")
    colour = ("data=folder", f"data.root={folder}", "data.num_classes=10", "budget.regularization=1")
    full32 = ("base=resnet50", *small, "budget.batch_size=64", "network.drop_path=0")
    full224 = ("base=resnet50", *colour, "budget.batch_size=8", "network.drop_path=0")
    nano = {
        "baseline": "ResNet",
        "inverted_bottleneck": "between",
        "large_kernel": "between",
        "separate_downsampling": "ConvNeXt",
    }
    all_cases = [
        Case(f"{step}, nano, 32 px, batch 128", (f"+step={step}", *small), shape=shape) for step, shape in nano.items()
    ]
    for overrides, size in ((full32, "32 px, batch 64"), (full224, "224 px, batch 8")):
        for step, model, shape in (
            ("baseline", "resnet50", "ResNet"),
            ("separate_downsampling", "convnext_tiny", "ConvNeXt"),
        ):
            all_cases.append(Case(f"{model}, {size}", (f"+step={step}", *overrides), model, shape))
    return all_cases


def compare_with_timm(options: argparse.Namespace) -> None:
    """Print images/s of timm's components with their fastest flags, of ours in one process, of ours with one process
    per core, and of our loader (with augmentation) and our trainer alone."""
    print(
        "| network | shape | timm's flags | timm | ours | ratio | process per core | ratio | our loader | our trainer |"
    )
    print("| :--- | :--- | :--- | ---: | ---: | :--- | ---: | :--- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        _write_photographs(Path(folder), 256)
        chosen = [case for case in cases(Path(folder), options.fashion) if options.only in case.name]
        for case in chosen:
            small = "224" not in case.name
            flags = fastest_flags(case, ONE_PROCESS, options.seconds)
            rates: list[list[float]] = []
            for _ in range(options.repeats):
                rates.append([_rate(TimmTraining, case, flags, options=options)])
                rates[-1].append(_rate(our_training, case, "all", options=options))
                if small:
                    rates[-1].append(_rate(our_training, case, "all", options=options, threads=ONE_PER_CORE))
            columns = list(zip(*rates, strict=True))
            cells = [case.name, case.shape, str(flags), f"{_median(columns[0]):,.0f}"]
            for column in columns[1:]:
                cells += [f"{_median(column):,.0f}", _ratios(column, columns[0])]
            cells += ["–", "–"] * (len(columns) < 3)
            cells += [f"{_rate(our_training, case, part, options=options):,.0f}" for part in ("load", "train")]
            print("| " + " | ".join(cells) + " |", flush=True)


def measure_share_of_peak(options: argparse.Namespace) -> None:
    """Print multiply-adds per second of the training of each step, as a share of those of a large matrix product.

    A training iteration counts as three times the multiply-adds of its forward pass: the backward pass has two products
    for each product of the forward pass.
    """
    bf16 = cpu_bf16_unit() is not None
    peak = _matmul_peak(torch.bfloat16 if bf16 else torch.float32)
    print(f"Peak: {peak / 1e9:,.0f} GMAC/s, a {'bf16' if bf16 else 'fp32'} product of 4096 x 4096, {CORES} threads.\n")
    print("| step | 32 px: images/s | GMAC/s | of peak | 224 px: images/s | GMAC/s | of peak |")
    print("| :--- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        _write_photographs(Path(folder), 64)
        for step in step_names():
            cells = [step]
            for overrides in (
                (*options.fashion, "budget.batch_size=64"),
                ("data=folder", f"data.root={folder}", "data.num_classes=10", "budget.batch_size=8"),
            ):
                case = Case(step, (f"+step={step}", "base=resnet50", *overrides, "network.drop_path=0"))
                spec = compose(*case.overrides)
                rate = _rate(our_training, case, "train", options=options)
                macs = 3e9 * measure_cost(spec.network, spec.data.image_size).gmacs * rate
                cells += [f"{rate:,.1f}", f"{macs / 1e9:,.0f}", f"{100 * macs / peak:.0f} %"]
            print("| " + " | ".join(cells) + " |", flush=True)


def compare_whole_study(options: argparse.Namespace) -> None:
    """Print the seconds of `+study=roadmap seed=0`, and those of the same runs with a script of timm's components.

    On digits, and on a part of Fashion-MNIST.
    """
    print("| images | runs | timm's, one after another | ours | ratio |\n| :--- | ---: | ---: | ---: | :--- |")
    fashion = (*options.fashion, "budget.epochs=4", "budget.train_images=12000", "budget.allow_chance=true")
    for name, overrides in (("digits", ()), ("12,000 of Fashion-MNIST, 4 epochs", fashion)):
        flags = {
            step: fastest_flags(Case(step, (f"+step={step}", *overrides)), ONE_PROCESS, options.seconds)
            for step in ("baseline", "large_kernel")
        }
        seconds: list[tuple[float, float]] = []  # timm's, ours
        for _ in range(options.study_repeats):
            with tempfile.TemporaryDirectory() as folder:
                common = [*overrides, "budget.regularization=1"]
                started = time.perf_counter()
                command = [sys.executable, str(ROOT / "run_roadmap.py"), "+study=roadmap", "seed=0", *common]
                subprocess.run(command, cwd=folder, check=True, capture_output=True)
                ours = time.perf_counter() - started
                started = time.perf_counter()
                for step in STEPS:
                    similar = "large_kernel" if "depthwise_conv" in all_steps()[step].transforms else "baseline"
                    command = [sys.executable, "-m", "benchmarks.timm_script", *flags[similar].arguments()]
                    subprocess.run([*command, f"+step={step}", *common], cwd=ROOT, check=True, capture_output=True)
                seconds.append((time.perf_counter() - started, ours))
        timm, ours = (_median(side) for side in zip(*seconds, strict=True))
        ratio = _ratios(*zip(*seconds, strict=True))
        chosen = f"timm: {flags['baseline']}; {flags['large_kernel']} from depthwise_conv on"
        print(f"| {name} ({chosen}) | {len(STEPS)} | {timm:,.0f} s | {ours:,.0f} s | {ratio} |", flush=True)


def measure_steps(options: argparse.Namespace) -> None:
    """Print multiply-adds and images/s of the networks of the published study, relative to its enhanced ResNet.

    One thread per run, as the study trains. Each repeat measures all networks in turn, so that other load on the
    machine affects all of them.
    """
    overrides = {step: [f"+step={step}"] for step in STEPS} | {"swin": reference_overrides("swin")}
    networks = [Case(name, (*own, "+preset=fashion_mnist", *options.fashion)) for name, own in overrides.items()]
    rates: dict[str, list[float]] = {case.name: [] for case in networks}
    for _ in range(options.repeats):
        for case in networks:
            rates[case.name].append(_rate(our_training, case, "all", options=options, threads=ONE_PER_CORE))
    specs = {case.name: compose(*case.overrides) for case in networks}
    mmacs = {name: 1e3 * measure_cost(spec.network, spec.data.image_size).gmacs for name, spec in specs.items()}
    first = "training_recipe"
    print(f"| network | MMACs | of {first}'s | images/s | of {first}'s |\n| :--- | ---: | ---: | ---: | :--- |")
    for name, values in rates.items():
        ratio = _ratios(values, rates[first])
        print(f"| {name} | {mmacs[name]:.2f} | {mmacs[name] / mmacs[first]:.2f} | {_median(values):,.0f} | {ratio} |")


def _rate(make: Any, *arguments: Any, options: argparse.Namespace, threads: list[int] = ONE_PROCESS) -> float:
    return images_per_second(make, *arguments, threads=threads, seconds=options.seconds)


def _median(values: Any) -> float:
    return statistics.median(values)


def _ratios(numerators: Any, denominators: Any) -> str:
    ratios = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    return f"{ratios[0]:.2f} / **{_median(ratios):.2f}** / {ratios[-1]:.2f}"


def _write_photographs(folder: Path, count: int) -> None:
    """Write JPEG files of 500x375 smooth noise in ten classes. Decoding them takes as long as decoding photographs."""
    generator = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 10)):
        for i in range(number):
            path = folder / split / str(i % 10) / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            rough = Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8))
            rough.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


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


BENCHMARKS = {
    "timm": compare_with_timm,
    "peak": measure_share_of_peak,
    "study": compare_whole_study,
    "steps": measure_steps,
    "stations": measure_steps,
}


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--study-repeats", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    parser.add_argument("--fashion-mnist", type=Path, help="folder with the four files of Fashion-MNIST")
    parser.add_argument("--only", default="", help="timm: only networks with this text in their name")
    options = parser.parse_args()
    options.fashion = ["data=fashion_mnist"]
    if options.fashion_mnist:
        options.fashion.append(f"data.root={options.fashion_mnist.resolve()}")
    unit = cpu_bf16_unit() or "no bf16"
    commit = f"commit {str(git_state()['commit'])[:12]}{'+' if git_state()['dirty'] else ''}"
    packages = ", ".join(f"{name} {package_versions()[name]}" for name in ("torch", "torchvision", "timm"))
    print(f"{cpu_name()} ({unit}), {CORES} cores, {platform.platform()}; {packages}; {commit}\n")
    BENCHMARKS[options.benchmark](options)


if __name__ == "__main__":
    main()
