"""The sweeper that Hydra uses for this project, `hydra/sweeper=roadmap`; the work is done in `roadmap.sweep`."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RoadmapSweeper(Sweeper):
    """All combinations of the swept overrides, composed and checked before the first run starts."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.composed, self.config_loader = config, hydra_context.config_loader

    def sweep(self, arguments: list[str]) -> None:
        """Train and report all runs that `arguments` (overrides) ask for. Raises RunFailed if one did not complete."""
        from roadmap.sweep.sweeper import sweep  # imported here: Hydra loads this module in every application

        params = [f"{key}={value}" for key, value in self.params.items()]
        sweep(self.composed, self.config_loader, [*params, *arguments])


# `params` is what a study sweeps over: override -> values.
CONFIG = {"_target_": "hydra_plugins.roadmap.sweeper.RoadmapSweeper", "params": None}
ConfigStore.instance().store(group="hydra/sweeper", name="roadmap", node=CONFIG, provider="roadmap")
