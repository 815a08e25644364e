"""What trackers get of a run: its points and its results, from the files in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadmap.records.history import read_history, read_iterations

# Result of a tracker -> path in the record.
RESULTS = {
    "final/top1": "top1", "final/top5": "top5", "final/loss": "loss", "final/ema_top1": "ema.top1",
    "cost/params": "params", "cost/gmacs": "gmacs", "cost/wall_seconds": "wall_seconds",
    "cost/train_seconds": "train_seconds", "cost/images_per_second": "images_per_second",
    "cost/peak_memory_mib": "peak_memory_mib",
}  # fmt: skip
ITERATION_VALUES = {"train/loss": "loss", "train/lr": "lr", "train/images_per_second": "images_per_second"}
EPOCH_VALUES = {"epoch/train_loss": "train_loss", "epoch/test_top1": "test_top1", "epoch/test_loss": "test_loss"}


@dataclass(frozen=True)
class Run:
    """A run as trackers name and group it."""

    folder: str  # of its files
    name: str  # of this folder, unique
    study: str
    step: str
    label: str
    seed: int
    setting: str  # overrides that distinguish it in its study
    config: dict[str, Any]  # nested, as in the record
    command: str

    @property
    def title(self) -> str:
        """Name for a reader, such as `gelu budget.epochs=3 seed=0`."""
        return " ".join(filter(None, [self.step, self.setting, f"seed={self.seed}"]))


@dataclass(frozen=True)
class Point:
    """Values of a run after `iteration` training iterations (from 1), or after as many epochs if it has no
    iterations.csv, which older versions did not write."""

    iteration: int
    values: dict[str, float]


def read_points(folder: Path, record: Mapping[str, Any] | None) -> list[Point]:
    """Return the points of a run so far, in order; `record` is its record if it has ended.

    A later call returns the same points first, and new ones after them, unless the run is resumed from an earlier
    position.
    """
    iterations = read_iterations(folder)  # before the epochs: those that these iterations follow are then complete
    epochs: list[Mapping[str, Any]] = list(record["curve"]) if record is not None else list(read_history(folder))
    last_of_epoch = {int(row["epoch"]): int(row["iteration"]) for row in iterations}
    points = {int(row["iteration"]): _values(row, ITERATION_VALUES) for row in iterations}
    for row in epochs:
        epoch = int(row["epoch"])
        if iterations and epoch not in last_of_epoch:  # not read yet
            continue
        points.setdefault(last_of_epoch.get(epoch, epoch), {}).update({"epoch": epoch} | _values(row, EPOCH_VALUES))
    return [Point(iteration, points[iteration]) for iteration in sorted(points)]


def _values(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    return {name: float(row[key]) for name, key in names.items() if row.get(key) not in (None, "")}


def read_results(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the results of a finished run."""
    found: dict[str, float] = {}
    for name, path in RESULTS.items():
        value: Any = record
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            found[name] = float(value)
    return found


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the fields of a nested config by their path, such as `recipe.lr`. `transforms` are names alone."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = prefix + key
        if path == "transforms":
            flat[path] = ",".join(value)
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat
