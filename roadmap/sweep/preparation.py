"""Checks before the first run of a sweep starts: which runs are left, and whether data, device and weights fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from roadmap.config.schema import RunSpec, SpecError
from roadmap.data.download import download_if_absent
from roadmap.records.record import finished_record
from roadmap.runtime.world import is_distributed, is_rank_zero
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.processes import process_context, unblock_signals


def runs_to_do(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs that are not finished, after all of them have been checked.

    Under torchrun, rank zero checks and all processes return the same. Raises SpecError where a run is impossible.
    """
    if not is_distributed():
        return _checked_runs_to_do(runs)
    from roadmap.runtime.distributed import broadcast_before_group

    numbers = [runs.index(run) for run in _checked_runs_to_do(runs)] if is_rank_zero() else []
    return [runs[number] for number in json.loads(broadcast_before_group("todo", json.dumps(numbers)))]


def _checked_runs_to_do(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    left = [run for run in runs if run.spec.force or finished_record(run.spec) is None]
    for data in {repr(run.spec.data): run.spec.data for run in left}.values():
        download_if_absent(data)
    if left:
        check_specs([run.spec for run in left])
    return left


def check_specs(specs: Sequence[RunSpec]) -> None:
    """Raise SpecError where the device, data or weights of a spec do not fit; nothing is trained or written."""
    distinct = {}
    for spec in specs:
        batches = (spec.recipe.batch_size, spec.recipe.norm_batch_size, spec.accumulate, spec.network.has_batch_norm)
        checked_fields = (spec.data, spec.budget, *batches, spec.device)
        needs_network = spec.weights or spec.network.user_classes
        distinct[repr((*checked_fields, spec.weights, needs_network and spec.network))] = spec
    # In a process of the fork server, which imports torch once for this check and for all runs.
    with ProcessPoolExecutor(1, mp_context=process_context(), initializer=unblock_signals) as pool:
        try:
            list(pool.map(_check_spec, distinct.values()))
        except BrokenProcessPool as error:
            reason = "the process that checked the data died; the system does this when memory runs out"
            raise SpecError(f"data.name={specs[0].data.name}: {reason}") from error


def _check_spec(spec: RunSpec) -> None:
    from roadmap.training import run

    run.check(spec)
