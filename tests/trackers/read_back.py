"""Read what the trackers hold of a run, each with its own library."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Series = dict[str, list[tuple[int, float]]]


@dataclass
class Stored:
    """A run in a tracker: its values by name, each with the iterations; its config, grouping and status."""

    series: Series
    config: dict[str, Any]
    groups: dict[str, Any] = field(default_factory=dict)
    status: str | None = None


def read_tensorboard(folder: Path) -> dict[str, Stored]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for path in folder.glob("*/*/*"):
        if path.is_dir() and list(path.glob("events.*")):
            events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
            events.Reload()
            tags: Any = events.Tags()["scalars"]
            series = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
            (text,) = events.Tensors("config/text_summary")[0].tensor_proto.string_val
            config = json.loads(text.decode().removeprefix("```json\n").removesuffix("\n```"))
            study, step, run = path.parts[-3:]
            found[run] = Stored(series, config, {"study": study, "step": step})
    return found


def read_mlflow(folder: Path) -> dict[str, Stored]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.absolute() / 'mlflow.db'}")
    found = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            series = {}
            for name in run.data.metrics:
                series[name] = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            groups = {"study": experiment.name, "step": run.data.tags["step"], "seed": int(run.data.tags["seed"])}
            name = run.data.tags["roadmap.run"]
            assert name not in found
            found[name] = Stored(series, run.data.params, groups, run.data.tags.get("status"))
    return found


def read_trackio(folder: Path) -> dict[str, Stored]:
    os.environ["TRACKIO_DIR"] = str(folder / "trackio")
    import trackio.utils
    from trackio.sqlite_storage import SQLiteStorage

    trackio.utils.TRACKIO_DIR = folder / "trackio"
    import trackio.sqlite_storage

    trackio.sqlite_storage.TRACKIO_DIR = folder / "trackio"
    found = {}
    for path in (folder / "trackio").glob("*.db"):
        for run in trackio.Api().runs(path.stem):
            series: Series = defaultdict(list)
            status = None
            for row in SQLiteStorage.get_logs(path.stem, run.name):
                status = row.get("status", status)
                for name, value in row.items():
                    if name not in ("timestamp", "step", "status"):
                        series[name].append((row["step"], value))
            config = run.config
            assert config is not None and config["run"] not in found
            groups = {"study": path.stem, "step": config["_Group"], "seed": config["seed"]}
            found[config["run"]] = Stored(dict(series), config, groups, status)
    return found


def read_wandb(folder: Path) -> dict[str, Stored]:
    """Read the offline files, in which W&B's messages are stored in the log format of LevelDB."""
    from wandb.proto import wandb_internal_pb2

    make_record: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]
    found = {}
    for path in (folder / "wandb").glob("offline-run-*/*.wandb"):
        series: Series = defaultdict(list)
        config: dict[str, Any] = {}
        stored = Stored(series, config)
        for message in leveldb_records(path.read_bytes()):
            record = make_record()
            record.ParseFromString(message)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                stored.groups |= {"study": record.run.project, "step": record.run.run_group}
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "history":
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                step = row.get("_step", record.history.step.num)
                for name, value in row.items():
                    if not name.startswith("_"):
                        series[name].append((step, value))
            elif kind == "summary":
                for item in record.summary.update:
                    name = item.key or "/".join(item.nested_key)
                    value = json.loads(item.value_json)
                    if name == "status":
                        stored.status = value
                    elif name.startswith(("final/", "cost/")):
                        series[name] = [(0, value)]
        stored.groups["seed"] = config["seed"]
        assert config["run"] not in found
        found[config["run"]] = stored
    return found


BLOCK = 32768


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a log file of LevelDB; a record may have several parts, none of which crosses a block."""
    position, parts = 7, b""  # after the header of W&B
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        if kind == 0:  # padding
            position += left
            continue
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


READERS = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "trackio": read_trackio, "wandb": read_wandb}
