"""One network of a search (`+study=tune`), and what the search has found."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadmap.config.tuned import BEST_NAME, to_overrides
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

    @property
    def name(self) -> str:
        """Name in messages and files: the network and its setting."""
        return " ".join([self.run.spec.name, *self.run.setting])

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
    best = {result["step"]: result["best"] for result in found if result["best"] is not None}
    to.mkdir(parents=True, exist_ok=True)
    write_atomically(to / BEST_NAME, (json.dumps(best, indent=1) + "\n").encode())
    for result, target in zip(found, targets, strict=True):
        states = ", ".join(f"{count} {state}" for state, count in result["states"].items())
        logger.info(f"{target.name}: {states}")
        if result["best"] is not None:
            dropped = ("data.holdout=", "study=", "tune.")
            overrides = [o for o in target.run.overrides if not o.lstrip("+~").startswith(dropped)]
            command = shlex.join(["python", "run_roadmap.py", *overrides, *to_overrides(result["best"])])
            logger.info(f"  best held-out top-1 {result['value']:.2f} %: {command}")
    paths = write_tuning(found, to)
    logger.info("report:\n" + "\n".join(f"  {path}" for path in [to / BEST_NAME, *paths]))
    if without := [result["step"] for result in found if result["best"] is None]:
        raise RunFailed(f"{', '.join(without)}: no trial completed; the log of each run shows the reason")


def _results(targets: Sequence[Target]) -> Iterator[dict[str, Any]]:
    """Yield what a search has found, as `roadmap.report.tuning` writes it."""
    from optuna.importance import get_param_importances
    from optuna.trial import TrialState

    for target in targets:
        trials = target.study.get_trials(deepcopy=False)
        completed = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        best = max(completed, key=lambda trial: trial.value, default=None)
        states: dict[str, int] = {}
        for trial in trials:
            states[trial.state.name.lower()] = states.get(trial.state.name.lower(), 0) + 1
        enough = len({trial.value for trial in completed}) > 1
        yield {
            "step": target.name,
            "states": states,
            "best": best.user_attrs["values"] if best is not None else None,
            "value": best.value if best is not None else None,
            "importances": dict(get_param_importances(target.study)) if enough else {},
            "trials": [
                {"trial": t.number + 1, "state": t.state.name.lower(), "top1": t.value} | t.user_attrs.get("values", {})
                for t in trials
            ],
        }
