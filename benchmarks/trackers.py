"""Benchmark of the experiment trackers: the same runs with and without them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.study import ROOT
from benchmarks.tables import CORES, median, print_header, print_row, ratios
from roadmap.config.choices import TRACKERS

RUNS = (
    "+step=separate_downsampling", "budget.train_images=12800", "budget.test_images=500", "budget.epochs=5",
    "budget.lr_multiplier.adamw=1", "budget.allow_chance=true", "log_every=10",
)  # fmt: skip
SERVERS = ("MLFLOW_", "WANDB_", "TRACKIO_")  # variables that would send the points to servers


class Speed(NamedTuple):
    """The speed of one command."""

    images_per_second: float  # in training, as the runs record it; the sum over the runs that train at once
    seconds: float  # of the whole command


def measure_trackers(options: argparse.Namespace) -> None:
    """Print images/s in training, and the seconds of the whole command, with each tracker and without one.

    As in a study with small images, one run per core trains at once, so that a tracker has no core of its own. Each
    repeat has another order, so that none is always the first.
    """
    choices: dict[str, list[str]] = {"none": [], **{name: [name] for name in TRACKERS}, "all four": list(TRACKERS)}
    names = [name for name in choices if name == "none" or options.only in name]
    speeds: dict[str, list[Speed]] = {name: [] for name in names}
    for repeat in range(options.repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            logger = [f"logger=[{','.join(choices[name])}]"] if choices[name] else []
            speeds[name].append(options.measure(_speed, [*RUNS, *options.fashion, *logger]))
    print_header("tracker", ">images/s", "ratio to none", ">command", "ratio of its time")
    rates, times = (
        {name: [getattr(speed, key) for speed in found] for name, found in speeds.items()} for key in Speed._fields
    )
    for name in names:
        cells = [name, f"{median(rates[name]):,.0f}", "–", f"{median(times[name]):,.1f} s", "–"]
        if name != "none":
            cells[2], cells[4] = ratios(rates[name], rates["none"]), ratios(times[name], times["none"])
        print_row(cells)


def _speed(overrides: list[str]) -> Speed:
    seeds = ",".join(map(str, range(CORES)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SERVERS)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "run_roadmap.py"), "-m", *overrides, f"seed={seeds}"]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
        seconds = time.perf_counter() - started
        paths = list(Path(folder).glob("experiments/runs/*/record.json"))
        if done.returncode != 0 or "logger=" in done.stdout or len(paths) != CORES:
            raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
        records = [json.loads(path.read_text("utf-8")) for path in paths]
        return Speed(sum(record["images_per_second"] for record in records), seconds)
