"""Helpers of several test packages: image folders, made-up records, torchrun, comparison of records."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from roadmap import cli
from roadmap.config.compose import compose
from roadmap.config.schema import RunSpec
from roadmap.records.record import new_record, run_folder, write_record
from roadmap.runtime.signals import STOP_SIGNALS
from roadmap.sweep.processes import process_context
from tests.conftest import ROOT


def make_image_folder(folder: Path, classes: dict[str, int], size: int = 40) -> Path:
    """An image folder: train/ and val/ with `classes[name]` images each."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, count in classes.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


class Result(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


def call_main(*arguments: str) -> Result:
    """Call the command line in this process, in the current working folder. Errors that are bugs are raised."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    argv, out, err = sys.argv, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setattr(sys, "argv", ["run_roadmap.py"])
        try:
            cli.main(list(arguments))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert sys.argv is argv
    return Result(code, out.getvalue(), err.getvalue())


@cache
def _composed(*overrides: str) -> RunSpec:
    return compose(*overrides)


def make_spec(folder: Path, *overrides: str) -> RunSpec:
    """Compose a run that writes to `folder`. Runs that differ only in the seed are composed once."""
    seeds = [override for override in overrides if re.fullmatch(r"seed=\d+", override)]
    spec = copy.deepcopy(_composed(*(override for override in overrides if override not in seeds)))
    spec.out = str(folder)
    for override in seeds:
        spec.seed = int(override.removeprefix("seed="))
    return spec


# The fields of a record that are known after the run.
RESULTS: dict[str, Any] = {
    "top1": 90.0, "top5": 99.0, "loss": 0.5, "params": 1000, "gmacs": 0.002, "images_per_second": 100.0,
    "wall_seconds": 3.0, "peak_memory_mib": 200.0, "curve": [], "unreadable": {},
    "device": {"name": "a processor", "precision": "fp32", "threads": 1},
}  # fmt: skip


def write_run(folder: Path, top1: float | None, *overrides: str, status: str = "completed", **fields: Any) -> RunSpec:
    """Write the record of a run with this result, and with `fields`; return its spec."""
    spec = make_spec(folder, *overrides)
    record = new_record(spec, "python run_roadmap.py " + " ".join(overrides))
    record |= RESULTS | {"status": status, "top1": top1} | fields
    write_record(run_folder(spec), record)
    if top1 is not None:
        np.save(run_folder(spec) / "correct.npy", np.arange(10_000) < round(100 * top1))
    return spec


def make_study(folder: Path) -> Path:
    """Write runs of four steps: completed, diverged and failed ones; return the folder of the study."""
    for seed, (a, b) in enumerate([(90.0, 91.0), (91.0, 93.0), (92.0, 95.0)]):
        write_run(folder, a, "+step=baseline", f"seed={seed}")
        write_run(folder, b, "+step=training_recipe", f"seed={seed}")
    write_run(folder, 94.0, "+step=stage_ratio", "seed=0", gmacs=0.003, params=2000)
    diverged = "the loss is nan at epoch 1, iteration 3"
    write_run(folder, None, "+step=stage_ratio", "seed=1", status="diverged", error=diverged)
    write_run(folder, None, "+step=patchify_stem", "seed=0", status="failed", error="MemoryError: too | large_")
    return folder / "runs"


THREE_STEPS = "baseline,increase_width,separate_downsampling"


def torchrun(*words: str, processes: int = 2, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    command += [str(ROOT / "run_roadmap.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def read_records(folder: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/*/record.json")]
    return {f"{content['name']}-{content['seed']}": content for content in found}


def assert_same_results(found: dict[str, Any], expected: dict[str, Any], rel: float = 1e-4) -> None:
    """The same runs with the same loss curves, but for the order of sums."""
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert found[name]["status"] == content["status"] == "completed"
        assert found[name]["config_hash"] == content["config_hash"]
        for row, other in zip(found[name]["curve"], content["curve"], strict=True):
            assert row == pytest.approx(other, rel=rel), name
        assert found[name]["num_test"] == content["num_test"]


def set_rank(rank: int, port: int, size: int = 2) -> None:
    """Set the environment variables that torchrun sets for one of `size` processes."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def run_processes(target: Callable[..., None], *arguments: Any, exit_codes: Sequence[int | None] = (0, 0)) -> None:
    """Run `target(rank, port, *arguments)` in a process for each of `exit_codes`: how it ends, or None for any way."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        process_context().Process(target=target, args=(rank, port, *arguments)) for rank in range(len(exit_codes))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    ended = [process.exitcode for process in processes]
    assert None not in ended, "a process did not end within a minute"
    assert [code if expected is not None else None for code, expected in zip(ended, exit_codes, strict=True)] == [
        *exit_codes
    ]
