"""Benchmark of this version against another commit: the same runs in both, in turn."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.sides import Case
from benchmarks.study import ROOT
from benchmarks.tables import CORES, median, nano_cases, print_header, print_row, ratios


def compare_with_commit(options: argparse.Namespace) -> None:
    """Print the training images/s that runs record in a checkout of another commit, and in this one.

    As in a study with small images, one run per core trains at once. Both versions train the same number of images.
    """
    seeds = ",".join(map(str, range(CORES)))
    short = (
        "budget.train_images=6400",
        "budget.test_images=500",
        "budget.allow_chance=true",
        "budget.lr_multiplier.adamw=1",
    )
    digits = [Case(f"{step}, digits", (f"+step={step}",)) for step in ("baseline", "separate_downsampling")]
    fashion = [Case(case.name, (*case.overrides, *short, "budget.epochs=2")) for case in nano_cases(options.fashion)]
    print_header("runs", f">{options.commit[:12]}", ">this version", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "checkout"
        subprocess.run(["git", "worktree", "add", "--detach", str(other), options.commit], cwd=ROOT, check=True)
        try:
            for case in [case for case in [*digits, *fashion] if options.only in case.name]:
                overrides = [*case.overrides, f"seed={seeds}"]
                rates = [
                    [options.measure(_recorded_rate, root, overrides) for root in (other, ROOT)]
                    for _ in range(options.repeats)
                ]
                before, now = zip(*rates, strict=True)
                print_row([case.name, f"{median(before):,.0f}", f"{median(now):,.0f}", ratios(now, before)])
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=ROOT, check=True)


def _recorded_rate(root: Path, overrides: list[str]) -> float:
    """Return the sum of the training images/s that the runs of one command record in the checkout `root`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(root / "run_roadmap.py"), "-m", *overrides]
        environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": folder}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr}")
        records = [json.loads(path.read_text()) for path in Path(folder).glob("experiments/runs/*/record.json")]
        rates: list[float] = [record["images_per_second"] for record in records]
        return sum(rates)
