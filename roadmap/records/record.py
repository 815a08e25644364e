"""A run's record: one JSON file with all that made the run and all that came of it. Needs neither torch nor Hydra.

experiments/runs/NAME-HASH-seedN/ holds record.json, correct.npy (per test image: was it right?) and model.pt. The hash
is of everything that decides the result, so the same command finds its record again, and studies share their runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from enum import Enum
from pathlib import Path
from typing import Any

from roadmap.config.datasets import EMBEDDED_OR_DOWNLOADED
from roadmap.config.schema import RunSpec
from roadmap.config.steps import label_of_transforms, name_of_transforms
from roadmap.runtime.files import write_atomically
from roadmap.runtime.system import cpu_name, git_state, package_versions

FORMAT = 3  # of the record, and of what a config means: raising it sets old records aside
COMPLETED, DIVERGED, FAILED = "completed", "diverged", "failed"
FINISHED = (COMPLETED, DIVERGED)  # running it again would give the same; a failed run is tried again
# Fields that do not decide the result: where things lie, what they are called, who computes, how carefully.
NOT_HASHED = (
    "seed", "study", "device", "parallel", "failures", "checkpoint_minutes", "checkpoint_steps", "keep_checkpoint",
    "save_weights", "force", "plan", "out", "reports", "base", "design", "reference",
)  # fmt: skip


def config_of(spec: RunSpec) -> dict[str, Any]:
    """The resolved config as plain values."""

    def plain(value: Any) -> Any:
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    config: dict[str, Any] = plain(dataclasses.asdict(spec))
    return config


def config_hash(spec: RunSpec) -> str:
    """Of what decides the result besides the seed."""
    config = config_of(spec)
    for name in NOT_HASHED:
        del config[name]
    if spec.data.name in EMBEDDED_OR_DOWNLOADED:  # the same images wherever they lie
        del config["data"]["root"]
    elif spec.data.root is not None:
        config["data"]["root"] = str(Path(spec.data.root).resolve())
    if spec.weights is not None and Path(spec.weights).is_file():
        config["weights"] = hashlib.sha256(Path(spec.weights).read_bytes()).hexdigest()
    for name in ("download", "workers", "quick_epochs", "quick_batch_size", "quick_lr_multiplier"):
        del config["data"][name]
    used = spec.recipe.optimizer.value
    config["budget"]["lr_multiplier"] = {used: getattr(spec.budget.lr_multiplier, used)}
    # Only what differs from the defaults: a new field leaves the hashes of runs that do not use it as they were.
    config = _non_default(config, config_of(RunSpec()))
    config["transforms"] = sorted(spec.transforms)
    text = json.dumps([FORMAT, config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _non_default(config: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """What of the config is not as usual, section by section."""
    found = {k: _non_default(v, usual[k]) if isinstance(v, dict) and usual.get(k) else v for k, v in config.items()}
    return {name: value for name, value in found.items() if value not in ({}, usual.get(name))}


RUNS_FOLDER = (
    "runs"  # the folder below `out` where all runs lie, whatever study asked for them; also the study without a name
)


def study_folder(spec: RunSpec) -> Path:
    return Path(spec.out) / spec.study


def run_name(spec: RunSpec) -> str:
    """NAME-HASH-seedN: which run it is, whatever its study."""
    return f"{name_of_transforms(list(spec.transforms))[:80]}-{config_hash(spec)}-seed{spec.seed}"


def run_folder(spec: RunSpec) -> Path:
    return Path(spec.out) / RUNS_FOLDER / run_name(spec)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder; None where there is none that can be read. Fields of the config that are newer
    than the record are at their defaults."""
    try:
        content = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    if isinstance(content.get("config"), dict):
        content["config"] = _with_defaults(content["config"], config_of(RunSpec()))
    return content


def _with_defaults(config: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """The config with what it lacks as usual, section by section."""
    sections = [k for k, v in usual.items() if isinstance(v, dict) and isinstance(config.get(k), dict)]
    return usual | config | {k: _with_defaults(config[k], usual[k]) for k in sections}


def finished_record(spec: RunSpec) -> dict[str, Any] | None:
    """The record of this very run, if it need not be run again."""
    record = read_record(run_folder(spec))
    return record if record is not None and record["status"] in FINISHED else None


def remove_leftovers(folder: Path) -> None:
    """Files that a process was writing when it was killed. Only who holds the folder may do this."""
    for name in ("record.json", "correct.npy", "model.pt", "checkpoint.pt"):
        for path in folder.glob(f".{name}.*"):
            path.unlink()


def keep_previous_record(folder: Path) -> None:
    """Keep a record that is about to be repeated, as record.before.json."""
    (folder / "record.json").replace(folder / "record.before.json")


def new_record(spec: RunSpec, command: str) -> dict[str, Any]:
    """The part of the record that is known before the run."""
    transforms = [{"name": name, **dataclasses.asdict(info)} for name, info in spec.transforms.items()]
    names = list(spec.transforms)
    return {
        "format": FORMAT,
        "name": name_of_transforms(names),
        "label": label_of_transforms(names),
        "study": spec.study,
        "seed": spec.seed,
        "base": spec.base.name,
        "data": spec.data.name,
        "transforms": transforms,
        "status": FAILED,
        "error": None,
        "config_hash": config_hash(spec),
        "config": config_of(spec),
        "command": command,
        "versions": package_versions(),
        "git": git_state(),
        "host": {"platform": platform.platform(), "cpu": cpu_name(), "cores": os.cpu_count()},
    }


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Atomically: whoever reads sees the old record or the new one, never half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    # NaN and infinity are not JSON; a diverged run's loss is null.
    text = json.dumps(_finite(record), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(folder / "record.json", text.encode() + b"\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
