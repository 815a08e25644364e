"""One run from its spec to its record: results, divergence, failures, weights, locks."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch

from roadmap.analysis.table import analyze
from roadmap.config.compose import compose
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import SpecError
from roadmap.data.images import BadImageError
from roadmap.models.complexity import measure_cost
from roadmap.records.manifest import Manifest
from roadmap.records.record import read_record, run_folder, run_name
from roadmap.runtime import lock, system
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import RunProcess, summarize_record
from roadmap.sweep.single import run_single
from roadmap.training import checkpoint
from roadmap.training.evaluation import DivergedError, evaluate
from roadmap.training.run import check, run
from tests.conftest import TINY, CommandLine
from tests.helpers import call_main, make_image_folder

pytestmark = pytest.mark.usefixtures("folder")

FIELDS = {
    "name", "label", "study", "seed", "base", "data", "transforms", "status", "error", "config_hash", "config",
    "command", "versions", "git", "host", "started_at", "params", "gmacs", "activations", "plan", "top1", "top5",
    "loss", "num_test", "curve", "images_per_second", "train_seconds", "wall_seconds", "peak_memory_mib", "device",
}  # fmt: skip
IMAGES = (
    "data=folder", "data.image_size=32", "data.workers=0", "budget.train_images=null", "budget.test_images=null",
    "budget.batch_size=20",
)  # fmt: skip


def only_record(folder: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = folder.glob("*/*/record.json")
    return path.parent, json.loads(path.read_text(encoding="utf-8"))


def test_a_run_leaves_a_record_and_is_skipped_the_next_time(command_line: CommandLine, tmp_path: Path) -> None:
    overrides = ("+step=inverted_bottleneck", *TINY, "budget.epochs=2", "out=elsewhere")
    done = command_line(*overrides)
    assert done.returncode == 0, done.stderr
    folder, record = only_record(tmp_path / "elsewhere")
    assert record.keys() >= FIELDS
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert record["status"] == "completed" and record["name"] == "inverted_bottleneck"
    assert [info["name"] for info in record["transforms"]] == list(
        load_roadmap().steps["inverted_bottleneck"].transforms
    )
    assert [row["epoch"] for row in record["curve"]] == [1, 2]
    assert all(math.isfinite(row["train_loss"]) for row in record["curve"])
    assert record["top1"] == record["curve"][-1]["test_top1"]  # of the last epoch, not of the best
    correct = np.unpackbits(np.load(folder / "correct.npy"), count=record["num_test"])
    assert correct.shape == (64,) and 100 * correct.mean() == pytest.approx(record["top1"])
    assert record["top1"] <= record["top5"] <= 100 and record["loss"] > 0
    assert record["images_per_second"] > 0 and 0 < record["train_seconds"] < record["wall_seconds"]
    assert record["images_per_second_per_device"] == record["images_per_second"]
    assert record["model_flops_utilization"] is None  # of a CPU
    assert record["peak_memory_mib"] > 50
    cost = measure_cost(compose(*overrides).network, 8)
    assert (record["params"], record["gmacs"]) == (cost.params, cost.gmacs)
    assert record["config"]["network"]["inverted_bottleneck"] is True
    assert record["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert "inverted_bottleneck" in record["command"]
    assert "images/s" in done.stdout and f"on cpu ({system.cpu_name()}" in done.stdout

    before = (folder / "record.json").read_bytes()
    again = command_line(*overrides)
    assert again.returncode == 0 and "already finished" in again.stdout and "force=true" in again.stdout
    assert (folder / "record.json").read_bytes() == before


@pytest.mark.slow
def test_force_repeats_a_run_with_the_same_result(command_line: CommandLine, tmp_path: Path) -> None:
    overrides = ("+step=inverted_bottleneck", *TINY, "budget.epochs=2")
    assert command_line(*overrides).returncode == 0
    _, first = only_record(tmp_path / "experiments")
    repeated = command_line(*overrides, "force=true")
    assert repeated.returncode == 0 and "already finished" not in repeated.stdout
    _, second = only_record(tmp_path / "experiments")
    assert second["started_at"] != first["started_at"]
    assert second["curve"] == first["curve"] and second["top1"] == first["top1"]


@pytest.mark.slow
def test_fashion_mnist_from_its_files(command_line: CommandLine, tmp_path: Path, fashion: Path) -> None:
    overrides = ("data=fashion_mnist", f"data.root={fashion}", "budget=quick", "budget.epochs=1")
    overrides += ("budget.train_images=6000", "budget.test_images=1000", "budget.regularization=0")
    done = command_line("+step=baseline", *overrides)
    assert done.returncode == 0, done.stderr
    _, record = only_record(tmp_path / "experiments")
    assert record["top1"] > 40  # of ten classes, after 46 iterations


def test_a_run_starts_from_the_weights_of_another_run() -> None:
    first = compose("+step=gelu", *TINY)
    assert run(first)["status"] == "completed"
    path = run_folder(first) / "model.pt"
    second = compose("+step=gelu", *TINY, f"weights={path}", "recipe.lr=1e-12", "recipe.min_lr=0", "seed=1")
    assert run(second)["status"] == "completed"
    before, after = (torch.load(run_folder(spec) / "model.pt", weights_only=True) for spec in (first, second))
    assert torch.allclose(before["head.weight"], after["head.weight"], atol=1e-6)


def test_a_repeated_run_begins_again_and_keeps_the_previous_record() -> None:
    spec = compose("+step=gelu", *TINY, "keep_checkpoint=true")
    first = run(spec)
    folder = run_folder(spec)
    assert (folder / "checkpoint.pt").exists()
    second = run(dataclasses.replace(spec, force=True))
    assert second["train_seconds"] != first["train_seconds"] and second["curve"] == first["curve"]
    assert json.loads((folder / "record.before.json").read_text())["started_at"] == first["started_at"]


def test_a_repeated_run_that_is_refused_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that this machine does not have is found late, when the run is about to start."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = compose("+step=gelu", *TINY, "keep_checkpoint=true")
    run(spec)
    folder = run_folder(spec)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    result = call_main("+step=gelu", *TINY, "keep_checkpoint=true", "force=true", "device=cuda")
    assert result.code == 2 and result.err.startswith("error: device=cuda: ") and result.err.count("\n") == 1
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_a_repeated_run_that_fails_before_its_start_keeps_the_previous_record(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = compose("+step=gelu", *TINY)
    first = run(spec)
    monkeypatch.setattr("roadmap.training.run.measure_cost", Mock(side_effect=ZeroDivisionError))
    assert run(dataclasses.replace(spec, force=True))["status"] == "failed"
    assert json.loads((run_folder(spec) / "record.before.json").read_text()) == first


def test_a_refused_checkpoint_leaves_no_log() -> None:
    spec = compose("+step=gelu", *TINY)
    checkpoint.save(run_folder(spec), run_name(spec), {"epoch": 1})
    before = {path.name for path in run_folder(spec).iterdir()}
    result = call_main("+step=gelu", *TINY)
    assert result.code == 2 and "written by another version of this code; delete it" in result.err
    assert {path.name for path in run_folder(spec).iterdir()} == before | {lock.LOCK_NAME}


@pytest.mark.parametrize(
    ("error", "is_bug"),
    [
        (BadImageError("a.png: cut off"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 99 bytes"), False),
        (RuntimeError("shapes differ"), True),
    ],
)
def test_only_a_bug_prints_a_traceback(
    error: Exception, is_bug: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("roadmap.training.run.Trainer", Mock(side_effect=error))
    record = run(compose("+step=gelu", *TINY))
    assert record["error"] == f"{type(error).__name__}: {error}" and "Traceback" in record["traceback"]
    assert ("Traceback" in capsys.readouterr().err) == is_bug


def test_a_run_that_diverges_after_an_evaluation_has_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations: list[Any] = []

    def third_is_nan(*arguments: Any) -> Any:
        evaluations.append(evaluate(*arguments))
        if len(evaluations) == 3:
            raise DivergedError("the test loss is nan")
        return evaluations[-1]

    monkeypatch.setattr("roadmap.training.trainer.evaluate", third_is_nan)
    record = run(compose("+step=gelu", *TINY, "budget.epochs=4"))
    assert record["status"] == "diverged" and record["top1"] is None and len(record["curve"]) == 2
    assert record["error"].startswith("the test loss is nan (epoch 3, iteration ")


def test_a_run_at_chance_has_diverged_unless_allowed() -> None:
    overrides = ("+step=baseline", *TINY, "recipe.lr=1e-9", "budget.epochs=2")  # it learns nothing
    assert run(compose(*overrides))["status"] == "completed"
    record = run(compose(*overrides, "budget.allow_chance=false"))
    assert record["status"] == "diverged" and record["top1"] < 25
    assert "predicting the majority class" in record["error"] and "(epoch 2, iteration 4)" in record["error"]
    records = [record | {"correct": np.array([record["top1"]]), "setting": []}]
    table = pd.read_csv(io.StringIO(analyze("chance", Manifest("chance"), records, 1).table.to_csv()))
    assert table[["n_seeds", "n_diverged", "status"]].to_numpy().tolist() == [[0, 1, "diverged"]]


def test_the_first_iteration_without_a_finite_loss_is_recorded() -> None:
    record = run(compose("+step=baseline", *TINY, "precision=fp32", "recipe.lr=1e6", "budget.epochs=3"))
    assert record["status"] == "diverged"
    assert re.fullmatch(r"the loss is (nan|inf) at epoch \d+, iteration \d+", record["error"])


def test_unreadable_images_are_skipped_and_counted(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", {"a": 20, "b": 20})
    for split, number in (("train", 3), ("val", 7)):
        (root / split / "a" / f"{number}.png").write_bytes(b"no image")
    overrides = ("+step=gelu", *TINY, *IMAGES, f"data.root={root}", "data.on_error=skip", "budget.epochs=2")
    record = run(compose(*overrides))
    assert record["status"] == "completed" and record["num_test"] == 39
    assert [len(record["unreadable"][split]) for split in ("train", "test")] == [1, 1]  # not once per epoch
    assert record["unreadable"]["train"][0].startswith(str(root / "train" / "a" / "3.png"))
    assert "2 unreadable images skipped" in summarize_record(record)


def test_a_run_that_raises_records_the_reason_and_is_retried(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", {"a": 20, "b": 20})
    broken = root / "train" / "a" / "3.png"
    intact = broken.read_bytes()
    broken.write_bytes(b"no image")
    spec = compose("+step=baseline", *TINY, *IMAGES, f"data.root={root}")
    record = run(spec)
    assert record == read_record(run_folder(spec)) and record["status"] == "failed"
    assert record["error"].startswith(f"BadImageError: {broken}: UnidentifiedImageError")
    assert "cannot identify image file" in record["error"] and "Traceback" in record["traceback"]
    broken.write_bytes(intact)
    assert run(spec)["status"] == "completed"


def test_a_killed_run_is_recorded() -> None:
    spec = compose("+step=baseline", *TINY, "budget.epochs=10000")
    process = RunProcess(PlannedRun(spec, []), "[1/1] baseline", threads=1)
    process.process.kill()
    record = process.finish()
    assert record is not None
    assert record["status"] == "failed" and "killed by SIGKILL" in record["error"]
    assert read_record(process.folder) == record


def test_a_locked_run_is_not_trained(capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep postpones it, and a single run waits for the other process and takes its record."""
    spec = compose("+step=gelu", *TINY)
    folder = run_folder(spec)
    with lock.hold(folder):
        with pytest.raises(lock.LockedError, match="locked by another process"):
            run(spec)
        assert RunProcess(PlannedRun(spec, []), "gelu", threads=1).finish() is None
    held = threading.Event()

    def hold_for_a_second() -> None:
        with lock.hold(folder):
            held.set()
            time.sleep(1)

    other = threading.Thread(target=hold_for_a_second)
    other.start()
    held.wait()
    run_single(PlannedRun(spec, []))
    other.join()
    assert "waiting: locked by another process" in capsys.readouterr().out
    record = read_record(folder)
    assert record is not None and record["status"] == "completed"


def test_smoke_on_a_small_dataset_says_what_it_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_image_folder(tmp_path / "images", {"a": 10, "b": 9})
    overrides = ("+step=gelu", *TINY, "data=folder", "data.image_size=32", "data.workers=0", f"data.root={root}")
    spec = compose(*overrides)
    check(spec)
    record = run(spec)
    assert record["status"] == "completed", record["error"]
    assert (record["num_train"], record["num_test"], record["num_classes"]) == (19, 19, 2)
    assert record["plan"]["batch_size"] == 18 and record["config"]["budget"]["batch_size"] == 32
    reduced = "budget=smoke reduced to the size of the dataset: train_images=19, test_images=19, batch_size=18"
    assert reduced in capsys.readouterr().out
    with pytest.raises(SpecError, match=r"budget.batch_size=24: there are only 19 training images; use 19 or less"):
        check(compose(*overrides, "budget.batch_size=24"))
    with pytest.raises(SpecError, match=r"budget.train_images=100: there are only 19 images; use 19 or less"):
        check(compose(*overrides, "budget.train_images=100"))
