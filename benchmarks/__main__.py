"""Speed, side by side with what a user would use instead.

    python -m benchmarks timm      # training steps against timm's train.py, and our loader against our trainer
    python -m benchmarks peak      # each station's share of what the processor can multiply
    python -m benchmarks study     # the whole road against the same runs one after another with timm's pieces
    python -m benchmarks stations  # the networks of the published study against its ResNet: multiply-adds, images/s

`python benchmarks/kernels.py` tells what our CPU kernels are worth by themselves.
Prints Markdown with the machine's description; ratios as minimum / median / maximum of the repeats.
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

from benchmarks.sides import Case, Timms, best_flags, images_per_second, ours
from roadmap.config.compose import compose
from roadmap.config.designs import reference_overrides
from roadmap.config.steps import all_steps, step_names
from roadmap.models.complexity import measure
from roadmap.runtime.system import cpu_name, git_state, num_cores, package_versions
from roadmap.training.device import cpu_bf16_unit

ROOT = Path(__file__).parent.parent
CORES = num_cores()
STEPS = [step for step in all_steps() if step != "resnextify"]  # which is another name
ONE_PROCESS, PLACED = [CORES], [1] * CORES  # threads of each process: all in one, and as studies of small images do


def cases(folder: Path, fashion: list[str]) -> list[Case]:
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
    found = [
        Case(f"{step}, nano, 32 px, batch 128", (f"+step={step}", *small), ends=ends) for step, ends in nano.items()
    ]
    for words, size in ((full32, "32 px, batch 64"), (full224, "224 px, batch 8")):
        for step, model, ends in (
            ("baseline", "resnet50", "ResNet"),
            ("separate_downsampling", "convnext_tiny", "ConvNeXt"),
        ):
            found.append(Case(f"{model}, {size}", (f"+step={step}", *words), model, ends))
    return found


def against_timm(options: argparse.Namespace) -> None:
    """Images/s: timm's side with its fastest flags, ours in one process, ours as a study places runs, and of ours the
    loader with its augmentation alone and the trainer alone."""
    print("| network | shape | timm's flags | timm | ours | ratio | placed | ratio | our loader | our trainer |")
    print("| :--- | :--- | :--- | ---: | ---: | :--- | ---: | :--- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        _photographs(Path(folder), 256)
        chosen = [
            case for case in cases(Path(folder), options.fashion) if not options.only or options.only in case.name
        ]
        for case in chosen:
            small = "224" not in case.name
            flags = best_flags(case, ONE_PROCESS, options.seconds)
            rates: list[list[float]] = []
            for _ in range(options.repeats):
                rates.append([_rate(Timms, case, flags, options=options), _rate(ours, case, "all", options=options)])
                if small:
                    rates[-1].append(_rate(ours, case, "all", options=options, threads=PLACED))
            columns = list(zip(*rates, strict=True))
            cells = [case.name, case.ends, str(flags), f"{_median(columns[0]):,.0f}"]
            for column in columns[1:]:
                cells += [f"{_median(column):,.0f}", _ratios(column, columns[0])]
            cells += ["–", "–"] * (len(columns) < 3)
            cells += [f"{_rate(ours, case, what, options=options):,.0f}" for what in ("load", "train")]
            print("| " + " | ".join(cells) + " |", flush=True)


def share_of_peak(options: argparse.Namespace) -> None:
    """3 x the forward pass's multiply-adds a step (forward, and two products backward), against a matrix product."""
    bf16 = cpu_bf16_unit() is not None
    peak = _matmul_peak(torch.bfloat16 if bf16 else torch.float32)
    print(f"Peak: {peak / 1e9:,.0f} GMAC/s, a {'bf16' if bf16 else 'fp32'} product of 4096 x 4096, {CORES} threads.\n")
    print("| station | 32 px: images/s | GMAC/s | of peak | 224 px: images/s | GMAC/s | of peak |")
    print("| :--- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        _photographs(Path(folder), 64)
        for step in step_names():
            cells = [step]
            for words in (
                (*options.fashion, "budget.batch_size=64"),
                ("data=folder", f"data.root={folder}", "data.num_classes=10", "budget.batch_size=8"),
            ):
                case = Case(step, (f"+step={step}", "base=resnet50", *words, "network.drop_path=0"))
                spec = compose(*case.words)
                rate = _rate(ours, case, "train", options=options)
                macs = 3e9 * measure(spec.network, spec.data.image_size).gmacs * rate
                cells += [f"{rate:,.1f}", f"{macs / 1e9:,.0f}", f"{100 * macs / peak:.0f} %"]
            print("| " + " | ".join(cells) + " |", flush=True)


def whole_study(options: argparse.Namespace) -> None:
    """`+study=roadmap seed=0`, on digits and a part of Fashion-MNIST, against a script with timm's pieces for each."""
    print("| images | runs | timm's, one after another | ours | ratio |\n| :--- | ---: | ---: | ---: | :--- |")
    fashion = (*options.fashion, "budget.epochs=4", "budget.train_images=12000", "budget.allow_chance=true")
    for name, words in (("digits", ()), ("12,000 of Fashion-MNIST, 4 epochs", fashion)):
        flags = {
            shape: best_flags(Case(shape, (f"+step={shape}", *words)), ONE_PROCESS, options.seconds)
            for shape in ("baseline", "large_kernel")
        }
        sides: list[tuple[float, float]] = []
        for _ in range(options.study_repeats):
            with tempfile.TemporaryDirectory() as folder:
                common = [*words, "budget.regularization=1"]
                started = time.perf_counter()
                command = [sys.executable, str(ROOT / "run_roadmap.py"), "+study=roadmap", "seed=0", *common]
                subprocess.run(command, cwd=folder, check=True, capture_output=True)
                mine = time.perf_counter() - started
                started = time.perf_counter()
                for step in STEPS:
                    shape = "large_kernel" if "depthwise_conv" in all_steps()[step].transforms else "baseline"
                    command = [sys.executable, "-m", "benchmarks.timm_script", *flags[shape].words(), f"+step={step}"]
                    command += common
                    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
                sides.append((time.perf_counter() - started, mine))
        timm, mine = (_median(side) for side in zip(*sides, strict=True))
        ratio = _ratios(*zip(*sides, strict=True))
        chosen = f"timm: {flags['baseline']}; {flags['large_kernel']} from depthwise_conv on"
        print(f"| {name} ({chosen}) | {len(STEPS)} | {timm:,.0f} s | {mine:,.0f} s | {ratio} |", flush=True)


def stations(options: argparse.Namespace) -> None:
    """Round after round, so that what else the machine does meets all; as the study trains, one thread for each run."""
    words = {step: [f"+step={step}"] for step in STEPS} | {"swin": reference_overrides("swin")}
    networks = [Case(name, (*own, "+preset=fashion_mnist", *options.fashion)) for name, own in words.items()]
    rates: dict[str, list[float]] = {case.name: [] for case in networks}
    for _ in range(options.repeats):
        for case in networks:
            rates[case.name].append(_rate(ours, case, "all", options=options, threads=PLACED))
    specs = {case.name: compose(*case.words) for case in networks}
    costs = {name: 1e3 * measure(spec.network, spec.data.image_size).gmacs for name, spec in specs.items()}
    first = "training_recipe"
    print(f"| network | MMACs | of {first}'s | images/s | of {first}'s |\n| :--- | ---: | ---: | ---: | :--- |")
    for name, found in rates.items():
        ratio = _ratios(found, rates[first])
        print(f"| {name} | {costs[name]:.2f} | {costs[name] / costs[first]:.2f} | {_median(found):,.0f} | {ratio} |")


def _rate(maker: Any, *arguments: Any, options: argparse.Namespace, threads: list[int] = ONE_PROCESS) -> float:
    return images_per_second(maker, *arguments, threads=threads, seconds=options.seconds)


def _median(values: Any) -> float:
    return statistics.median(values)


def _ratios(over: Any, under: Any) -> str:
    found = sorted(a / b for a, b in zip(over, under, strict=True))
    return f"{found[0]:.2f} / **{_median(found):.2f}** / {found[-1]:.2f}"


def _photographs(folder: Path, count: int) -> None:
    """JPEG files of 500x375 smooth noise in ten classes, of which decoding takes what a photograph takes."""
    generator = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 10)):
        for i in range(number):
            path = folder / split / str(i % 10) / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            rough = Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8))
            rough.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def _matmul_peak(dtype: torch.dtype) -> float:
    """Multiply-adds a second, the best of ten."""
    torch.set_num_threads(CORES)
    a, b = (torch.randn(4096, 4096).to(dtype) for _ in range(2))
    times = []
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 4096**3 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = {"timm": against_timm, "peak": share_of_peak, "study": whole_study, "stations": stations}
    parser.add_argument("what", choices=what)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--study-repeats", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--fashion-mnist", type=Path, help="folder of its four files, where they are not yet found")
    parser.add_argument("--only", default="", help="of the comparison with timm, the networks with this in their name")
    options = parser.parse_args()
    options.fashion = ["data=fashion_mnist"]
    if options.fashion_mnist:
        options.fashion.append(f"data.root={options.fashion_mnist.resolve()}")
    unit = cpu_bf16_unit() or "no bf16"
    tree = f"commit {str(git_state()['commit'])[:12]}{'+' if git_state()['dirty'] else ''}"
    packages = ", ".join(f"{name} {package_versions()[name]}" for name in ("torch", "torchvision", "timm"))
    print(f"{cpu_name()} ({unit}), {CORES} cores, {platform.platform()}; {packages}; {tree}\n")
    what[options.what](options)


if __name__ == "__main__":
    main()
