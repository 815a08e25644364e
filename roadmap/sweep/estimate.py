"""The dry run of a study: its runs, which of them are done, and how long the others take, estimated from records."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from roadmap.config.schedule import scaled_epochs
from roadmap.records.record import COMPLETED, RUNS_FOLDER, config_hash, config_of, finished_record, read_record
from roadmap.runtime import system
from roadmap.runtime.progress import format_duration
from roadmap.sweep.placement import Placement, choose_placement
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import summarize_record


def estimate_runtime(runs: Sequence[PlannedRun]) -> str:
    """Return a line for each run, then lines for time and cost of all; nothing is started or written."""
    durations = _KnownDurations(runs[0].spec.out)
    lines: list[str] = []
    estimates: list[float] = []  # seconds
    num_unknown = num_done = 0
    for run in runs:
        record = finished_record(run.spec)
        if record is not None:
            num_done += 1
            seconds = format_duration(record["wall_seconds"])
            lines.append(f"  done   {seconds:>8}  {run.title}: {summarize_record(record)}")
            continue
        epochs = scaled_epochs(run.spec.recipe, run.spec.budget)
        estimate = durations.estimate(config_hash(run.spec), config_of(run.spec), epochs)
        if estimate is None:
            num_unknown += 1
        else:
            estimates.append(estimate)
        lines.append(f"  to do  {'?' if estimate is None else f'~{format_duration(estimate)}':>8}  {run.title}")
    lines.append(f"{runs[0].spec.study}: {len(runs)} runs, {num_done} done, {len(runs) - num_done} to do")
    if estimates:
        lines += _totals(estimates, num_unknown, choose_placement(runs))
        lines.append(f"estimated from {len(durations.used)} records, on {', '.join(sorted(durations.devices))}")
    elif num_unknown:
        lines.append("time, cost: unknown until a run with this data, base and budget is completed")
    return "\n".join(lines)


def _totals(estimates: list[float], num_unknown: int, placement: Placement) -> list[str]:
    """Return the lines of time and cost; `estimates` are seconds per run."""
    total, parallel = sum(estimates), placement.num_parallel
    wall = max(*estimates, total / parallel) if len(estimates) > 1 else estimates[0]
    unknown = f", and {num_unknown} runs without an estimate" if num_unknown else ""
    return [
        f"time: {format_duration(total)} of run time, {format_duration(wall)} with {parallel} at once{unknown}",
        f"cost: {_cost(total, placement)}",
    ]


def _cost(seconds: float, placement: Placement) -> str:
    if placement.num_gpus:
        return f"{seconds / 3600:.2g} GPU-hours"
    return f"{seconds * (placement.num_threads or system.num_cores()) / 3600:.2g} core-hours"


class _KnownDurations:
    """Durations of completed runs: the mean over a network's other seeds, else over the runs with the same data, base
    and budget, in proportion to the number of epochs, which differs between recipes."""

    def __init__(self, out: str) -> None:
        self.records: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.used: set[str] = set()  # paths of the records that an estimate was made from
        self.devices: set[str] = set()  # their devices
        for path in sorted((Path(out) / RUNS_FOLDER).glob("*/record.json")):
            record = read_record(path.parent)
            if record is not None and record["status"] == COMPLETED:
                record["path"] = str(path)
                for key in (record["config_hash"], _data_base_budget(record["config"])):
                    self.records[key].append(record)

    def estimate(self, config_hash: str, config: dict[str, Any], epochs: int) -> float | None:
        """Return the expected seconds of a run with `epochs` epochs, or None if there is no such record."""
        exact = self.records.get(config_hash)
        records = exact or [record for record in self.records.get(_data_base_budget(config), ()) if _epochs(record)]
        if not records:
            return None
        self.used |= {record["path"] for record in records}
        self.devices |= {record["device"]["name"] for record in records}
        if exact:
            return mean(record["wall_seconds"] for record in records)
        return epochs * mean(record["wall_seconds"] / _epochs(record) for record in records)


def _epochs(record: dict[str, Any]) -> int:
    """Return the number of epochs of a record's run; 0 if it is unknown."""
    plan = record.get("plan")
    epochs = plan.get("epochs") if isinstance(plan, dict) else None
    return epochs if isinstance(epochs, int) else 0


def _data_base_budget(config: dict[str, Any]) -> str:
    base = [config["base"][name] for name in ("name", "width_factor", "depth_factor")]
    return json.dumps([config["data"]["name"], base, config["budget"]], sort_keys=True)
