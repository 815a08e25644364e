"""What a study would do: its runs, which are done, and about how long the others take, by the records at hand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from roadmap.records.record import COMPLETED, RUNS_FOLDER, config_hash, config_of, finished_record, read_record
from roadmap.runtime import system
from roadmap.runtime.progress import format_duration
from roadmap.sweep.placement import choose_placement
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import summarize_record


def estimate_runtime(jobs: Sequence[PlannedRun]) -> str:
    """A line for each run, and one for all; nothing is started or written."""
    known = _Times(jobs[0].spec.out)
    lines, left, unknown, done = [], [], 0, 0
    for job in jobs:
        content = finished_record(job.spec)
        if content is not None:
            done += 1
            lines.append(
                f"  done   {format_duration(content['wall_seconds']):>8}  {job.title}: {summarize_record(content)}"
            )
            continue
        seconds = known.of(config_hash(job.spec), config_of(job.spec))
        unknown += seconds is None
        left += [] if seconds is None else [seconds]
        about = "?" if seconds is None else f"~{format_duration(seconds)}"
        lines.append(f"  to do  {about:>8}  {job.title}")
    where = choose_placement(jobs)
    lines.append(f"{jobs[0].spec.study}: {len(jobs)} runs, {done} done, {len(jobs) - done} to do")
    if left:
        wall = max(*left, sum(left) / where.at_once) if len(left) > 1 else left[0]
        more = f", and {unknown} runs of which nothing is known" if unknown else ""
        lines.append(
            f"time: {format_duration(sum(left))} of run time, {format_duration(wall)} at {where.at_once} at once{more}"
        )
        lines.append(f"cost: {_cost(sum(left), where.gpus, where.threads)}")
        lines.append(f"by what {len(known.used)} records took, on {', '.join(sorted(known.devices))}")
    elif unknown:
        lines.append("time, cost: unknown before a run of this data, base and budget is done")
    return "\n".join(lines)


def _cost(seconds: float, gpus: int, threads: int | None) -> str:
    if gpus:
        return f"{seconds / 3600:.2g} GPU-hours"
    return f"{seconds * (threads or system.num_cores()) / 3600:.2g} core-hours"


class _Times:
    """Seconds that completed runs took: the mean of a network's other seeds, else of its data, base and budget."""

    def __init__(self, out: str) -> None:
        self.records: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.used: set[str] = set()
        self.devices: set[str] = set()
        for path in sorted((Path(out) / RUNS_FOLDER).glob("*/record.json")):
            content = read_record(path.parent)
            if content is not None and content["status"] == COMPLETED:
                content["path"] = str(path)
                for key in (content["config_hash"], _kind(content["config"])):
                    self.records[key].append(content)

    def of(self, config_hash: str, config: dict[str, Any]) -> float | None:
        found = self.records.get(config_hash) or self.records.get(_kind(config))
        if not found:
            return None
        self.used |= {content["path"] for content in found}
        self.devices |= {content["device"]["name"] for content in found}
        return mean(content["wall_seconds"] for content in found)


def _kind(config: dict[str, Any]) -> str:
    base = [config["base"][name] for name in ("name", "width_factor", "depth_factor")]
    return json.dumps([config["data"]["name"], base, config["budget"]], sort_keys=True)
