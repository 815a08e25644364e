"""The dry run of a study: its runs, which of them are done, and what the others take.

The durations come from the records of earlier runs. Where there are none, `plan_device` decides: `auto` measures the
networks on this machine (`roadmap.sweep.forecast`), and `none` leaves them unknown. `here` measures in any case, and
the name of a GPU takes published measurements instead.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from statistics import median
from typing import Any

from roadmap.config.schema import RunSpec
from roadmap.records.record import COMPLETED, config_hash, finished_record
from roadmap.runtime import gpus, system
from roadmap.runtime.progress import format_duration
from roadmap.runtime.world import is_rank_zero
from roadmap.sweep.durations import KnownDurations
from roadmap.sweep.forecast import HERE, RECORD_BYTES, Forecast, make_forecast
from roadmap.sweep.gpu_sharing import place_runs
from roadmap.sweep.placement import Placement, choose_placement
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import summarize_record

GPU_COUNTS = (1, 8, 64)  # of which the time is shown
GPUS_PER_RUN = (1, 2, 4, 8)  # that one machine commonly has


def estimate_runtime(runs: Sequence[PlannedRun], placement: Placement | None = None, on_cluster: bool = False) -> str:
    """Return a line for each run, then lines for time, cost, memory and disk of all; nothing is trained or written.

    `placement` is where the runs would train on this machine; by default that of a sweep. Runs that would train
    `on_cluster` are not measured on this machine.
    """
    if not is_rank_zero():
        return ""
    records = [finished_record(run.spec) for run in runs]
    plan_device = runs[0].spec.plan_device
    if on_cluster and plan_device == "auto":
        plan_device = "none"
    to_do = [i for i, record in enumerate(records) if record is None]
    if placement is None:
        measures = plan_device in ("auto", HERE) and to_do
        placement = place_runs([runs[i] for i in to_do]) if measures else choose_placement(runs)
    known = KnownDurations(runs[0].spec.out)
    estimates: list[float | None] = [None] * len(runs)
    if plan_device in ("auto", "none"):
        for i in to_do:
            estimates[i] = known.estimate(runs[i].spec)
    source = f"estimated from {len(known.used)} records, on {', '.join(sorted(known.devices))}" if known.used else ""
    if plan_device in ("auto", "none"):  # of completed runs, for the comparison
        estimates = [
            known.estimate(run.spec) if record else own
            for run, record, own in zip(runs, records, estimates, strict=True)
        ]
    forecast: Forecast | None = None
    unknown = [i for i in to_do if estimates[i] is None]
    if plan_device not in ("auto", "none"):
        forecast = make_forecast(runs, plan_device, placement)
    elif plan_device == "auto" and unknown:
        forecast = make_forecast([runs[i] for i in unknown], HERE, placement)
    if forecast is not None:
        predicted = [forecast.seconds.get(config_hash(run.spec)) for run in runs]
        estimates = [own if own is not None else other for own, other in zip(estimates, predicted, strict=True)]
    lines = [_line(*columns) for columns in zip(runs, records, estimates, strict=True)]
    lines.append(f"{runs[0].spec.study}: {len(runs)} runs, {len(runs) - len(to_do)} done, {len(to_do)} to do")
    durations = [estimate for i in to_do if (estimate := estimates[i]) is not None]
    if durations:
        lines += _totals(durations, len(to_do) - len(durations), runs[0].spec, placement)
    elif forecast is None and to_do:
        hint = "; plan_device=GPU estimates it, such as plan_device=h100" if on_cluster else ""
        lines.append(f"time, cost: unknown until a run with this data, base and budget is completed{hint}")
    if forecast is not None:
        lines += _resources(forecast, [runs[i] for i in to_do])
    return "\n".join([*lines, *filter(None, [source]), *_comparison(records, estimates, forecast)])


def mean_duration(runs: Sequence[PlannedRun]) -> float | None:
    """Return the mean of the expected seconds of `runs` on this machine, None if one is unknown.

    They come from records, or, without records or with plan_device=here, from measurements.
    """
    known = KnownDurations(runs[0].spec.out)
    durations = {config_hash(run.spec): known.estimate(run.spec) for run in runs}
    if None in durations.values() or runs[0].spec.plan_device == HERE:
        durations = dict(make_forecast(runs, HERE, place_runs(runs)).seconds)
    values = [durations.get(config_hash(run.spec)) for run in runs]
    seconds = [value for value in values if value is not None]
    return sum(seconds) / len(seconds) if len(seconds) == len(runs) else None


def _line(run: PlannedRun, record: dict[str, Any] | None, estimate: float | None) -> str:
    if record is not None:
        seconds = format_duration(record["wall_seconds"])
        return f"  done   {seconds:>8}  {run.title}: {summarize_record(record)}"
    return f"  to do  {'?' if estimate is None else f'~{format_duration(estimate)}':>8}  {run.title}"


def _totals(durations: list[float], num_unknown: int, spec: RunSpec, placement: Placement) -> list[str]:
    """Return the lines of time and cost; `durations` are seconds per run."""
    total = sum(durations)
    unknown = f", and {num_unknown} runs without an estimate" if num_unknown else ""
    if spec.plan_device not in ("auto", "none", HERE):
        times = "; ".join(_time_on_gpus(durations, count, spec.processes) for count in GPU_COUNTS)
        return [f"time: {times}{unknown}", f"cost: {_hours(total)} of GPU time"]
    parallel = placement.num_parallel
    wall = format_duration(makespan(durations, parallel))
    together = f" of run time, {wall} with {parallel} at once" if len(durations) > 1 or unknown else ""
    return [f"time: {format_duration(total)}{together}{unknown}", f"cost: {_cost(total, placement)}"]


def makespan(durations: Sequence[float], num_parallel: int) -> float:
    """Return the time until the last run ends, if runs start in this order whenever one of `num_parallel` slots is
    free."""
    ends = [0.0] * num_parallel
    for duration in durations:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


def shortest_time(durations: Sequence[float], num_gpus: int, processes: int | None) -> tuple[float, int]:
    """Return the shortest time in seconds on `num_gpus` GPUs, and the number of GPUs of each run that gives it.

    N GPUs are assumed to train a run N times as fast as one. With `processes`, that is their number. Raises ValueError
    if a run does not fit.
    """
    choices = [number for number in (GPUS_PER_RUN if processes is None else (processes,)) if number <= num_gpus]
    times = [(makespan([d / number for d in durations], num_gpus // number), number) for number in choices]
    return min(times)


def _time_on_gpus(durations: Sequence[float], count: int, processes: int | None) -> str:
    gpus_text = f"{count} GPU{'s' * (count > 1)}"
    try:
        seconds, number = shortest_time(durations, count, processes)
    except ValueError:
        return f"a run with processes={processes} does not fit {gpus_text}"
    together = f" (processes={number})" if number > 1 else ""
    return f"{_hours(seconds)} on {gpus_text}{together}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.0f} h" if seconds >= 36_000 else format_duration(seconds)


def _cost(seconds: float, placement: Placement) -> str:
    if placement.num_gpus:
        return f"{seconds * placement.num_ranks / 3600:.2g} GPU-hours"
    return f"{seconds * (placement.num_threads or system.num_cores()) / 3600:.2g} core-hours"


def _resources(forecast: Forecast, runs: Sequence[PlannedRun]) -> list[str]:
    """Return the lines of memory, disk, and how the forecast was made."""
    if forecast.problem:
        return [f"time, cost: unknown: {forecast.problem}"]
    lines = []
    if forecast.memory_problem:
        lines.append(f"memory: unknown: {forecast.memory_problem}")
    elif (need := forecast.memory) is not None:
        parts = f" with accumulate={need.accumulate}" if need.accumulate > 1 else ""
        fits = "" if need.fits else ": does not fit; use a smaller budget.batch_size or more processes"
        lines.append(f"memory: {_gib(need.needed)} of {_gib(need.available)}{parts} ({forecast.largest}){fits}")
    works = [work for run in runs if (work := forecast.workloads.get(config_hash(run.spec))) is not None]
    if works:
        size = sum(RECORD_BYTES + work.num_test / 8 + work.weights_bytes for work in works)
        # While a checkpoint is written, the two before it are still there.
        checkpoints = 3 * max(work.checkpoint_bytes for work in works)
        lines.append(f"disk: {_gib(size)} for the results, and up to {_gib(checkpoints)} for each run that trains")
    reading = "" if all(run.spec.data.small_images for run in runs) else ", without the time to read images"
    lines.append(f"forecast for {forecast.device}: {forecast.method}{reading}")
    return lines


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def _comparison(
    records: Sequence[dict[str, Any] | None], estimates: Sequence[float | None], forecast: Forecast | None
) -> list[str]:
    """Return a line that compares the estimates of completed runs with their records, if there are any.

    An estimate from records does not use the record of the run itself. A forecast is compared with records of the same
    device only.
    """
    errors = []
    for record, estimate in zip(records, estimates, strict=True):
        if record is None or estimate is None or record["status"] != COMPLETED:
            continue
        if forecast is None or _is_same_device(forecast.device, record):
            errors.append(100 * (estimate / record["wall_seconds"] - 1))
    if not errors:
        return []
    spread = f"{min(errors):+.0f} % to {max(errors):+.0f} %, median {median(errors):+.0f} %"
    runs = "run" if len(errors) == 1 else "runs"
    return [f"check: for {len(errors)} completed {runs}, the estimate differs from the record by {spread}"]


def _is_same_device(device: str, record: dict[str, Any]) -> bool:
    name = record["device"]["name"]
    gpu = gpus.find_gpu(device)
    return name == device or (gpu is not None and gpus.find_gpu(name) == gpu)
