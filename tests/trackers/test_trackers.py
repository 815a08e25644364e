"""Trackers: they hold what the records hold, once, and have no effect on the runs."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.choices import TRACKERS
from roadmap.config.compose import compose
from roadmap.config.schema import SpecError
from roadmap.config.trackers import check_trackers
from roadmap.records.history import read_iterations
from roadmap.records.record import config_hash
from roadmap.runtime import lock
from roadmap.sweep import tracking
from roadmap.trackers.follow import Follower
from roadmap.trackers.points import RESULTS, Run, flatten
from tests.conftest import ROOT, TINY, background, until
from tests.helpers import call_main, write_run
from tests.trackers.read_back import READERS, Stored

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning:sqlite3")
OPTIONS = (*TINY, "study=mine", "budget.epochs=3", "log_every=3")
PUBLISHED = ROOT / "reports" / "fashion_mnist"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)


def assert_holds_the_run(stored: Stored, folder: Path, tracker: str) -> None:
    """Assert that a tracker holds every point of the run's files, once, and the results in its record."""
    record = json.loads((folder / "record.json").read_text("utf-8"))
    rel = 1e-6 if tracker == "tensorboard" else 0  # TensorBoard stores float32
    iterations = read_iterations(folder)
    for name, key in (("train/loss", "loss"), ("train/lr", "lr")):
        expected = [(int(row["iteration"]), pytest.approx(float(row[key]), rel=rel)) for row in iterations]
        assert stored.series[name] == expected, (tracker, name)
    last_of_epoch = {int(row["epoch"]): int(row["iteration"]) for row in iterations}
    for name, key in (("epoch/train_loss", "train_loss"), ("epoch/test_top1", "test_top1")):
        points = [(last_of_epoch[row["epoch"]], row[key]) for row in record["curve"] if key in row]
        assert stored.series[name] == [(i, pytest.approx(value, rel=rel)) for i, value in points], (tracker, name)
    for name, path in RESULTS.items():
        if path in record and record[path] is not None:
            assert [value for _, value in stored.series[name]] == [pytest.approx(record[path], rel=rel)], (
                tracker,
                name,
            )
    assert stored.groups.items() <= {"study": "mine", "step": record["name"], "seed": record["seed"]}.items()
    assert stored.status in (record["status"], None)
    config = stored.config if "recipe.lr" in stored.config else flatten(stored.config)
    for path, value in flatten(record["config"]).items():
        assert config[path] == (str(value) if tracker == "mlflow" else value), (tracker, path)


def test_every_tracker_holds_what_the_records_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "LEAST_WAIT_SECONDS", 200.0)  # whatever else this machine does
    done = call_main("-m", "+step=baseline,gelu", "seed=0,1", *OPTIONS, f"logger=[{','.join(TRACKERS)}]")
    assert done.code == 0 and "logger=" not in done.out, done
    folders = {path.parent.name: path.parent for path in Path("experiments/runs").glob("*/record.json")}
    assert len(folders) == 4
    for tracker, read in READERS.items():
        stored = read(Path("experiments/trackers"))
        assert stored.keys() == folders.keys(), tracker
        for name, folder in folders.items():
            assert_holds_the_run(stored[name], folder, tracker)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_resumed_run_has_each_iteration_once(
    sign: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At their low priority, the trackers would get no time beside other tests.
    (tmp_path / "sitecustomize.py").write_text("import os\nos.nice = lambda _: 0\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    overrides = ("+step=gelu", "budget.epochs=30", "budget.evaluations=3", "study=mine", "log_every=11")
    overrides += ("checkpoint_steps=10",)
    options = (*overrides, f"logger=[{','.join(TRACKERS)}]")
    process = background(*options)
    runs = Path("experiments/runs")
    until(lambda: any(len(read_iterations(path.parent)) > 3 for path in runs.glob("*/checkpoint.pt")))
    process.send_signal(signal.SIGSTOP)  # the run must not end before the trackers, which have low priority, have begun
    until(lambda: list(Path("experiments/trackers/mine").glob("*/*/events.*")), seconds=300)
    process.send_signal(sign)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=100)
    monkeypatch.setattr(tracking, "LEAST_WAIT_SECONDS", 200.0)  # whatever else this machine does
    done = call_main(*options)
    assert done.code == 0 and "resuming from checkpoint" in done.out and "logger=" not in done.out, done
    (folder,) = [path.parent for path in Path("experiments/runs").glob("*/record.json")]
    iterations = [int(row["iteration"]) for row in read_iterations(folder)]
    assert iterations == sorted(set(iterations)) and iterations[-1] == 30 * 22
    for tracker, read in READERS.items():
        stored = read(Path("experiments/trackers"))
        assert_holds_the_run(stored[folder.name], folder, tracker)
    whole = background(*overrides, "out=whole")
    whole.communicate(timeout=200)
    assert whole.returncode == 0
    (other,) = Path("whole/runs").iterdir()
    names = ("iteration", "epoch", "lr", "loss", "epoch_loss")
    for row, expected in zip(read_iterations(folder), read_iterations(other), strict=True):
        assert {name: row[name] for name in names} == {name: expected[name] for name in names}


FAILING = "raise RuntimeError('the server is gone')\n"
SLOW = "import time\ntime.sleep(1000)\n"


@pytest.mark.parametrize(("content", "reason"), [
    (FAILING, "logger=mlflow: failed (RuntimeError: the server is gone); "),
    (SLOW, "logger=mlflow: not finished after 2 s; "),
])  # fmt: skip
def test_a_tracker_that_fails_or_blocks_has_no_effect_on_the_runs(
    content: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake" / "mlflow").mkdir(parents=True)
    (tmp_path / "fake" / "mlflow" / "__init__.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}:{ROOT}")
    monkeypatch.setattr(tracking, "LEAST_WAIT_SECONDS", 2.0)
    done = call_main("+step=gelu", *OPTIONS, "logger=[mlflow]")
    assert done.code == 0 and reason in done.out, done
    assert "write what is missing with: roadmap log_records experiments/mine logger=mlflow\n" in done.out
    without = call_main("+step=gelu", *OPTIONS, "out=without")
    assert without.code == 0
    records = [json.loads(next(Path(out).glob("runs/*/record.json")).read_text()) for out in ("experiments", "without")]
    assert records[0]["curve"] == records[1]["curve"] and records[0]["config_hash"] == records[1]["config_hash"]


def test_a_run_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    """After a kill, the process of the killed command may still be writing the run."""
    assert call_main("+step=gelu", *OPTIONS).code == 0
    (folder,) = Path("experiments/runs").glob("*-seed0")
    run = Run(str(folder), folder.name, "mine", "gelu", "", 0, "", {}, "")
    follower = Follower("tensorboard", tmp_path / "out", [(run, {})])
    follower.ended.set()
    with lock.hold(tmp_path / "out" / "locks" / f"tensorboard-{folder.name}"):
        thread = follower.start()
        thread.join(3)
        assert thread.is_alive() and not list((tmp_path / "out").glob("mine/*/*/events.*"))
    thread.join(60)
    assert follower.error is None and list((tmp_path / "out").glob("mine/*/*/events.*"))
    assert not (tmp_path / "out" / "locks").exists()


def test_finished_records_can_be_written_later(tmp_path: Path) -> None:
    assert call_main("-m", "+step=baseline,gelu", *OPTIONS).code == 0
    assert not Path("experiments/trackers").exists()
    for _ in range(2):  # the second time replaces what the first has written
        done = call_main("log_records", "experiments/mine", "logger=tensorboard,mlflow")
        assert done.code == 0 and done.out.endswith(
            "logger=tensorboard: 2 runs written\nlogger=mlflow: 2 runs written\n"
        )
    for tracker in ("tensorboard", "mlflow"):
        stored = READERS[tracker](Path("experiments/trackers"))
        for path in Path("experiments/runs").glob("*/record.json"):
            assert_holds_the_run(stored[path.parent.name], path.parent, tracker)


def test_records_without_iterations_have_a_point_for_each_epoch(tmp_path: Path) -> None:
    done = call_main(
        "log_records", str(PUBLISHED / "learning_rates"), "logger=tensorboard", "--to", str(tmp_path / "t")
    )
    assert done.code == 0, done
    stored = READERS["tensorboard"](tmp_path / "t")
    study = json.loads((PUBLISHED / "learning_rates" / "study.json").read_text("utf-8"))
    assert stored.keys() == study["runs"].keys()
    for run, content in stored.items():
        record = json.loads((PUBLISHED / "runs" / run / "record.json").read_text("utf-8"))
        expected = [(row["epoch"], pytest.approx(row["train_loss"], rel=1e-6)) for row in record["curve"]]
        assert content.series["epoch/train_loss"] == expected


def test_failed_and_diverged_runs_have_their_status(tmp_path: Path) -> None:
    write_run(Path("experiments"), None, "+step=gelu", status="diverged", error="the loss is nan")
    write_run(Path("experiments"), 90.0, "+step=grn")
    assert call_main("log_records", "experiments/runs", "logger=mlflow").code == 0
    assert {run.groups["step"]: run.status for run in READERS["mlflow"](Path("experiments/trackers")).values()} == {
        "gelu": "diverged", "grn": "completed",
    }  # fmt: skip


def test_trackers_are_not_part_of_the_hash() -> None:
    specs = [
        compose("+step=gelu", *more) for more in ((), ("logger=mlflow", "log_every=7"), ("logger=[wandb,mlflow]",))
    ]
    assert len({config_hash(spec) for spec in specs}) == 1
    assert [spec.logger for spec in specs] == [None, ["mlflow"], ["wandb", "mlflow"]]


def test_bad_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: tuple[tuple[Any, str], ...] = (
        ("tensorbord", "logger=tensorbord: unknown; did you mean tensorboard?"),
        (3, "logger=3: must be a tracker or a list of them; use one of tensorboard, "),
        (["mlflow", "x"], "logger=x: unknown; use one of tensorboard, trackio, mlflow, wandb"),
    )
    for value, message in refused:
        with pytest.raises(SpecError, match=message):
            check_trackers(value)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SpecError, match=r"logger=wandb: is not installed; pip install 'roadmap\[wandb\]'"):
        check_trackers("wandb")
    monkeypatch.undo()
    for arguments, message in (
        (("+step=gelu", "logger=tensorboard,mlflow", "-m"), "give several trackers as logger=[tensorboard,mlflow]"),
        (("+step=gelu", "log_every=0"), "log_every=0: must be a positive number of iterations"),
        (("log_records", str(PUBLISHED / "roadmap"), "mlflow"), "mlflow: must be logger=NAME, as logger=tensorboard"),
        (("log_records", "absent", "logger=mlflow"), "absent: no such folder"),
    ):
        result = call_main(*arguments)
        assert result.code == 2 and message in result.err and result.err.count("\n") == 1, result
