"""A made-up folder of experiments: runs of every status, without training."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from roadmap.config.designs import Layout
from roadmap.config.schema import RunSpec
from roadmap.records.history import HISTORY_FIELDS
from roadmap.records.manifest import add_runs
from roadmap.records.record import run_folder
from tests.helpers import make_spec, write_run


def progress_of(**fields: Any) -> dict[str, Any]:
    """Return the content of a progress.json: two of four epochs are done."""
    content = {"epoch": 3, "epochs": 4, "iteration": 0, "iterations_per_epoch": 10, "train_loss": 0.75, "pid": 1}
    content |= {"images_per_second": 1234.0, "top1": 45.5, "seconds_left": 90.0, "updated": time.time(), "host": "else"}
    return content | fields


def write_progress(spec: RunSpec, **fields: Any) -> Path:
    """Write the files of a run that trains: progress.json, history.csv, checkpoint.pt and log.txt."""
    folder = run_folder(spec)
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps(progress_of(**fields)))
    (folder / "history.csv").write_text(f"{','.join(HISTORY_FIELDS)}\n1,0.1,2.0,,,5.0\n2,0.1,1.5,44.25,1.9,10.0\n")
    (folder / "checkpoint.pt").write_bytes(bytes(3000))
    (folder / "log.txt").write_text("first line\nlast line \x1b[31mred\n")
    return folder


def make_experiments(out: Path) -> dict[str, RunSpec]:
    """Write the study `mine` with a run of each status, and a run of no study (`orphaned`); return their specs."""
    study = "study=mine"
    runs = {
        "completed": write_run(out, 91.25, "+step=baseline", study, plan={"epochs": 4}),
        "diverged": write_run(out, None, "+step=gelu", study, status="diverged", error="the loss is nan"),
        "failed": write_run(out, None, "+step=grn", study, status="failed", error="MemoryError: too [red] large"),
        "running": make_spec(out, "+step=baseline", study, "seed=1"),
        "interrupted": make_spec(out, "+step=gelu", study, "seed=1"),
        "waiting": make_spec(out, "+step=grn", study, "seed=1"),
    }
    write_progress(runs["running"])
    write_progress(runs["interrupted"], updated=time.time() - 3600)
    add_runs([(spec, [study]) for spec in runs.values()], Layout())
    runs["orphaned"] = write_run(out, 80.0, "+step=baseline", "seed=7")
    return runs
