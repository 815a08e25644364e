"""The record of a run: one JSON file with everything that determined the run, and its results.

experiments/runs/NAME-HASH-seedN/ contains record.json, correct.npy (for each test image, whether it was classified
correctly), model.pt and, if there is a moving average of the weights, model_ema.pt. The hash covers everything that
determines the result, so that the same command finds the record again, and studies share their runs. Imports neither
torch nor Hydra.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
from enum import Enum
from pathlib import Path
from typing import Any

from roadmap.config.datasets import root_decides_result
from roadmap.config.schema import RunSpec
from roadmap.records.check import check_record
from roadmap.records.history import HISTORY_NAME, ITERATIONS_NAME, PROGRESS_NAME, remove_progress
from roadmap.runtime.files import write_atomically
from roadmap.runtime.system import cpu_name, git_state, package_versions

FORMAT = 4  # of the record and of the meaning of a config: part of the hash of a run
READABLE_FORMATS = (3, FORMAT)  # of records that can be read; format 3: the training of version 0.2.0
COMPLETED, DIVERGED, FAILED = "completed", "diverged", "failed"
FINISHED = (COMPLETED, DIVERGED)  # another attempt would give the same result; a failed run is retried
CHECKPOINT_NAME = "checkpoint.pt"
EPOCH = re.compile(r'\{\s+"epoch": (?:"\w+": |[^{}"])*\}')  # an entry of `curve` in the text of a record
RUNS_FOLDER = "runs"  # folder in `out` with the runs of all studies; also the study of commands that name none
# Fields that do not determine the result: paths, names, the device, checkpoints, how a sweep runs.
NOT_HASHED = (
    "seed", "study", "device", "processes", "parallel", "failures", "checkpoint_minutes", "checkpoint_steps",
    "keep_checkpoint", "save_weights", "accumulate", "force", "plan", "plan_device", "out", "reports", "base", "design",
    "reference", "roadmap", "logger", "log_every", "tune", "search",
    "tuned",
)  # fmt: skip

DATA_NOT_HASHED = ("download", "workers", "quick_epochs", "quick_batch_size")  # likewise, fields of `data`


def config_of(spec: RunSpec) -> dict[str, Any]:
    """Return the resolved config as plain values, without the name and the label that follow from it."""

    def to_plain(value: Any) -> Any:
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, dict):
            return {key: to_plain(item) for key, item in value.items()}
        return [to_plain(item) for item in value] if isinstance(value, list) else value

    config: dict[str, Any] = to_plain(dataclasses.asdict(spec))
    return {key: value for key, value in config.items() if key not in ("name", "label")}


def config_hash(spec: RunSpec) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of everything that determines the result, except the seed.

    Fields with their default value are left out: a new field does not change the hashes of runs that do not use it.
    """
    config = config_of(spec)
    for name in NOT_HASHED:
        del config[name]
    if not root_decides_result(spec.data.name):
        del config["data"]["root"]
    elif spec.data.root is not None:
        config["data"]["root"] = str(Path(spec.data.root).resolve())
    if spec.weights is not None and Path(spec.weights).is_file():
        config["weights"] = hashlib.sha256(Path(spec.weights).read_bytes()).hexdigest()
    for name in DATA_NOT_HASHED:
        del config["data"][name]
    optimizer = spec.recipe.optimizer.value
    config["budget"]["lr_multiplier"] = {optimizer: getattr(spec.budget.lr_multiplier, optimizer)}
    config = _non_default(config, config_of(RunSpec()))
    config["transforms"] = sorted(spec.transforms)
    text = json.dumps([FORMAT, config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _non_default(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of the config that differ from the defaults, section by section."""
    values = {
        key: _non_default(value, defaults[key]) if isinstance(value, dict) and defaults.get(key) else value
        for key, value in config.items()
    }
    return {key: value for key, value in values.items() if value not in ({}, defaults.get(key))}


def study_folder(spec: RunSpec) -> Path:
    """Return the folder of the spec's study, with study.json."""
    return Path(spec.out) / spec.study


def run_name(spec: RunSpec) -> str:
    """Return NAME-HASH-seedN, which identifies the run in all studies."""
    return f"{spec.name[:80]}-{config_hash(spec)}-seed{spec.seed}"


def run_folder(spec: RunSpec) -> Path:
    """Return the folder of the run, with its record, weights, log and checkpoints."""
    return Path(spec.out) / RUNS_FOLDER / run_name(spec)


class InvalidRecordError(Exception):
    """Error of a record.json that no reader can use. The message says why."""


def load_record(folder: Path) -> dict[str, Any] | None:
    """Return the record in a run's folder, or None if there is none. Raises InvalidRecordError if it is damaged.

    Fields of the config that are newer than the record have their defaults. A field that no longer exists is left out.
    """
    path = folder / "record.json"
    try:
        if not path.is_file():  # reading a pipe would block
            return None
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRecordError(error.strerror or str(error)) from error
    except ValueError as error:
        raise InvalidRecordError("is not a text") from error
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRecordError("is not valid JSON") from error
    if not isinstance(record, dict) or record.get("format") not in READABLE_FORMATS:
        kind = f"format {record['format']!r:.20}" if isinstance(record, dict) and "format" in record else "no format"
        formats = " and ".join(map(str, READABLE_FORMATS))
        raise InvalidRecordError(f"has {kind}; this version reads the formats {formats}")
    if isinstance(record.get("config"), dict):
        if isinstance(record["config"].get("data"), dict):
            record["config"]["data"].pop("quick_lr_multiplier", None)  # format 3; budget.lr_multiplier has its value
        record["config"] = _with_defaults(record["config"], config_of(RunSpec()))
    if (problem := check_record(record)) is not None:
        raise InvalidRecordError(problem)
    return record


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record in a run's folder, or None if there is none that can be used."""
    try:
        return load_record(folder)
    except InvalidRecordError:
        return None


def _with_defaults(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the config with the default for each missing entry, section by section."""
    sections = [key for key, value in defaults.items() if isinstance(value, dict) and isinstance(config.get(key), dict)]
    return defaults | config | {key: _with_defaults(config[key], defaults[key]) for key in sections}


def finished_record(spec: RunSpec) -> dict[str, Any] | None:
    """Return the record of this run if it completed or diverged, else None."""
    record = read_record(run_folder(spec))
    return record if record is not None and record.get("status") in FINISHED else None


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of a killed process. The caller must hold the folder's lock."""
    for name in (
        "record.json",
        "correct.npy",
        "model.pt",
        "model_ema.pt",
        CHECKPOINT_NAME,
        HISTORY_NAME,
        ITERATIONS_NAME,
        PROGRESS_NAME,
    ):
        for path in folder.glob(f".{name}.*"):
            path.unlink()


def keep_previous_record(folder: Path) -> bool:
    """Rename the record of a finished run, which is repeated, to record.before.json; return whether there was one."""
    is_finished = (read_record(folder) or {}).get("status") in FINISHED
    if is_finished:
        (folder / "record.json").replace(folder / "record.before.json")
    return is_finished


def new_record(spec: RunSpec, command: str) -> dict[str, Any]:
    """Return the part of the record that is known before the run. Its status is that of a failed run."""
    return {
        "format": FORMAT,
        "name": spec.name,
        "label": spec.label,
        "study": spec.study,
        "seed": spec.seed,
        "base": spec.base.name,
        "data": spec.data.name,
        "transforms": [{"name": name, **dataclasses.asdict(info)} for name, info in spec.transforms.items()],
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
    """Write record.json atomically: a reader sees the old record or the complete new one. Then delete progress.json,
    because the run no longer trains."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_nonfinite_to_none(record), indent=1, allow_nan=False, ensure_ascii=False)
    text = EPOCH.sub(lambda match: " ".join(match[0].split()), text)  # a line for each epoch
    write_atomically(folder / "record.json", text.encode() + b"\n")
    remove_progress(folder)


def _nonfinite_to_none(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None: the loss of a diverged run is null."""
    if isinstance(value, dict):
        return {key: _nonfinite_to_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nonfinite_to_none(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
