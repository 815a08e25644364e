"""What a study would do: its runs, which are done, and about how long the others take, by the records at hand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from roadmap import record
from roadmap.processes import Job, describe, placement
from roadmap.progress import duration


def tell(jobs: Sequence[Job]) -> str:
    """A line for each run, and one for all; nothing is started or written."""
    known = _Times(jobs[0].spec.out)
    lines, left, unknown, done = [], 0.0, 0, 0
    for job in jobs:
        content = record.finished(job.spec)
        if content is not None:
            done += 1
            lines.append(f"  done   {duration(content['wall_seconds']):>8}  {job.title}: {describe(content)}")
            continue
        seconds = known.of(record.config_hash(job.spec), record.config_of(job.spec))
        left, unknown = left + (seconds or 0.0), unknown + (seconds is None)
        about = "?" if seconds is None else f"~{duration(seconds)}"
        lines.append(f"  to do  {about:>8}  {job.title}")
    where = placement(jobs)
    todo = len(jobs) - done
    lines.append(f"{jobs[0].spec.study}: {len(jobs)} runs, {done} done, {todo} to do")
    if todo:
        told = f"{duration(left)} of run time, {duration(left / where.at_once)} at {where.at_once} at once"
        if unknown == todo:
            told = "unknown before one run of this data, base and budget is done"
        elif unknown:
            told += f", and {unknown} runs of which nothing is known"
        lines.append(f"time: {told}{known.source()}")
        lines.append(f"cost: {_cost(left, where.gpus, where.threads)}" if unknown < todo else "cost: unknown, likewise")
    return "\n".join(lines)


def _cost(seconds: float, gpus: int, threads: int | None) -> str:
    if gpus:
        return f"{seconds / 3600:.2g} GPU-hours"
    return f"{seconds * (threads or record.cores()) / 3600:.2g} core-hours"


class _Times:
    """Seconds that completed runs took: the mean of a network's other seeds, else of its data, base and budget."""

    def __init__(self, out: str) -> None:
        self.exact: dict[str, list[float]] = defaultdict(list)
        self.alike: dict[str, list[float]] = defaultdict(list)
        self.devices: set[str] = set()
        for path in sorted((Path(out) / record.RUNS).glob("*/record.json")):
            content = record.read(path.parent)
            if content is not None and content["status"] == record.COMPLETED:
                self.exact[content["config_hash"]].append(content["wall_seconds"])
                self.alike[_kind(content["config"])].append(content["wall_seconds"])
                self.devices.add(content["device"]["name"])

    def of(self, config_hash: str, config: dict[str, Any]) -> float | None:
        for times in (self.exact.get(config_hash), self.alike.get(_kind(config))):
            if times:
                return mean(times)
        return None

    def source(self) -> str:
        count = sum(map(len, self.exact.values()))
        return f" (by {count} records here, of {', '.join(sorted(self.devices))})" if count else ""


def _kind(config: dict[str, Any]) -> str:
    return json.dumps([config["data"]["name"], config["base"]["name"], config["budget"]], sort_keys=True)
