"""Sweeps through the command line, from the overrides to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from roadmap.config.roadmaps import load_roadmap
from tests.conftest import TINY, CommandLine
from tests.helpers import make_image_folder


def test_a_sweep_continues_after_a_diverged_run_and_reports_it(command_line: CommandLine, tmp_path: Path) -> None:
    overrides = ["-m", "+step=gelu", "seed=0,1", *TINY, "precision=fp32", "recipe.lr=0.01,1e6", "reports=shown"]
    done = command_line(*overrides)
    assert done.returncode == 1
    assert "2 of 4 runs did not complete" in done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("experiments/runs/*/record.json")]
    assert sorted(record["status"] for record in records) == ["completed"] * 2 + ["diverged"] * 2
    diverged = next(record for record in records if record["status"] == "diverged")
    assert "loss is" in diverged["error"] and diverged["top1"] is None
    table = pd.read_csv(tmp_path / "shown" / "runs" / "roadmap.csv")
    assert table["step"].tolist() == ["gelu recipe.lr=0.01", "gelu recipe.lr=1000000.0"]
    assert table["status"].tolist() == ["completed", "diverged"] and table["n_seeds"].tolist() == [2, 0]
    assert "diverged (2 of 2)" in (tmp_path / "shown" / "runs" / "roadmap.md").read_text(encoding="utf-8")

    dry_run = command_line(*overrides, "plan=true", "plan_device=none")
    assert dry_run.returncode == 0 and "runs: 4 runs, 4 done, 0 to do" in dry_run.stdout


@pytest.mark.slow
def test_finished_runs_are_skipped_also_if_they_diverged(command_line: CommandLine) -> None:
    overrides = ["-m", "+step=baseline,gelu", "seed=0", *TINY, "precision=fp32", "recipe.lr=0.01,1e6"]
    assert "2 of 4 runs did not complete" in command_line(*overrides).stderr
    again = command_line(*overrides)
    assert again.returncode == 1 and "4 of them already finished" in again.stdout


@pytest.mark.slow
def test_a_run_that_raises_shows_its_reason_and_is_retried(command_line: CommandLine, tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", {"a": 20, "b": 20})
    broken = root / "train" / "a" / "3.png"
    intact = broken.read_bytes()
    broken.write_bytes(b"no image")
    overrides = ["-m", "+step=baseline", "seed=0", *TINY, "data=folder", f"data.root={root}", "data.image_size=32"]
    overrides += ["budget.train_images=null", "budget.test_images=null", "data.workers=0"]
    done = command_line(*overrides)
    assert done.returncode == 1
    assert "1 of 1 runs did not complete" in done.stderr and "cannot identify image file" in done.stderr
    path = next(tmp_path.glob("experiments/runs/*-seed0/record.json"))
    record = json.loads(path.read_text())
    assert record["status"] == "failed" and "Traceback" in record["traceback"]
    assert record["error"].startswith(f"BadImageError: {broken}: UnidentifiedImageError")
    broken.write_bytes(intact)
    repaired = command_line(*overrides)
    assert repaired.returncode == 0, repaired.stderr
    assert json.loads(path.read_text())["status"] == "completed"


@pytest.mark.slow
def test_the_roadmap_study_end_to_end(command_line: CommandLine, tmp_path: Path) -> None:
    done = command_line("+study=roadmap", *TINY, "seed=3")
    assert done.returncode == 0, done.stderr
    names = [name for name in load_roadmap().steps if name != "resnextify"]
    records = [json.loads(path.read_text()) for path in tmp_path.glob("experiments/runs/*/record.json")]
    assert sorted((record["name"], record["seed"]) for record in records) == sorted((name, 3) for name in names)
    table = pd.read_csv(tmp_path / "reports" / "roadmap" / "roadmap.csv")
    assert table[~table["variant"]]["step"].tolist() == load_roadmap().step_names
    assert table["step"].tolist()[7:12] == ["move_up_depthwise", "kernel_5", "large_kernel", "kernel_9", "kernel_11"]
    assert (table["n_seeds"] == 1).all() and (table["status"] == "completed").all()
    means, gains = table.set_index("step")["top1_mean"], table.set_index("step")["delta"]
    assert gains["kernel_9"] == pytest.approx(means["kernel_9"] - means["move_up_depthwise"])
    assert gains["gelu"] == pytest.approx(means["gelu"] - means["large_kernel"])
    for suffix in ("csv", "md", "tex", "png", "svg"):
        assert (tmp_path / "reports" / "roadmap" / f"roadmap.{suffix}").stat().st_size > 500
        assert f"roadmap.{suffix}" in done.stdout
    assert "[18/18]" in done.stdout and "left" in done.stdout and "images/s" in done.stdout
