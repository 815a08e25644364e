"""Checks before the first run of a sweep starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from roadmap.config.schema import RunSpec, SpecError
from roadmap.data.download import download_if_absent
from roadmap.records.record import (
    finished_record,
)
from roadmap.runtime.progress import LEADS, TEAM
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import process_context, unblock_signals


def runs_to_do(jobs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs that are not finished, after all that can be said against them has been said."""
    todo = [job for job in jobs if job.spec.force or finished_record(job.spec) is None]
    for data in {repr(job.spec.data): job.spec.data for job in todo}.values():
        download_if_absent(data)
    if todo:
        check_runs([job.spec for job in todo])
    return todo


def rank_zero_chooses(
    prepare: Callable[[Sequence[PlannedRun]], list[PlannedRun]], jobs: Sequence[PlannedRun]
) -> list[PlannedRun]:
    """`prepare(jobs)`; under torchrun the first process does it, for all."""
    if not TEAM:
        return prepare(jobs)
    from roadmap.runtime.distributed import broadcast_before_group

    chosen = [jobs.index(job) for job in prepare(jobs)] if LEADS else []
    return [jobs[number] for number in json.loads(broadcast_before_group("todo", json.dumps(chosen)))]


def check_runs(specs: Sequence[RunSpec]) -> None:
    """Raise SpecError where a run's device, data or weights do not fit: before anything is trained or written."""
    alike = {}
    for spec in specs:
        fields = (spec.data, spec.budget, spec.recipe.batch_size, spec.accumulate, spec.device)
        alike[repr((*fields, spec.weights and spec.network))] = spec
    # There torch is imported, once for this and for all runs.
    with ProcessPoolExecutor(1, mp_context=process_context(), initializer=unblock_signals) as pool:
        try:
            list(pool.map(_check, alike.values()))
        except BrokenProcessPool as error:
            what = "checking the data ended its process; the system does that when memory runs out"
            raise SpecError(f"data.name={specs[0].data.name}: {what}") from error


def _check(spec: RunSpec) -> None:
    from roadmap.training import run

    run.check(spec)
