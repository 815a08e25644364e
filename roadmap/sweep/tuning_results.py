"""One network of a search (`+study=tune`), and what the search has found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadmap.config.schema import SpecError
from roadmap.config.tuned import BEST_NAME, read_best, to_overrides
from roadmap.runtime.files import write_atomically
from roadmap.runtime.logs import logger
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.planned_run import PlannedRun


@dataclass
class Target:
    """One network, and its search."""

    run: PlannedRun  # without the search
    study: Any  # of Optuna
    resumed: list[Any] = field(default_factory=list)  # its trials that were running when the last command stopped
    num_failed: int = 0  # trials whose run failed in this command

    @property
    def name(self) -> str:
        """Name in messages and files: the network and its setting."""
        return " ".join([self.run.spec.name, *self.run.setting])

    @property
    def own_overrides(self) -> list[str]:
        """Overrides of the run without those of the search and of its held-out images."""
        dropped = ("data.holdout=", "study=", "tune.")
        return [override for override in self.run.overrides if not override.lstrip("+~").startswith(dropped)]

    def next_trial(self, num_trials: int) -> Any:
        """Return a trial that was interrupted, or a new one; None if there are enough."""
        if self.resumed:
            return self.resumed.pop()
        return self.study.ask() if len(self.study.get_trials(deepcopy=False)) < num_trials else None


def write_results(targets: Sequence[Target], to: Path) -> None:
    """Write and log the results: the trials, the importance of the fields, the best values and their command.

    Raises RunFailed if a network has no completed trial.
    """
    from roadmap.report.tuning import write_tuning

    found = list(_results(targets))
    best: dict[str, dict[str, Any]] = {}
    with_value = [(result, target) for result, target in zip(found, targets, strict=True) if result["best"] is not None]
    for result, target in sorted(with_value, key=lambda pair: pair[0]["value"]):  # of several settings, the best one
        best[target.run.spec.name] = result["best"]
    to.mkdir(parents=True, exist_ok=True)
    best = _earlier(to / BEST_NAME) | best  # of other steps
    write_atomically(to / BEST_NAME, (json.dumps(best, indent=1) + "\n").encode())
    for result, target in zip(found, targets, strict=True):
        states = ", ".join(f"{count} {state}" for state, count in result["states"].items())
        logger.info(f"{target.name}: {states}")
        if result["best"] is not None:
            command = _command(target, result["best"])
            logger.info(f"  best held-out top-1 {result['value']:.2f} %: {command}")
    paths = write_tuning(found, to)
    logger.info("report:\n" + "\n".join(f"  {path}" for path in [to / BEST_NAME, *paths]))
    if failed := sum(target.num_failed for target in targets):
        raise RunFailed(f"{failed} trials failed; the same command retries them")
    if without := [result["step"] for result in found if result["best"] is None]:
        raise RunFailed(f"{', '.join(without)}: no trial completed; the log of each run shows the reason")


def _command(target: Target, values: dict[str, Any]) -> str:
    """Return the command that trains the network with these values on all training images."""
    overrides = [*target.own_overrides, *to_overrides(values)]
    return target.run._replace(overrides=overrides).command


def _earlier(path: Path) -> dict[str, Any]:
    """Return the content of an earlier best.json; nothing if there is none that can be used."""
    try:
        read_best(str(path))
    except SpecError:
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _state(trial: Any) -> str:
    """Return complete, pruned, diverged, or unfinished: such a trial failed or was stopped, and will be resumed."""
    if trial.user_attrs.get("diverged"):
        return "diverged"
    state = trial.state.name.lower()
    return "unfinished" if state in ("running", "waiting") else str(state)


def _results(targets: Sequence[Target]) -> Iterator[dict[str, Any]]:
    """Yield what a search has found, as `roadmap.report.tuning` writes it."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    evaluator = FanovaImportanceEvaluator(seed=0)  # the default of some versions has another meaning
    for target in targets:
        trials = target.study.get_trials(deepcopy=False)
        completed = [t for t in trials if t.state is TrialState.COMPLETE and not t.user_attrs.get("diverged")]
        best = max(completed, key=lambda trial: trial.value, default=None)
        states = Counter(_state(trial) for trial in trials)
        enough = len({trial.value for trial in completed}) > 1
        yield {
            "step": target.name,
            "states": {state: states[state] for state in sorted(states)},
            "best": best.user_attrs["values"] if best is not None else None,
            "value": best.value if best is not None else None,
            "importances": dict(get_param_importances(target.study, evaluator=evaluator)) if enough else {},
            "trials": [
                {"trial": t.number + 1, "state": _state(t), "top1": t.value} | t.user_attrs.get("values", {})
                for t in trials
            ],
        }
