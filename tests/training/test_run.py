"""Runs and studies through the real command line: train, record, skip, fail, report."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from roadmap.analysis.table import analyze
from roadmap.config.compose import compose
from roadmap.config.schema import DataSpec, Device, Precision, RunSpec
from roadmap.config.steps import all_steps, ordered_steps
from roadmap.data.images import Batch
from roadmap.models.complexity import measure
from roadmap.records.manifest import Manifest
from roadmap.records.record import FORMAT, config_hash, config_of, new_record, read_record, run_folder, write_record
from roadmap.runtime import system
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import RunProcess, summarize_record
from roadmap.training import device, run, trainer
from roadmap.training.evaluation import DivergedError, Evaluation, check_above_chance, evaluate
from roadmap.training.metrics import Metrics
from roadmap.training.recipe import BatchAugment
from tests.conftest import ROOT, TINY, CommandLine
from tests.helpers import make_image_folder

FIELDS = {
    "name", "label", "study", "seed", "base", "data", "transforms", "status", "error", "config_hash", "config",
    "command", "versions", "git", "host", "started_at", "params", "gmacs", "activations", "plan", "top1", "top5",
    "loss", "num_test", "curve", "images_per_second", "train_seconds", "wall_seconds", "peak_memory_mib", "device",
}  # fmt: skip


def only_record(folder: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = folder.glob("*/*/record.json")
    return path.parent, json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_run_leaves_a_record_and_is_skipped_the_next_time(command_line: CommandLine, tmp_path: Path) -> None:
    words = ("+step=inverted_bottleneck", *TINY, "budget.epochs=2", "out=elsewhere")
    done = command_line(*words)
    assert done.returncode == 0, done.stderr
    folder, content = only_record(tmp_path / "elsewhere")
    assert content.keys() >= FIELDS
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert content["status"] == "completed" and content["name"] == "inverted_bottleneck"
    assert [info["name"] for info in content["transforms"]] == list(all_steps()["inverted_bottleneck"].transforms)
    assert [row["epoch"] for row in content["curve"]] == [1, 2]
    assert all(math.isfinite(row["train_loss"]) for row in content["curve"])
    assert content["top1"] == content["curve"][-1]["test_top1"]  # the last epoch's, not the best
    correct = np.load(folder / "correct.npy")
    assert correct.shape == (64,) and correct.dtype == bool and 100 * correct.mean() == pytest.approx(content["top1"])
    assert content["top1"] <= content["top5"] <= 100 and content["loss"] > 0
    assert content["images_per_second"] > 0 and 0 < content["train_seconds"] < content["wall_seconds"]
    assert content["peak_memory_mib"] > 50
    cost = measure(compose(*words).network, 8)
    assert (content["params"], content["gmacs"]) == (cost.params, cost.gmacs)
    assert content["config"]["network"]["inverted_bottleneck"] is True
    assert content["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert "inverted_bottleneck" in content["command"]
    assert "images/s" in done.stdout and f"on cpu ({system.cpu_name()}" in done.stdout

    before = (folder / "record.json").read_bytes()
    again = command_line(*words)
    assert again.returncode == 0 and "finished before" in again.stdout and "force=true" in again.stdout
    assert (folder / "record.json").read_bytes() == before
    forced = command_line(*words, "force=true")
    assert forced.returncode == 0 and "finished before" not in forced.stdout
    now = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert now["started_at"] != content["started_at"]
    assert now["curve"] == content["curve"] and now["top1"] == content["top1"]  # one seed, one result


def test_a_new_field_leaves_finished_runs_found(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass
    class Later(DataSpec):
        novel: bool = False

    @dataclasses.dataclass
    class LaterRun(RunSpec):
        data: DataSpec = dataclasses.field(default_factory=Later)
        unheard: int | None = None

    spec = compose("+step=gelu")
    before = config_hash(spec)
    monkeypatch.setattr("roadmap.records.record.RunSpec", LaterRun)
    later = LaterRun(**(vars(spec) | {"data": Later(**vars(spec.data))}))
    assert config_hash(later) == before
    later.data = Later(**vars(spec.data), novel=True)
    with_field = config_hash(later)
    later.unheard = 1
    assert len({before, with_field, config_hash(later)}) == 3


ASK_GIT = "import json; from roadmap.runtime.system import git_state; print(json.dumps(git_state()))"


def test_a_checkout_is_dirty_by_its_code_and_configs_not_by_its_reports(tmp_path: Path) -> None:
    for name in ("roadmap", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_roadmap.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)

    def said(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    def dirty() -> bool:
        found = json.loads(said(sys.executable, "-c", ASK_GIT))
        assert found["commit"] == said("git", "rev-parse", "HEAD")
        return bool(found["dirty"])

    said("git", "init", "-q")
    said("git", "add", ".")
    said("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "all")
    (tmp_path / "README.md").write_text("changed")
    assert not dirty()
    for name in ("run_roadmap.py", "conf/config.yaml", "roadmap/records/record.py"):
        before = (tmp_path / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(before + "\n", encoding="utf-8")
        assert dirty(), name
        (tmp_path / name).write_text(before, encoding="utf-8")
    assert not dirty()


def test_a_changed_default_means_a_new_format(golden: Callable[[str, Any], Any]) -> None:
    """The hash leaves defaults out, and old records get them: whoever changes one raises FORMAT, or old runs would be
    taken for new ones. A new field wants the golden written anew, no more."""
    found = {"format": FORMAT, "defaults": config_of(RunSpec())}
    assert golden("defaults", found) == found


def test_only_what_decides_the_result_makes_another_run() -> None:
    def same(*words: str) -> bool:
        return config_hash(compose("+step=gelu", *words)) == config_hash(compose("+step=gelu"))

    assert same("budget.lr_multiplier.sgd=3")  # of an optimizer that it does not use
    assert same("seed=4", "parallel=2", "out=elsewhere", "checkpoint_steps=9")
    for word in (
        "budget.lr_multiplier.adamw=3",
        "recipe.mixup=0",
        "network.width=40",
        "precision=fp32",
        "data.flip=0.5",
    ):
        assert not same(word), word


def test_a_record_older_than_a_field_has_its_default(tmp_path: Path) -> None:
    spec = compose("+step=gelu", "budget.lr_multiplier.adamw=3", "data.holdout=9")
    content = new_record(spec, "")
    del content["config"]["budget"]["lr_multiplier"]["sgd"], content["config"]["network"]["grn"]
    del content["config"]["deterministic"]
    write_record(tmp_path, content)
    read = read_record(tmp_path)
    assert read is not None and read["config"] == config_of(spec)


def test_a_run_starts_from_another_runs_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = compose("+step=gelu", *TINY)
    assert run.run(first)["status"] == "completed"
    path = run_folder(first) / "model.pt"
    second = compose("+step=gelu", *TINY, f"weights={path}", "recipe.lr=1e-12", "recipe.min_lr=0", "seed=1")
    assert run.run(second)["status"] == "completed"
    before, after = (torch.load(run_folder(spec) / "model.pt", weights_only=True) for spec in (first, second))
    assert torch.allclose(before["head.weight"], after["head.weight"], atol=1e-6)


@pytest.mark.slow
def test_a_sweep_with_a_diverging_run_goes_on_and_reports_it(command_line: CommandLine, tmp_path: Path) -> None:
    words = ["-m", "+step=baseline,gelu", "seed=0,1", *TINY, "precision=fp32", "recipe.lr=0.01,1e30", "reports=told"]
    done = command_line(*words)
    assert done.returncode == 1
    assert "4 of 8 runs did not complete" in done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("experiments/runs/*/record.json")]
    assert sorted(r["status"] for r in records) == ["completed"] * 4 + ["diverged"] * 4
    bad = next(r for r in records if r["status"] == "diverged")
    assert "the loss is" in bad["error"] and bad["top1"] is None
    table = pd.read_csv(tmp_path / "told" / "runs" / "roadmap.csv")
    assert table["step"].tolist() == [
        "baseline recipe.lr=0.01", "gelu recipe.lr=0.01", "baseline recipe.lr=1e+30", "gelu recipe.lr=1e+30",
    ]  # fmt: skip
    assert table["status"].tolist() == ["completed"] * 2 + ["diverged"] * 2
    assert table["n_seeds"].tolist() == [2, 2, 0, 0]
    assert "diverged (2 of 2)" in (tmp_path / "told" / "runs" / "roadmap.md").read_text(encoding="utf-8")

    again = command_line(*words)
    assert again.returncode == 1 and "8 of them finished before" in again.stdout


@pytest.mark.slow
def test_a_run_that_raises_leaves_its_reason_and_is_tried_again(command_line: CommandLine, tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", {"a": 20, "b": 20})
    broken = root / "train" / "a" / "3.png"
    intact = broken.read_bytes()
    broken.write_bytes(b"no image")
    words = ["-m", "+step=baseline", "seed=0", *TINY, "data=folder", f"data.root={root}", "data.image_size=32"]
    words += ["budget.train_images=null", "budget.test_images=null", "data.workers=0"]
    done = command_line(*words)
    assert done.returncode == 1
    assert "1 of 1 runs did not complete" in done.stderr and "cannot identify image file" in done.stderr
    path = next(tmp_path.glob("experiments/runs/*-seed0/record.json"))
    content = json.loads(path.read_text())
    assert content["status"] == "failed"
    assert content["error"].startswith(f"BadImageError: {broken}: UnidentifiedImageError")
    assert "Traceback" in content["traceback"]
    broken.write_bytes(intact)
    mended = command_line(*words)
    assert mended.returncode == 0, mended.stderr
    assert json.loads(path.read_text())["status"] == "completed"


@pytest.mark.slow
def test_the_study_end_to_end(command_line: CommandLine, tmp_path: Path) -> None:
    done = command_line("+study=roadmap", *TINY, "seed=3")
    assert done.returncode == 0, done.stderr
    stations = [step for step in all_steps() if step != "resnextify"]
    records = [json.loads(path.read_text()) for path in tmp_path.glob("experiments/runs/*/record.json")]
    assert sorted((r["name"], r["seed"]) for r in records) == sorted((s, 3) for s in stations)
    table = pd.read_csv(tmp_path / "reports" / "roadmap" / "roadmap.csv")
    path = table[~table["variant"]]["step"].tolist()
    assert path == [step.name for step in ordered_steps()]
    assert table["step"].tolist()[7:12] == ["move_up_depthwise", "kernel_5", "large_kernel", "kernel_9", "kernel_11"]
    assert (table["n_seeds"] == 1).all() and (table["status"] == "completed").all()
    means = table.set_index("step")["top1_mean"]
    delta = table.set_index("step")["delta"]
    assert delta["kernel_9"] == pytest.approx(means["kernel_9"] - means["move_up_depthwise"])
    assert delta["gelu"] == pytest.approx(means["gelu"] - means["large_kernel"])
    for kind in ("csv", "md", "tex", "png", "svg"):
        assert (tmp_path / "reports" / "roadmap" / f"roadmap.{kind}").stat().st_size > 500
        assert f"roadmap.{kind}" in done.stdout
    assert "[18/18]" in done.stdout and "left" in done.stdout and "images/s" in done.stdout


@pytest.mark.slow
def test_another_launcher_places_the_runs(command_line: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ("-m", "+step=baseline", "seed=0,1", *TINY, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = command_line(*words)
    assert done.returncode == 0, done.stderr + done.stdout
    table = pd.read_csv(tmp_path / "reports" / "runs" / "roadmap.csv")
    assert table[["n_seeds", "status"]].to_numpy().tolist() == [[2, "completed"]]


@pytest.mark.slow
def test_fashion_mnist_from_its_files(command_line: CommandLine, tmp_path: Path, fashion: Path) -> None:
    words = (
        "data=fashion_mnist",
        f"data.root={fashion}",
        "budget=quick",
        "budget.epochs=1",
        "budget.train_images=6000",
    )
    done = command_line("+step=baseline", *words, "budget.test_images=1000", "budget.regularization=0")
    assert done.returncode == 0, done.stderr
    _, content = only_record(tmp_path / "experiments")
    assert content["top1"] > 40  # of ten classes, after 46 steps


def test_a_killed_run_is_recorded_and_ends_nothing_else(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["+step=baseline", *TINY, "budget.epochs=10000"]
    process = RunProcess(PlannedRun(compose(*words), words), "[1/1] baseline", threads=1)
    os.kill(process.process.pid, signal.SIGKILL)
    content = process.finish()
    assert content is not None
    assert content["status"] == "failed" and "killed by SIGKILL" in content["error"]
    assert read_record(process.folder) == content


def test_one_step_of_training_has_the_golden_loss(golden: Any) -> None:
    """If this fails after a change that was to change nothing, the change did: find out what. If the change was meant
    to alter training, say so in CHANGELOG.md, raise record.FORMAT and run pytest --regenerate-goldens."""
    found = {}
    for step in ("baseline", "training_recipe", "increase_width", "separate_downsampling", "grn"):
        spec = compose(f"+step={step}", *TINY, "budget.train_images=64", "budget.regularization=1", "precision=fp32")
        outcome = Metrics()
        trainer.train(spec, device.choose_device(Device.cpu, Precision.fp32), outcome)
        found[step] = outcome.curve[0]["train_loss"]
    expected = golden("losses", found)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_training_learns() -> None:
    spec = compose("+step=separate_downsampling", "budget.epochs=6", "budget.regularization=0", "save_weights=false")
    outcome = Metrics()
    trainer.train(spec, device.choose_device(Device.cpu, Precision.auto), outcome)
    assert outcome.evaluation is not None and outcome.evaluation.top1 > 80
    assert outcome.curve[-1]["train_loss"] < outcome.curve[0]["train_loss"]  # type: ignore[operator]


def test_chance_is_divergence_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("+step=baseline", *TINY, "recipe.lr=1e-9", "budget.epochs=2")  # it learns nothing
    assert run.run(compose(*words))["status"] == "completed"
    content = run.run(compose(*words, "budget.allow_chance=false"))
    assert content["status"] == "diverged" and content["top1"] < 25
    assert "always saying one class" in content["error"] and "(epoch 2, step 4)" in content["error"]
    study = analyze(
        "chance", Manifest("chance"), [content | {"correct": np.array([content["top1"]]), "setting": []}], 1
    )
    table = pd.read_csv(io.StringIO(study.table.to_csv()))
    assert table[["n_seeds", "n_diverged", "status"]].to_numpy().tolist() == [[0, 1, "diverged"]]


@pytest.mark.parametrize(("right", "diverged"), [(100, True), (110, True), (125, False), (900, False)])
def test_what_counts_as_chance(right: int, diverged: bool) -> None:
    """Of 1,000 images in ten even classes: 99 % of guessers have at most 122 right."""
    correct = np.arange(1000) < right
    found = Evaluation(right / 10, 50.0, 2.3, correct, 0.1, [])
    with pytest.raises(DivergedError) if diverged else nullcontext():
        check_above_chance(found)


def test_the_step_where_the_loss_stopped_to_be_a_number_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    content = run.run(compose("+step=baseline", *TINY, "precision=fp32", "recipe.lr=1e30", "budget.epochs=3"))
    assert content["status"] == "diverged"
    assert re.fullmatch(r"the loss is (nan|inf) at epoch \d+, step \d+", content["error"])


def test_unreadable_images_are_left_out_and_counted(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    root = make_image_folder(tmp_path / "images", {"a": 20, "b": 20})
    for split, number in (("train", 3), ("val", 7)):
        (root / split / "a" / f"{number}.png").write_bytes(b"no image")
    words: tuple[str, ...] = ("+step=gelu", *TINY, "data=folder", f"data.root={root}", "data.image_size=32")
    words += ("data.workers=0",)
    words += ("budget.train_images=null", "budget.test_images=null", "data.on_error=skip", "budget.epochs=2")
    content = run.run(compose(*words, "budget.batch_size=20"))
    assert content["status"] == "completed" and content["num_test"] == 39
    assert [len(content["unreadable"][split]) for split in ("train", "test")] == [1, 1]  # each told once
    assert content["unreadable"]["train"][0].startswith(str(root / "train" / "a" / "3.png"))
    assert "2 unreadable images left out" in summarize_record(content)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore::Warning")  # torch's own compiler warns of itself
def test_a_compiled_network_learns_the_same() -> None:
    curves = []
    for compiled in (False, True):
        spec = compose("+step=gelu", *TINY, "precision=fp32", "network.drop_path=0.3", f"compile={compiled}")
        outcome = Metrics()
        trainer.train(spec, device.choose_device(Device.cpu, Precision.fp32), outcome)
        curves.append(outcome.curve)
        assert (outcome.compile_seconds is not None) is compiled
    assert curves[0][0] == pytest.approx(curves[1][0], rel=1e-3)


def test_evaluation_counts_by_hand() -> None:
    """Four images, six classes: logits in, top-1, top-5 and loss out."""
    spec = compose("+step=baseline")
    logits = torch.tensor([[9.0, 0, 0, 0, 0, -9], [0, 9, 0, 0, 0, -9], [0, 0, 0, 0, 9, -9], [0, 0, 0, 9, 0, -9]])
    labels = torch.tensor([0, 1, 5, 0])

    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return logits[: len(x)]

    place = device.choose_device(Device.cpu, Precision.fp32)
    batches = [Batch(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), labels, torch.arange(4), torch.arange(4))]
    found = evaluate(Fixed(), batches, BatchAugment(spec, place.device), place, spec.data.on_error)
    assert found is not None
    assert found.correct.tolist() == [True, True, False, False]
    assert (found.top1, found.top5) == (50, 75)
    assert found.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-6)


@pytest.mark.parametrize(("epochs", "count", "seen"), [(10, 10, range(1, 11)), (10, 3, [4, 7, 10]), (2, 10, [1, 2])])
def test_the_last_epoch_is_always_evaluated(epochs: int, count: int, seen: Any) -> None:
    from roadmap.config.schedule import Schedule

    assert trainer.evaluated_epochs(Schedule(epochs, 1, 0.1, 0, 0), count) == set(seen)


def test_names_of_runs_follow_what_decides_the_result() -> None:
    def folder(*words: str) -> str:
        return str(run_folder(compose("+step=gelu", *words)))

    same = folder()
    for words in (["force=true"], ["reports=x"], ["device=cpu"], ["data.workers=3"], ["parallel=2"]):
        assert folder(*words) == same
    others = [
        folder(*words) for words in (["seed=1"], ["network.width=20"], ["budget.epochs=3"], ["recipe.lr=1"], ["out=x"])
    ]
    assert len({same, *others}) == 6


def test_two_folders_of_images_are_two_runs_and_so_are_two_files_of_weights(tmp_path: Path) -> None:
    roots = [make_image_folder(tmp_path / name, {"a": 1, "b": 1}) for name in ("one", "other")]
    folders = [run_folder(compose("data=folder", f"data.root={root}")) for root in roots]
    assert len(set(folders)) == 2
    path = tmp_path / "w.pt"
    names = set()
    for content in (b"before", b"after"):
        path.write_bytes(content)
        names.add(run_folder(compose(f"weights={path}")))
    assert len(names) == 2
    idx = [run_folder(compose("data=fashion_mnist", f"data.root={root}")) for root in roots]
    assert len(set(idx)) == 1  # the same images wherever they lie


def test_records_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: Any) -> None:
    write_record(tmp_path, {"format": FORMAT, "loss": float("nan")})
    assert read_record(tmp_path) == {"format": FORMAT, "loss": None}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_record(tmp_path, {"format": FORMAT, "loss": 1.0})
    assert read_record(tmp_path) == {"format": FORMAT, "loss": None}
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": -1}'])
def test_what_is_no_record_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    assert read_record(tmp_path) is None


def test_a_repeated_run_begins_anew_and_a_diverged_one_has_no_result(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    spec = compose("+step=gelu", *TINY, "keep_checkpoint=true")
    first = run.run(spec)
    folder = run_folder(spec)
    assert (folder / "checkpoint.pt").exists()
    second = run.run(dataclasses.replace(spec, force=True))
    assert second["train_seconds"] != first["train_seconds"] and second["curve"] == first["curve"]
    assert json.loads((folder / "record.before.json").read_text())["started_at"] == first["started_at"]

    real = evaluate

    def third_is_nan(*arguments: Any) -> Any:
        found = real(*arguments)
        calls.append(found)
        if len(calls) == 3:
            raise DivergedError("the test loss is nan")
        return found

    calls: list[Any] = []
    monkeypatch.setattr("roadmap.training.trainer.evaluate", third_is_nan)
    content = run.run(compose("+step=gelu", *TINY, "budget.epochs=4"))
    assert content["status"] == "diverged" and content["top1"] is None and len(content["curve"]) == 2
