"""The search of `+study=tune`: Optuna proposes values of fields, and each trial is a run on held-out training images.

Every network of the command has a search of its own. The trials are in a journal file of Optuna in the study's folder:
after a stop, the same command continues trials that were running from their checkpoints, and repeats none.
"""

from __future__ import annotations

import itertools
import json
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from roadmap.config.choices import Pruner, Sampler
from roadmap.config.designs import Layout
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import RunSpec, SpecError
from roadmap.config.search_space import dimensions_of
from roadmap.config.tuned import to_overrides
from roadmap.records.history import read_history
from roadmap.records.manifest import add_runs
from roadmap.records.record import COMPLETED, FAILED, config_hash, finished_record, run_folder, study_folder
from roadmap.runtime.logs import logger
from roadmap.runtime.signals import Stopped, deferred_signals
from roadmap.runtime.world import is_distributed
from roadmap.sweep.estimate import estimate_runtime
from roadmap.sweep.forecast import check_plan_device
from roadmap.sweep.gpu_sharing import place_runs
from roadmap.sweep.holdout import set_holdout
from roadmap.sweep.plan import Composer, plan_runs
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.preparation import check_specs
from roadmap.sweep.run_process import RunProcess, summarize_record, with_log
from roadmap.sweep.scheduler import POLL_SECONDS, how_to_resume, start_process, stop_processes
from roadmap.sweep.tuning_results import Target, write_results

JOURNAL_NAME = "optuna.journal"  # in the study's folder
STARTUP_TRIALS = 5  # before the sampler and the pruner use the results


@dataclass
class _Trial:
    """A trial that runs."""

    target: Target
    trial: Any  # of Optuna
    process: RunProcess
    num_reported: int = 0  # epochs
    is_pruned: bool = False

    def report(self) -> None:
        """Report the evaluated epochs to Optuna, and stop the run if it should be pruned."""
        rows = [row for row in read_history(self.process.folder) if row["test_top1"]]
        for row in rows[self.num_reported :]:
            self.trial.report(float(row["test_top1"]), int(row["epoch"]))
            self.num_reported += 1
            if not self.is_pruned and self.trial.should_prune():
                self.is_pruned = True
                self.process.terminate()


def tune(config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> None:
    """Search the best values for each network that `arguments` ask for, and write the results.

    Raises SpecError before anything starts, Stopped after a signal, RunFailed if a network has no completed trial.
    """
    _check_installed()
    set_holdout(config)
    arguments = [*arguments, f"data.holdout={config.data.holdout}"]
    runs, layout = plan_runs(config, loader, arguments)
    first, num_trials = runs[0].spec, runs[0].spec.tune.trials
    check_plan_device(first.plan_device)
    if first.logger:
        advice = f"pass the trials on later with: roadmap log_records {study_folder(first)} logger=NAME"
        raise SpecError(f"logger: has no effect on a search; leave it out, and {advice}")
    assert num_trials is not None
    _check(runs, layout)
    composer = Composer(config, loader, load_roadmap(first.roadmap))
    if first.plan:
        logger.info(estimate_runtime(runs))
        logger.info(f"tune.trials={num_trials}: each network is trained up to {num_trials} times")
        return
    _check_space(runs, composer)
    check_specs([run.spec for run in runs])
    folder = study_folder(first)
    folder.mkdir(parents=True, exist_ok=True)
    targets = [Target(run, _open_study(folder, run, first)) for run in runs]
    for target in targets:
        target.resumed = _running_trials(target.study)
    networks = f"{len(targets)} networks" if len(targets) > 1 else targets[0].name
    logger.info(f"{first.study}: {num_trials} trials of {networks}, on {first.data.holdout:,} held-out images")
    _run_trials(targets, composer, num_trials)
    write_results(targets, Path(first.reports) / first.study)


def _check_installed() -> None:
    try:
        import optuna
    except ImportError as error:
        raise SpecError("+study=tune: needs optuna; pip install 'roadmap[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if is_distributed():
        raise SpecError("+study=tune: does not run under torchrun; set processes=N for several processes per run")


def _check(runs: Sequence[PlannedRun], layout: Layout) -> None:
    if layout.members:
        raise SpecError("design.name: a search takes its networks from +step=...; leave the design out")
    names = [(run.spec.name, run.setting) for run in runs]
    if len(set(names)) < len(names):
        raise SpecError("seed: a trial has one seed; give one")
    dimensions = dimensions_of(runs[0].spec.tune.space)
    for run in runs:
        given = {override.lstrip("+").split("=")[0] for override in run.overrides}
        if both := [dimension.field for dimension in dimensions if dimension.field in given]:
            raise SpecError(f"{both[0]}: is in tune.space and set by the command; leave one of them out")


def _check_space(runs: Sequence[PlannedRun], composer: Composer) -> None:
    """Raise SpecError if a value of the search space is impossible for a network."""
    for run in runs:
        for dimension in dimensions_of(run.spec.tune.space):
            for value in dimension.extremes(run.spec):
                composer.compose([*run.overrides, *to_overrides({dimension.field: value})])


def _open_study(folder: Path, run: PlannedRun, spec: RunSpec) -> Any:
    """Return Optuna's study of a network, which the journal file may have from an earlier command."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    # Trials of another setting, seed or search space are those of another search.
    space = json.dumps(OmegaConf.to_container(OmegaConf.create(spec.tune.space)), sort_keys=True)
    name = json.dumps([run.spec.name, config_hash(run.spec), run.spec.seed, zlib.crc32(space.encode())])
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL_NAME)))
    epochs = max(2, round(run.spec.budget.epochs or run.spec.recipe.epochs))
    pruners: dict[Pruner, Any] = {
        Pruner.median: optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
        Pruner.hyperband: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs),
        Pruner.none: optuna.pruners.NopPruner(),
    }
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True, pruner=pruners[spec.tune.pruner]
    )
    seed = zlib.crc32(repr((spec.tune.seed, name, len(study.get_trials(deepcopy=False)))).encode())
    if spec.tune.sampler is Sampler.random:
        study.sampler = optuna.samplers.RandomSampler(seed)
    else:
        with warnings.catch_warnings(action="ignore"):  # these two options are experimental
            study.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=STARTUP_TRIALS, constant_liar=True, multivariate=True
            )
    return study


def _running_trials(study: Any) -> list[Any]:
    """Return the trials that were running when an earlier command ended."""
    from optuna.trial import Trial, TrialState

    return [Trial(study, frozen._trial_id) for frozen in study.get_trials(states=(TrialState.RUNNING,))]


def _run_trials(targets: Sequence[Target], composer: Composer, num_trials: int) -> None:
    """Run the trials of all targets, several at a time. Raises Stopped after a signal, with checkpoints."""
    placement = place_runs([target.run for target in targets])
    waiting, running, numbers = list(targets), list[_Trial](), itertools.count(1)
    with deferred_signals() as stop:
        try:
            while (waiting or running) and not stop:
                while waiting and len(running) < placement.num_parallel and not stop:
                    trial = waiting[0].next_trial(num_trials)
                    if trial is None:
                        waiting.pop(0)
                        continue
                    run = _run_of(waiting[0], trial, composer)
                    if any(other.process.folder == run_folder(run.spec) for other in running):  # the same values
                        waiting[0].resumed.append(trial)  # takes the result when the other has ended
                        break
                    add_runs([(run.spec, run.overrides)], Layout())
                    if record := finished_record(run.spec):
                        _tell(waiting[0], trial, run, record)
                        continue
                    title = f"[{waiting[0].name} trial {trial.number + 1}/{num_trials}]"
                    others = [other.process for other in running]
                    process = start_process(run, title, placement, others, next(numbers))
                    running.append(_Trial(waiting[0], trial, process))
                ended = wait([entry.process.sentinel for entry in running], timeout=POLL_SECONDS)
                for entry in list(running):
                    entry.report()
                    if entry.process.sentinel in ended and not stop:
                        running.remove(entry)
                        _end(entry)
        finally:
            stop_processes([entry.process for entry in running])
    if stop:
        raise Stopped(f"stopped by {stop.reason}; {how_to_resume()}")


def _run_of(target: Target, trial: Any, composer: Composer) -> PlannedRun:
    """Return the run of a trial."""
    spec = target.run.spec
    values = {dimension.field: dimension.value_of(trial, spec) for dimension in dimensions_of(spec.tune.space)}
    trial.set_user_attr("values", values)
    composed = composer.compose([*target.run.overrides, *to_overrides(values)])
    overrides = [
        *target.own_overrides,
        f"study={spec.study}",
        f"data.holdout={spec.data.holdout}",
        *to_overrides(values),
    ]
    return PlannedRun(composed, overrides, tuple(to_overrides(values)), target.run.folders)


def _end(entry: _Trial) -> None:
    """Tell Optuna how a run ended."""
    from optuna.trial import TrialState

    process = entry.process
    if entry.is_pruned and not process.has_new_record:
        process.process.join()
        for path in process.folder.glob("checkpoint*"):
            path.unlink()
        (process.folder / "progress.json").unlink(missing_ok=True)
        entry.target.study.tell(entry.trial, state=TrialState.PRUNED)
        logger.info(f"{process.title} pruned after {entry.num_reported} evaluations: {' '.join(process.run.setting)}")
        return
    record = process.finish()
    if record is None or (record["status"] == FAILED and process.was_stopped):
        return  # locked or stopped: the trial stays as it is, for the next command
    _tell(entry.target, entry.trial, process.run, record)


def _tell(target: Target, trial: Any, run: PlannedRun, record: dict[str, Any]) -> None:
    title = f"[{target.name} trial {trial.number + 1}]"
    if record["status"] == FAILED:  # Optuna's trial goes on running: the same command retries it
        target.num_failed += 1
        logger.info(f"{title} {with_log(summarize_record(record), record, run_folder(run.spec))}")
        return
    # A run that diverged has learned nothing: it counts as 0, and is never the best.
    trial.set_user_attr("diverged", record["status"] != COMPLETED)
    target.study.tell(trial, record["top1"] if record["status"] == COMPLETED else 0.0)
    logger.info(f"{title} {summarize_record(record)}: {' '.join(run.setting)}")
