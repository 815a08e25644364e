"""A study with its page, for the tests of the page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadmap.commands.report import structure_of_config
from roadmap.config.designs import Layout
from roadmap.config.schema import RunSpec
from roadmap.records.manifest import add_runs
from roadmap.records.record import run_folder
from roadmap.report.writer import write_report
from tests.helpers import write_run

STEPS = [
    "baseline", "training_recipe", "stage_ratio", "patchify_stem", "depthwise_conv", "increase_width",
    "inverted_bottleneck", "move_up_depthwise", "kernel_5", "large_kernel", "gelu", "layer_norm",
]  # fmt: skip

SEEDS = 5  # of `make_rows`


def make_curve(top1: float) -> list[dict[str, Any]]:
    points = [{"epoch": i, "lr": 0.1, "train_loss": 2.0 / i, "test_top1": top1 - 9 + 3 * i} for i in (1, 2, 3)]
    return [point | {"test_loss": 1.0 / point["epoch"]} for point in points]


def make_rows(folder: Path, steps: list[str], num_images: int) -> dict[str, np.ndarray]:
    """Write SEEDS runs of each step with random results on each image; return them by step, (SEEDS, num_images)."""
    rng = np.random.default_rng(0)
    ease = rng.random(num_images)
    results = {}
    for step in steps:
        own = 0.6 * ease + 0.4 * rng.random(num_images)  # probability that the step is right
        results[step] = rng.random((SEEDS, num_images)) < own
        for seed, correct in enumerate(results[step]):
            spec = write_run(folder, 100 * float(correct.mean()), f"+step={step}", f"seed={seed}")
            np.save(run_folder(spec) / "correct.npy", correct)
    return results


@pytest.fixture(scope="session")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study with gains, losses, a variant, a row of which one seed diverged, and one that failed."""
    folder = tmp_path_factory.mktemp("study")
    specs: list[RunSpec] = []
    for i, step in enumerate(STEPS):
        for seed in (0, 1):
            top1 = 60.0 + 7 * i % 31 + seed
            fields: dict[str, Any] = {"gmacs": 0.5 + 0.3 * i % 2, "params": 10**6 * (1 + 5 * i % 7)}
            fields["curve"] = make_curve(top1)
            if (step, seed) == ("gelu", 1):
                error = "the loss is nan at epoch 1, iteration 3"
                fields |= {"status": "diverged", "error": error, "curve": make_curve(5)[:1]}
            if step == "layer_norm":
                fields |= {"status": "failed", "error": "MemoryError: <b>too</b> large & lost", "curve": []}
            result = top1 if "status" not in fields else None
            specs.append(write_run(folder, result, f"+step={step}", f"seed={seed}", "+study=roadmap", **fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "orig_argv", ["python", "run_roadmap.py", "+study=roadmap", "seed=0,1"])
        add_runs([(spec, []) for spec in specs], Layout())
    write_report(folder / "roadmap", folder / "report", structure_of_config)
    return folder / "report" / "index.html"
