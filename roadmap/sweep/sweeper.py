"""A sweep: plan and check all runs, train those that are not finished, then write the study's report.

Hydra calls `sweep` through the plugin `hydra_plugins.roadmap.sweeper`. The runs train where `hydra/launcher` says: on
this machine (the default), or as jobs of SLURM or Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from roadmap.config.designs import Layout
from roadmap.config.schema import RunSpec
from roadmap.models.structure import Structure
from roadmap.records.manifest import add_runs
from roadmap.records.record import COMPLETED, FAILED, RUNS_FOLDER, config_hash, read_record, run_folder, study_folder
from roadmap.runtime.logs import logger
from roadmap.runtime.world import is_rank_zero
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.estimate import estimate_runtime
from roadmap.sweep.launchers import launcher_of, run_on_cluster
from roadmap.sweep.plan import plan_runs
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.preparation import runs_to_do
from roadmap.sweep.processes import process_context, unblock_signals
from roadmap.sweep.run_process import summarize_record
from roadmap.sweep.scheduler import run_locally


def sweep(config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> None:
    """Train all runs that `arguments` (overrides) ask for and write the report; with plan=true only print a dry run.

    Raises SpecError or Hydra's errors before anything starts, Stopped after a signal, and RunFailed at the end if a
    run failed or diverged.
    """
    runs, layout = plan_runs(config, loader, arguments)
    first = runs[0].spec
    if first.plan:
        logger.info(estimate_runtime(runs))
        return
    launcher = launcher_of(config)
    left = runs_to_do(runs)
    if is_rank_zero():
        add_runs([(run.spec, run.overrides) for run in runs], layout)
    _log_start(runs, layout, num_finished=len(runs) - len(left))
    lost_runs: dict[Path, dict[str, Any]] = {}
    if left and launcher is None:
        run_locally(left)
    elif left and launcher is not None:
        lost_runs = run_on_cluster(launcher, left)
    if is_rank_zero():
        write_study_report(first)
        _raise_for_failures([run.spec for run in runs], lost_runs)


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


def write_study_report(spec: RunSpec) -> None:
    """Write the report of the study that `spec` belongs to, and log its table and its files."""
    from roadmap.report.writer import write_report

    # The structures of the networks are read in a process of the fork server, which has imported torch for the runs.
    with ProcessPoolExecutor(1, mp_context=process_context(), initializer=unblock_signals) as pool:

        def structure_of(config: dict[str, Any]) -> Structure | None:
            return pool.submit(_structure_of_config, config).result()

        logger.info(write_report(study_folder(spec), Path(spec.reports) / spec.study, structure_of))


def _structure_of_config(config: dict[str, Any]) -> Structure | None:
    from roadmap.models.inspection import structure_of_config

    return structure_of_config(config)


def _raise_for_failures(specs: Sequence[RunSpec], lost_runs: dict[Path, dict[str, Any]]) -> None:
    """Raise RunFailed, with a line for each run, if not all runs completed."""
    failures = []
    for spec in specs:
        folder = run_folder(spec)
        missing = {"status": FAILED, "error": "it left no record"}
        record = read_record(folder) or lost_runs.get(folder, missing)
        if record["status"] != COMPLETED:
            failures.append(f"{folder.name}: {summarize_record(record)}")
    if failures:
        raise RunFailed("\n".join([f"{len(failures)} of {len(specs)} runs did not complete:", *failures]))
