"""Benchmark of a whole study: its command, against a script of timm's components for each run."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.sides import Case, Flags, fastest_flags
from benchmarks.tables import ONE_PROCESS, STEPS, median, print_header, print_row, ratios
from roadmap.config.roadmaps import load_roadmap

ROOT = Path(__file__).parent.parent


def compare_whole_study(options: argparse.Namespace) -> None:
    """Print the seconds of `+study=roadmap seed=0`, and those of the same runs with a script of timm's components.

    On digits, and on a part of Fashion-MNIST. The two sides are measured in turn.
    """
    print_header("images", ">runs", ">timm's, one after another", ">ours", "ratio")
    fashion = (*options.fashion, "budget.epochs=4", "budget.train_images=12000", "budget.allow_chance=true")
    for name, overrides in (("digits", ()), ("12,000 of Fashion-MNIST, 4 epochs", fashion)):
        if options.only not in name:
            continue
        flags = {
            step: fastest_flags(Case(step, (f"+step={step}", *overrides)), ONE_PROCESS, options)
            for step in ("baseline", "large_kernel")
        }
        common = [*overrides, "budget.regularization=1"]
        seconds = [
            (options.measure(_seconds_of_timm, flags, common), options.measure(_seconds_of_study, common))
            for _ in range(options.study_repeats)
        ]
        timm, ours = zip(*seconds, strict=True)
        chosen = f"timm: {flags['baseline']}; {flags['large_kernel']} from depthwise_conv on"
        times = (f"{median(timm):,.0f} s", f"{median(ours):,.0f} s")
        print_row([f"{name} ({chosen})", str(len(STEPS)), *times, ratios(timm, ours)])


def _seconds_of_study(overrides: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, str(ROOT / "run_roadmap.py"), "+study=roadmap", "seed=0", *overrides]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - started


def _seconds_of_timm(flags: dict[str, Flags], overrides: list[str]) -> float:
    started = time.perf_counter()
    for step in STEPS:
        similar = "large_kernel" if "depthwise_conv" in load_roadmap().steps[step].transforms else "baseline"
        command = [sys.executable, "-m", "benchmarks.timm_script", *flags[similar].arguments()]
        subprocess.run([*command, f"+step={step}", *overrides], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started
