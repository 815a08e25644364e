"""The networks of a search (`+study=search`): their runs, costs and labels."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, TypeVar

from roadmap.analysis.racing import Candidate
from roadmap.config.choices import Design, Failures
from roadmap.config.designs import Layout, overrides_of
from roadmap.config.names import one_line
from roadmap.config.roadmaps import Roadmap
from roadmap.config.schema import RunSpec, SpecError
from roadmap.records.manifest import add_runs
from roadmap.records.record import finished_record, run_name
from roadmap.runtime.logs import logger
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.plan import Composer
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.preparation import runs_to_do
from roadmap.sweep.scheduler import run_locally
from roadmap.sweep.sweeper import raise_for_failures

FIRST_FRESH_SEED = 100  # of the confirmation; the race uses seeds from 0
RACE, FOUND = "race", "found"  # ends of the names of the studies with the race and with the found roadmap
DROPPED = ("data.holdout=", "study=", "search.", "design.", "seed=")  # overrides that belong to the search
Key = TypeVar("Key")


@dataclass
class Candidates:
    """The networks of a search: their runs, costs and labels."""

    base: PlannedRun  # of the command, without a network
    composer: Composer
    roadmap: Roadmap
    start: Candidate
    full: Candidate
    pool: ProcessPoolExecutor  # that counts costs, so that this process does not import torch
    max_macs: float | None = None
    macs_of: dict[Candidate, float | None] = field(default_factory=dict)  # None: the network is impossible
    slow: set[Candidate] = field(default_factory=set)  # those with a run below search.min_images_per_second

    @property
    def race_study(self) -> str:
        """Name of the study with the runs of the race."""
        return f"{self.base.spec.study}-{RACE}"

    @property
    def found_study(self) -> str:
        """Name of the study with the steps of the found roadmap."""
        return f"{self.base.spec.study}-{FOUND}"

    @property
    def fresh_seeds(self) -> range:
        """Seeds of the confirmation; the race does not use them."""
        return range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + self.base.spec.search.confirm_seeds)

    def names(self, candidate: Candidate) -> list[str]:
        """Return the transforms of a candidate in the order of the roadmap."""
        return self.roadmap.sort(candidate)

    def label(self, candidate: Candidate) -> str:
        """Return the label of a candidate's network."""
        return self.roadmap.network_label(self.names(candidate))

    def run(
        self, candidate: Candidate, seed: int, holdout: int | None, study: str, design: Design = Design.search_race
    ) -> PlannedRun:
        """Return the run of a candidate in a study, on held-out images, or without `holdout` on the test set."""
        overrides = [*overrides_of(self.names(candidate), self.roadmap), *own_overrides(self.base), f"seed={seed}"]
        overrides.append(f"data.holdout={'null' if holdout is None else holdout}")  # also over a config's own value
        spec = self.composer.compose(overrides)
        spec.study, spec.design.name = study, design
        return PlannedRun(spec, [*overrides, f"study={study}"], (), self.base.folders)

    def settings(self, holdout: int) -> str:
        """Return the names of a run of each end; they contain the hash of everything that decides the results."""
        ends = (self.start, self.full)
        return " ".join(run_name(self.run(end, 0, holdout, self.race_study).spec) for end in ends)

    def macs(self, candidate: Candidate) -> float | None:
        """Return the multiply-adds of one image, None if the network is impossible."""
        if candidate not in self.macs_of:
            self.macs_of[candidate] = self._count(candidate)
        return self.macs_of[candidate]

    def _count(self, candidate: Candidate) -> float | None:
        try:
            spec = self.run(candidate, 0, None, self.base.spec.study).spec
            return self.pool.submit(_count_macs, spec).result()
        except SpecError:
            return None
        except BrokenProcessPool:
            raise
        except Exception as error:  # of a class of the user
            logger.warning(one_line(f"{self.label(candidate)}: left out ({type(error).__name__}: {error})"))
            return None

    def is_possible(self, candidate: Candidate) -> bool:
        """Return whether the network can be built, is within the bound on its multiply-adds, and has no slow run."""
        macs = self.macs(candidate)
        return macs is not None and (self.max_macs is None or macs <= self.max_macs) and candidate not in self.slow

    def train(self, runs: dict[Key, PlannedRun]) -> dict[Key, dict[str, Any]]:
        """Train the runs of the race that are not finished, and return the records of the finished ones.

        Raises RunFailed if all of them failed and there are several, or, with failures=stop, if one failed or diverged.
        """
        planned = list(runs.values())
        left = runs_to_do(planned)  # before anything is written
        add_runs([(run.spec, run.overrides) for run in planned], Layout())
        not_ended = run_locally(left) if left else {}
        if self.base.spec.failures is Failures.stop:
            raise_for_failures([run.spec for run in left], {}, not_ended)
        records = {key: finished_record(run.spec) for key, run in runs.items()}
        if len(runs) > 1 and not any(records.values()):
            titles, message = ", ".join(run.title for run in planned), "failed; their logs say why"
            raise RunFailed(f"{self.race_study}: {titles}: {message}, and the same command trains them again")
        return {key: record for key, record in records.items() if record is not None}


def own_overrides(run: PlannedRun) -> list[str]:
    """Return the overrides of the command without those of the search, its images, seeds and study."""
    return [override for override in run.overrides if not override.lstrip("+~").startswith(DROPPED)]


def _count_macs(spec: RunSpec) -> float:
    from roadmap.models.complexity import measure_cost

    return 1e9 * measure_cost(spec.network, spec.data.image_size).gmacs
