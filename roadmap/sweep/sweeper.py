"""A sweep: plan and check all runs, train those that are not finished, then write the study's report.

Hydra calls `sweep` through the plugin `hydra_plugins.roadmap.sweeper`. The runs train where `hydra/launcher` says: on
this machine (the default), or as jobs of SLURM or Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from roadmap.config.designs import Layout
from roadmap.config.schema import RunSpec, SpecError
from roadmap.models.structure import Structure
from roadmap.records.manifest import add_runs, setting_overrides
from roadmap.records.record import (
    COMPLETED,
    FAILED,
    RUNS_FOLDER,
    config_hash,
    read_record,
    run_folder,
    run_name,
    study_folder,
)
from roadmap.runtime.logs import logger
from roadmap.runtime.world import is_rank_zero
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.estimate import estimate_runtime
from roadmap.sweep.forecast import check_plan_device
from roadmap.sweep.launchers import launcher_of, run_on_cluster
from roadmap.sweep.local_ranks import check_processes
from roadmap.sweep.plan import plan_runs
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.preparation import runs_to_do
from roadmap.sweep.processes import process_context, unblock_signals
from roadmap.sweep.run_process import summarize_record, with_log
from roadmap.sweep.scheduler import run_locally
from roadmap.sweep.tracking import tracked
from roadmap.sweep.tuning import tune


def sweep(config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> None:
    """Train all runs that `arguments` (overrides) ask for and write the report; with plan=true only print a dry run.

    Raises SpecError or Hydra's errors before anything starts, Stopped after a signal, and RunFailed at the end if a
    run failed or diverged.
    """
    launcher = launcher_of(config)
    if config.tune.trials is not None and config.search.budget is None:
        if launcher is not None:
            raise SpecError("hydra/launcher: a search trains on this machine; leave the launcher out")
        tune(config, loader, arguments)
        return
    if config.search.budget is not None:
        if launcher is not None:
            raise SpecError("hydra/launcher: a search trains on this machine; leave the launcher out")
        from roadmap.sweep.search import search  # imports scikit-learn

        search(config, loader, arguments)
        return
    runs, layout = plan_runs(config, loader, arguments)
    first = runs[0].spec
    check_plan_device(first.plan_device)
    if first.plan:
        logger.info(estimate_runtime(runs, on_cluster=launcher is not None))
        return
    check_processes(first, on_this_machine=launcher is None)
    left = runs_to_do(runs)
    if is_rank_zero():
        add_runs([(run.spec, run.overrides) for run in runs], layout)
    _log_start(runs, layout, num_finished=len(runs) - len(left))
    lost_runs: dict[Path, dict[str, Any]] = {}
    not_ended: dict[Path, str] = {}
    with tracked(left):
        if left and launcher is None:
            not_ended = run_locally(left)
        elif left and launcher is not None:
            lost_runs = run_on_cluster(launcher, left)
    if is_rank_zero():
        no_report = write_study_report(runs)
        try:
            raise_for_failures([run.spec for run in runs], lost_runs, not_ended)
        except RunFailed as failure:
            raise RunFailed("\n".join(filter(None, (str(failure), no_report)))) from None
        if no_report is not None:
            raise RunFailed(no_report)


def _log_start(runs: Sequence[PlannedRun], layout: Layout, num_finished: int) -> None:
    spec = runs[0].spec
    if layout.orders:
        num_orders, num_steps = len(layout.orders), len(layout.orders[0])
        num_networks = len({config_hash(run.spec) for run in runs})
        logger.info(
            f"{num_orders} orders of {num_steps} steps (design.orders) need {num_networks} networks, {len(runs)} runs"
        )
    finished = f", {num_finished} of them already finished (force=true repeats them)" if num_finished else ""
    logger.info(f"{spec.study}: {len(runs)} runs in {Path(spec.out) / RUNS_FOLDER}{finished}")


def write_study_report(runs: Sequence[PlannedRun]) -> str | None:
    """Write the report of the study that `runs` belong to, and log its table and its files.

    The default study contains the runs of all commands that name no study. Its report covers only `runs`. Return the
    reason if the report could not be written, else None.
    """
    from roadmap.report.examples import optional_pictures
    from roadmap.report.writer import write_report

    spec = runs[0].spec
    folder, to = study_folder(spec), Path(spec.reports) / spec.study
    is_default = spec.study == RUNS_FOLDER
    own = {run_name(run.spec): setting_overrides(run.overrides) for run in runs} if is_default else None
    # The structures of the networks are read in a process of the fork server, which has imported torch for the runs.
    with ProcessPoolExecutor(1, mp_context=process_context(), initializer=unblock_signals) as pool:

        def structure_of(config: dict[str, Any]) -> Structure | None:
            return pool.submit(_structure_of_config, config).result()

        def thumbnails_of(record: Mapping[str, Any], indices: Sequence[int], count: int) -> list[tuple[str, str]]:
            return pool.submit(_thumbnails_of_run, record, indices, count).result()

        try:
            pictures = optional_pictures(thumbnails_of)
            logger.info(write_report(folder, to, structure_of, own, roadmap=spec.roadmap, thumbnails_of=pictures))
        except SpecError as error:  # no run left a record
            return f"no report: {error}"
        except OSError as error:
            how = "the same command writes it" if is_default else f"write it with: roadmap report {folder} --to {to}"
            return (
                f"{error.filename}: {error.strerror}; there is no new report. The records of the runs are kept; {how}"
            )
    return None


def _structure_of_config(config: dict[str, Any]) -> Structure | None:
    from roadmap.models.inspection import structure_of_config

    return structure_of_config(config)


def _thumbnails_of_run(record: Mapping[str, Any], indices: Sequence[int], count: int) -> list[tuple[str, str]]:
    from roadmap.evaluation.thumbnails import read_thumbnails

    return read_thumbnails(record, indices, count)


def raise_for_failures(
    specs: Sequence[RunSpec], lost_runs: dict[Path, dict[str, Any]], not_ended: dict[Path, str]
) -> None:
    """Raise RunFailed, with a line for each run, if not all runs completed."""
    failures = []
    for folder in map(run_folder, specs):
        if folder in not_ended:
            continue
        missing = {"status": FAILED, "error": "it left no record"}
        record = read_record(folder) or lost_runs.get(folder, missing)
        if record["status"] != COMPLETED:
            failures.append(f"{folder.name}: {with_log(summarize_record(record), record, folder)}")
    if failures:
        lines = [f"{len(failures)} of {len(specs)} runs did not complete:", *failures]
        if not_ended:
            lines += [f"{len(not_ended)} runs did not finish (failures=stop); the same command trains them:"]
            lines += [f"{folder.name}: {state}" for folder, state in not_ended.items()]
        raise RunFailed("\n".join(lines))
