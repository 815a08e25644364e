"""Durations of runs, as the records of earlier runs suggest them."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from roadmap.config.schedule import scaled_epochs
from roadmap.config.schema import RunSpec
from roadmap.records.record import COMPLETED, RUNS_FOLDER, config_hash, config_of, read_record, run_name


class KnownDurations:
    """Durations of completed runs: the mean over a network's other seeds, else over the runs with the same data, base
    and budget, in proportion to the number of epochs, which differs between recipes."""

    def __init__(self, out: str) -> None:
        self.records: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.used: set[str] = set()  # names of the runs that an estimate was made from
        self.devices: set[str] = set()  # their devices
        for path in sorted((Path(out) / RUNS_FOLDER).glob("*/record.json")):
            record = read_record(path.parent)
            if record is not None and record["status"] == COMPLETED:
                record["run"] = path.parent.name
                for key in (record["config_hash"], _data_base_budget(record["config"])):
                    self.records[key].append(record)

    def estimate(self, spec: RunSpec) -> float | None:
        """Return the expected seconds of the run, from the records of others, or None if there is no such record."""
        own = run_name(spec)
        exact = self._others(config_hash(spec), own)
        similar = self._others(_data_base_budget(config_of(spec)), own)
        records = exact or [record for record in similar if _epochs(record)]
        if not records:
            return None
        self.used |= {record["run"] for record in records}
        self.devices |= {record["device"]["name"] for record in records}
        if exact:
            return mean(record["wall_seconds"] for record in records)
        epochs = scaled_epochs(spec.recipe, spec.budget)
        return epochs * mean(record["wall_seconds"] / _epochs(record) for record in records)

    def _others(self, key: str, own: str) -> list[dict[str, Any]]:
        return [record for record in self.records.get(key, ()) if record["run"] != own]


def _epochs(record: dict[str, Any]) -> int:
    """Return the number of epochs of a record's run; 0 if it is unknown."""
    plan = record.get("plan")
    epochs = plan.get("epochs") if isinstance(plan, dict) else None
    return epochs if isinstance(epochs, int) else 0


def _data_base_budget(config: dict[str, Any]) -> str:
    base = [config["base"][name] for name in ("name", "width_factor", "depth_factor")]
    return json.dumps([config["data"]["name"], base, config["budget"]], sort_keys=True)
