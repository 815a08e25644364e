"""One run in the process of the command."""

from __future__ import annotations

from typing import Any

from roadmap.config.choices import Design
from roadmap.config.designs import Layout
from roadmap.config.schema import SpecError
from roadmap.records.manifest import add_runs, check_study
from roadmap.records.record import COMPLETED, finished_record, read_record, run_folder
from roadmap.runtime import lock
from roadmap.runtime.logs import logger
from roadmap.runtime.signals import Stopped
from roadmap.runtime.world import is_distributed, is_rank_zero
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.estimate import estimate_runtime
from roadmap.sweep.forecast import check_plan_device
from roadmap.sweep.local_ranks import RankDiedError, check_processes, train_in_processes
from roadmap.sweep.placement import place_alone
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import record_death, record_mtime, summarize_record, with_log
from roadmap.sweep.scheduler import how_to_resume
from roadmap.sweep.tracking import tracked


def run_single(run: PlannedRun) -> None:
    """Train `run` in this process, or skip it if it is finished; with plan=true only print its estimate.

    Raises RunFailed if it fails or diverges, Stopped after a signal, SpecError for fields that only a study has.
    """
    spec = run.spec
    check_plan_device(spec.plan_device)
    if not spec.plan:  # a plan may be for another machine
        check_processes(spec)
    if spec.reference is not None:
        raise SpecError(f"reference={spec.reference}: needs a study; for one run use +transform={spec.reference}")
    if spec.tune.trials is not None:
        raise SpecError(f"tune.trials={spec.tune.trials}: needs a search, as +study=tune")
    if spec.search.budget is not None:
        raise SpecError(f"search.budget={spec.search.budget}: needs a search, as +study=search")
    if spec.design.name is not Design.grid:
        name = spec.design.name.value
        raise SpecError(f"design.name={name}: needs a study, as +study={name}")
    if spec.design.needs:
        raise SpecError("design.needs: needs a study, as +study=leave_one_out; leave it out")
    if spec.plan:
        logger.info(estimate_runtime([run], place_alone(run)))
        return
    check_study(spec)  # raises SpecError before the training
    folder = run_folder(spec)
    record = None if spec.force or is_distributed() else finished_record(spec)
    if record is not None:
        logger.info(f"{run.title}: already finished, {summarize_record(record)}; force=true repeats it")
    else:
        from roadmap.training.run import run as train_run

        if is_rank_zero() and lock.is_held(folder):
            logger.info(f"{run.title}: waiting: locked by another process")
        logger.info(run.title)
        try:
            train_alone = spec.processes in (None, 1)
            with tracked([run]):
                record = train_run(spec, run.command, wait=True) if train_alone else _train_in_processes(run)
        except Stopped as stopped:
            raise Stopped(f"{stopped}; {how_to_resume()}") from None
        logger.info(f"{run.title}: {summarize_record(record)}")
    if is_rank_zero():
        add_runs([(spec, run.overrides)], Layout())
    logger.info(f"record: {folder / 'record.json'}")
    if record["status"] != COMPLETED:
        raise RunFailed(with_log(f"{run.title}: {record['status']}", record, folder))


def _train_in_processes(run: PlannedRun) -> dict[str, Any]:
    """Train the run with `processes` processes of this machine, and return its record."""
    written_before = record_mtime(run_folder(run.spec))
    try:
        train_in_processes(run, run.spec.processes or 1, wait=True)
    except RankDiedError as error:
        return record_death(run, str(error), written_before)
    record = read_record(run_folder(run.spec))
    assert record is not None
    return record
