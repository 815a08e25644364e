"""Whatever kills a run or a study, the same command goes on, and ends where it would have ended.

Real processes, real signals, real files: `pytest -m faults`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from roadmap.config.compose import compose
from roadmap.config.schema import RunSpec
from roadmap.config.steps import ordered_steps
from roadmap.records.record import read_record, run_folder, run_name
from roadmap.runtime import lock
from roadmap.runtime.signals import EXIT_STOPPED
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import RunProcess
from roadmap.training import checkpoint
from tests.conftest import FAULTS, TINY, background, until
from tests.helpers import make_image_folder

pytestmark = [pytest.mark.faults, pytest.mark.slow]

# Everything that draws is on; eight steps an epoch; a checkpoint whenever one is asked for.
LOADED = (
    *TINY, "budget.epochs=3", "budget.train_images=256", "budget.batch_size=32", "budget.regularization=1",
    "network.drop_path=0.3", "keep_checkpoint=true",
)  # fmt: skip
CLOCKS = {
    "started_at", "wall_seconds", "train_seconds", "earlier_seconds", "images_per_second", "peak_memory_mib",
    "compile_seconds", "git", "config", "command",
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for child in multiprocessing.active_children():
        child.kill()


def start(spec: RunSpec) -> RunProcess:
    return RunProcess(PlannedRun(spec, []), "run", threads=1)


def result(spec: RunSpec) -> dict[str, Any]:
    """All that a run left, but for what a clock said."""
    where = run_folder(spec)
    content = {key: value for key, value in (read_record(where) or {}).items() if key not in CLOCKS}
    state = checkpoint.read(where / checkpoint.NAME, run_name(spec))
    state["outcome"] = {key: value for key, value in state["outcome"].items() if key not in CLOCKS}
    weights = torch.load(where / "model.pt", weights_only=True)
    return {"record": content, "state": state, "weights": weights, "correct": np.load(where / "correct.npy")}


def assert_resumed(broken: RunSpec, whole: RunSpec) -> None:
    assert_same(result(broken), result(whole))
    FAULTS["bit-identical resumes"] += 1


def assert_same(found: Any, expected: Any, path: str = "") -> None:
    """Equal to the bit, all the way down."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key, value in expected.items():
            assert_same(found[key], value, f"{path}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), path
        for i, value in enumerate(expected):
            assert_same(found[i], value, f"{path}[{i}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), path
    elif isinstance(expected, np.ndarray):
        assert np.array_equal(found, expected), path
    else:
        assert found == expected, path


def written(path: Path) -> int | None:
    """When, in nanoseconds; None where there is none, or no longer."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def killed_until_done(spec: RunSpec, moments: random.Random, sign: signal.Signals = signal.SIGKILL) -> int:
    """Start the run again and again, and hit it at some moment after it wrote a checkpoint; how often it died."""
    path, hits = run_folder(spec) / checkpoint.NAME, 0
    while True:
        before = written(path)
        process = start(spec)
        while process.process.is_alive():
            if written(path) not in (None, before):
                time.sleep(moments.uniform(0, 0.15))
                with contextlib.suppress(ProcessLookupError):  # it was done already
                    os.kill(process.process.pid, sign)
                break
            time.sleep(0.001)
        process.process.join()
        if process.process.exitcode == 0:
            return hits
        assert process.process.exitcode in (-sign, EXIT_STOPPED)
        hits += 1
        FAULTS["kills survived"] += 1


@pytest.mark.parametrize("step", [step.name for step in ordered_steps()])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(step: str) -> None:
    whole = compose(f"+step={step}", *LOADED, "out=whole")
    content = start(whole).finish()
    assert content is not None and content["status"] == "completed", content
    broken = compose(f"+step={step}", *LOADED, "checkpoint_steps=1", "out=broken")
    hits = killed_until_done(broken, random.Random(step))
    assert hits >= 2
    assert_resumed(broken, whole)


def test_a_run_with_loader_workers_is_killed_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", {"a": 40, "b": 40})
    words: tuple[str, ...] = (
        "+step=separate_downsampling",
        *LOADED,
        "data=folder",
        f"data.root={root}",
        "data.image_size=32",
    )
    words += ("budget.train_images=null", "budget.test_images=null", "data.workers=2", "budget.batch_size=16")
    whole, broken = compose(*words, "out=whole"), compose(*words, "out=broken", "checkpoint_steps=1")
    start(whole).finish()
    assert killed_until_done(broken, random.Random(0)) >= 2
    assert_resumed(broken, whole)


def test_a_kill_inside_of_a_checkpoints_write() -> None:
    """A wide network: its checkpoint takes long enough to be hit while it is written."""
    words = ("+step=separate_downsampling", *LOADED, "base.swin_width=64", "base.wide_width=96", "budget.epochs=2")
    whole, broken = compose(*words, "out=whole"), compose(*words, "out=broken", "checkpoint_steps=1")
    start(whole).finish()
    where, hits = run_folder(broken), 0
    while True:
        process, half = start(broken), None
        wait_for_file = random.Random(hits).uniform(0, 1.5)
        began = time.monotonic()
        while process.process.is_alive():
            half = next(where.glob(".checkpoint.pt.*"), None)
            if half is not None and time.monotonic() - began > wait_for_file and hits < 5:
                os.kill(process.process.pid, signal.SIGKILL)
                break
        process.process.join()
        if process.process.exitcode == 0:
            break
        hits += next(where.glob(".checkpoint.pt.*"), None) is not None  # it was half written indeed
    assert hits >= 3
    assert_resumed(broken, whole)
    FAULTS["kills survived"] += hits
    assert not list(where.glob(".checkpoint.pt.*"))


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_writes_a_checkpoint(sign: signal.Signals) -> None:
    """No checkpoint is due by itself; the signal's is the only one. Before the training there is nothing to keep."""
    words = ("+step=gelu", *LOADED, "budget.epochs=12")
    whole, broken = compose(*words, "out=whole"), compose(*words, "out=broken")
    start(whole).finish()
    folder = run_folder(broken)
    log, saved = folder / "log.txt", folder / checkpoint.NAME
    for seconds in (0.0, 0.8, 1.2, 2.0, 4.0, 8.0):  # a busy machine takes its time to begin
        log.unlink(missing_ok=True)
        process = start(broken)
        until(lambda: log.exists() and " on cpu " in log.read_text())
        time.sleep(seconds)
        os.kill(process.process.pid, sign)
        content = process.finish()
        assert process.process.exitcode == EXIT_STOPPED
        assert (
            content is not None
            and content["status"] == "failed"
            and "goes on, from its checkpoint if any" in content["error"]
        )
        assert f"stopped by {sign.name}" in log.read_text()
        if saved.exists():
            break
    assert f"stopped by {sign.name} at epoch" in log.read_text()
    state = checkpoint.read(saved, run_name(broken))
    assert state["epoch"] + state["step"] > 0
    done = start(broken).finish()
    assert done is not None and done["status"] == "completed"
    assert_resumed(broken, whole)
    FAULTS["signals answered"] += 1


def checkpoints() -> dict[Path, int | None]:
    return {path: written(path) for path in Path().glob("experiments/runs/*/checkpoint.pt")}


def test_signals_at_the_command_line() -> None:
    """One run stopped twice and finished, by the same command; a study stopped and finished."""
    words = ("+step=gelu", *TINY, "budget.epochs=400", "checkpoint_steps=20")
    for sign in (signal.SIGTERM, signal.SIGINT):
        before = checkpoints()
        process = background(*words)
        until(lambda known=before: checkpoints() != known)
        process.send_signal(sign)
        _, err = process.communicate(timeout=60)
        assert process.returncode == EXIT_STOPPED, err
        assert f"stopped by {sign.name} at epoch" in err
        FAULTS["signals answered"] += 1
        assert not list(Path().glob("experiments/runs/*/record.json"))
    out, err = background(*words).communicate(timeout=120)
    assert "goes on from its checkpoint at epoch" in out and "record:" in out, err


def test_a_study_that_is_stopped_or_killed_goes_on(tmp_path: Path) -> None:
    """SIGTERM, then SIGKILL to the parent alone: its runs write checkpoints and end; nothing finished is repeated."""
    words = ("-m", "+step=baseline,gelu,layer_norm", "seed=0,1", *TINY, "budget.epochs=60", "checkpoint_steps=50")
    folder = tmp_path / "experiments" / "runs"
    finished: dict[Path, int] = {}
    for sign in (signal.SIGTERM, signal.SIGKILL):
        process = background(*words)
        until(lambda known=finished: len(list(folder.glob("*/record.json"))) > len(known))
        time.sleep(0.5)
        process.send_signal(sign)
        _, err = process.communicate(timeout=60)
        if sign is signal.SIGTERM:
            assert process.returncode == EXIT_STOPPED and "of 6 runs done; the same command goes on" in err
        until(lambda: not any(lock.is_held(run) for run in folder.iterdir()))  # orphans have ended
        for path, when in finished.items():
            assert path.stat().st_mtime_ns == when
        finished = {path: path.stat().st_mtime_ns for path in folder.glob("*/record.json")}
        assert all(json.loads(path.read_text())["status"] == "completed" for path in finished)
        assert len(finished) < 6
    done = background(*words)
    out, err = done.communicate(timeout=200)
    assert done.returncode == 0, err
    assert f"{len(finished)} of them finished before" in out and "goes on from its checkpoint" in out
    assert len(list(folder.glob("*/record.json"))) == 6
    for path, when in finished.items():
        assert path.stat().st_mtime_ns == when


def test_two_studies_in_one_folder_train_nothing_twice(tmp_path: Path) -> None:
    """Two commands, four processes each, the same 14 runs."""
    words: tuple[str, ...] = (
        "-m",
        "+step=baseline,training_recipe,stage_ratio,patchify_stem,depthwise_conv,gelu,layer_norm",
    )
    words += ("seed=0,1", *TINY, "budget.epochs=20", "parallel=4")
    both = [background(*words), background(*words)]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    runs = list((tmp_path / "experiments" / "runs").glob("*-seed*"))
    assert len(runs) == 14
    for run in runs:
        assert json.loads((run / "record.json").read_text())["status"] == "completed"
        assert (run / "log.txt").read_text().count(" on cpu ") == 1, run.name  # one training
    table = pd.read_csv(tmp_path / "reports" / "runs" / "roadmap.csv")
    assert table["n_seeds"].tolist() == [2] * 7
    FAULTS["writers in one folder"] += 8


SABOTAGE = """
import os, signal, sys
import PIL.Image

whole = PIL.Image.open

def sabotaged(file, *rest, **more):
    path = str(getattr(file, "name", file))
    if "exits" in path:
        sys.exit(3)
    if "killed" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    if "crashes" in path:
        import ctypes
        ctypes.string_at(0)
    if "memory" in path:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (1 << 33, -1))
        bytearray(1 << 34)
    if "raises" in path:
        raise RuntimeError("a fault in a dataset")
    return whole(file, *rest, **more)

PIL.Image.open = sabotaged
"""
REASONS = {
    "exits": "exited with code 3",
    "killed": "killed by SIGKILL",
    "crashes": "killed by SIGSEGV",
    "memory": "MemoryError",
    "raises": "RuntimeError: a fault in a dataset",
}
IMAGES = ("data=folder", "data.image_size=32", "data.workers=0", "budget.train_images=null", "budget.test_images=null")


def test_a_study_survives_its_parts(tmp_path: Path) -> None:
    """Runs that raise, exit, crash, are killed or run out of memory, each with its reason; and one that is well."""
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE)
    roots = [make_image_folder(tmp_path / name, {"a": 20, "b": 20}) for name in (*REASONS, "intact")]
    words = ["-m", "+step=baseline", *TINY, *IMAGES, "data.root=" + ",".join(map(str, roots)), "parallel=2"]
    process = background(*words, PYTHONPATH=str(tmp_path))
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "5 of 6 runs did not complete" in err
    found = {}
    for path in tmp_path.glob("experiments/runs/*/record.json"):
        content = json.loads(path.read_text())
        found[Path(content["config"]["data"]["root"]).name] = (content, (path.parent / "log.txt").read_text())
    assert found.keys() == {*REASONS, "intact"}
    for name, reason in REASONS.items():
        content, log = found[name]
        assert content["status"] == "failed" and reason in content["error"], name
        assert " on cpu " in log
    assert "Segmentation fault" in found["crashes"][1]
    assert "Traceback" in found["raises"][1] and "Traceback" in found["memory"][1]
    assert found["intact"][0]["status"] == "completed"


def test_failures_stop(tmp_path: Path) -> None:
    words = ("-m", "+step=baseline", "seed=0,1,2,3", *TINY, "precision=fp32", "recipe.lr=1e30", "parallel=1")
    process = background(*words, "failures=stop")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1 and "failures=stop" in out
    assert len(list(tmp_path.glob("experiments/runs/*/record.json"))) == 1
    assert "left no record" in err


DAMAGES: dict[str, Any] = {
    "truncated": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "bit-flipped": lambda raw: raw[:5000] + bytes([raw[5000] ^ 1]) + raw[5001:],
    "foreign": lambda raw: b"GIF89a" + raw,
    "torch's own": lambda raw: raw[len(checkpoint.MAGIC) + 32 :],
    "malicious": lambda raw: _signed(pickle.dumps(Malice())),
    "another run's": lambda raw: _signed(_torch_bytes({"run": "gelu-000000000000-seed0", "state": {}})),
}


class Malice:
    def __reduce__(self) -> Any:
        return os.system, ("touch burgled",)


def _signed(content: bytes) -> bytes:
    return checkpoint.MAGIC + hashlib.sha256(content).digest() + content


def _torch_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSpec]:
    """A whole run and, in another folder, one that was killed after it had left two checkpoints."""
    folder = tmp_path_factory.mktemp("halfway")
    words = ("+step=gelu", *LOADED)
    whole = compose(*words, f"out={folder}/whole")
    start(whole).finish()
    broken = compose(*words, f"out={folder}/broken", "checkpoint_steps=1")
    where = run_folder(broken)
    process = start(broken)
    until(lambda: (where / checkpoint.PREVIOUS).exists() and (where / checkpoint.NAME).exists())
    process.process.kill()
    process.process.join()
    return folder / "broken", whole


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("both", [False, True], ids=["newest", "both"])
def test_bad_checkpoints_are_named_and_the_previous_one_serves(
    halfway: tuple[Path, RunSpec], tmp_path: Path, damage: str, both: bool
) -> None:
    broken, spec = halfway
    shutil.copytree(broken, tmp_path / "copy")
    copied = dataclasses.replace(spec, out=str(tmp_path / "copy"))
    where = run_folder(copied)
    for name in (checkpoint.NAME, checkpoint.PREVIOUS)[: 1 + both]:
        (where / name).write_bytes(DAMAGES[damage]((where / name).read_bytes()))
        with pytest.raises(checkpoint.CheckpointError, match=name):
            checkpoint.read(where / name, run_name(copied))
    before = (where / "log.txt").read_text()
    start(copied).finish()
    log = (where / "log.txt").read_text().removeprefix(before)
    assert log.count("checkpoint not used:") == 1 + both and (where / checkpoint.BAD).exists()
    assert ("goes on from its checkpoint" in log) is not both
    assert not (where / "burgled").exists() and not Path("burgled").exists()
    assert_resumed(copied, spec)
    FAULTS["corrupt files found"] += 1 + both


def test_a_full_disk_leaves_the_old_checkpoint_and_is_told(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system of its own can only be mounted as root on Linux")
    try:
        words = ("+step=gelu", *TINY, "budget.epochs=400", "checkpoint_steps=10", f"out={small}")
        spec = compose(*words)
        path = run_folder(spec) / checkpoint.NAME
        process = start(spec)
        until(path.exists)
        while True:
            try:
                with (small / "ballast").open("ab") as file:
                    file.write(bytes(4096))
            except OSError:
                break
        before = path.stat().st_mtime_ns
        time.sleep(1)
        assert path.stat().st_mtime_ns == before
        assert process.process.is_alive()  # the run goes on
        checkpoint.read(path, run_name(spec))  # whole
        (small / "ballast").unlink()
        until(lambda: path.stat().st_mtime_ns != before)  # and with room again, writes again
        process.stop()
        log = (run_folder(spec) / "log.txt").read_text()
        assert "no checkpoint at epoch" in log and "No space left on device; the one before stays" in log
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_signal_to_a_run_and_its_loader_workers(tmp_path: Path) -> None:
    """As a cluster sends it: to all processes of a job at once. The workers stay until the checkpoint is written."""
    root = make_image_folder(tmp_path / "images", {"a": 40, "b": 40})
    words: tuple[str, ...] = ("+step=gelu", *LOADED, "budget.epochs=200", "data=folder", f"data.root={root}")
    words += ("data.image_size=32",)
    words += ("budget.train_images=null", "budget.test_images=null", "data.workers=2", "budget.batch_size=16")
    spec = compose(*words, "checkpoint_steps=4")
    path = run_folder(spec) / checkpoint.NAME
    for _ in range(3):
        before = written(path)
        process = start(spec)
        until(lambda known=before: written(path) not in (None, known))
        children = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children").read_text().split()
        assert len(children) >= 2
        for pid in (*map(int, children), process.process.pid):
            os.kill(pid, signal.SIGTERM)
        process.finish()
        assert process.process.exitcode == EXIT_STOPPED
        FAULTS["signals answered"] += 1
        until(lambda pids=children: not any(Path(f"/proc/{pid}").exists() for pid in pids), 15)
    assert "exited unexpectedly" not in (path.parent / "log.txt").read_text()
