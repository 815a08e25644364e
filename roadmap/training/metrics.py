"""Measurements of a run during training, and what of them the record and the checkpoint contain."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch

from roadmap.runtime.gpus import model_flops_utilization
from roadmap.training.evaluation import Evaluation

NOT_IN_OUTCOME = ("evaluation", "ema_evaluation", "started")  # fields that the checkpoint's "outcome" does not contain
CONTINUED = ("curve", "train_seconds", "train_images", "unreadable", "earlier_seconds", "evaluation", "ema_evaluation")


@dataclass
class Metrics:
    """What a run has measured so far.

    The names of the fields, except `NOT_IN_OUTCOME`, are keys in checkpoints.
    """

    curve: list[dict[str, float | int | None]] = field(default_factory=list)  # one row per epoch
    evaluation: Evaluation | None = None  # the last one
    ema_evaluation: Evaluation | None = None  # the last one of the moving average of the weights
    train_seconds: float = 0.0
    train_images: int = 0
    compile_seconds: float | None = None
    device: str = ""
    precision: str = ""
    threads: int = 0
    processes: int = 1
    accumulate: int = 1
    peak_memory_mib: float | None = 0.0
    unreadable: list[str] = field(default_factory=list)  # training images that were skipped: path and reason
    earlier_seconds: float = 0.0  # wall time of this run before it was resumed
    started: float = field(default_factory=time.monotonic)  # not affected by changes of the system clock

    @property
    def wall_seconds(self) -> float:
        """Wall time of the run, including the time before it was resumed. What a killed process did after its last
        checkpoint does not count."""
        return self.earlier_seconds + time.monotonic() - self.started

    @property
    def images_per_second(self) -> float | None:
        """Training throughput: loading, augmentation, forward, backward and optimizer update."""
        return self.train_images / self.train_seconds if self.train_seconds > 0 else None

    @property
    def images_per_second_per_device(self) -> float | None:
        """Training throughput of each process, which has a device of its own."""
        return self.images_per_second / self.processes if self.images_per_second is not None else None

    def hardware(self) -> str:
        """Describe the device, precision, number of processes and threads, and parts of a batch."""
        processes = f"{self.processes} processes with {self.threads} threads each"
        return f"{processes}, {self.device}, {self.precision}, accumulate={self.accumulate}"

    def record_fields(self, gmacs: float | None = None) -> dict[str, Any]:
        """Return the fields of the record that are known after the run; `gmacs` are those of a forward pass."""
        evaluation, average = self.evaluation, self.ema_evaluation
        per_device, utilization = self.images_per_second_per_device, None
        if per_device is not None and gmacs is not None:
            utilization = model_flops_utilization(per_device, gmacs, self.device, self.precision)
        return {
            "ema": {"top1": average.top1, "top5": average.top5, "loss": average.loss} if average else None,
            "top1": evaluation.top1 if evaluation else None,
            "top5": evaluation.top5 if evaluation else None,
            "loss": evaluation.loss if evaluation else None,
            "num_test": len(evaluation.correct) if evaluation else None,
            "curve": self.curve,
            "images_per_second": self.images_per_second,
            "images_per_second_per_device": per_device,
            "model_flops_utilization": utilization,
            "train_seconds": self.train_seconds,
            "compile_seconds": self.compile_seconds,
            "peak_memory_mib": self.peak_memory_mib,
            "device": {
                "name": self.device,
                "precision": self.precision,
                "threads": self.threads,
                "processes": self.processes,
                "accumulate": self.accumulate,
            },
            "unreadable": {"train": self.unreadable, "test": evaluation.unreadable if evaluation else []},
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the part of a checkpoint that holds these measurements, as plain values and tensors.

        The keys "outcome" and "evaluation" are older than the names in this class. They stay, so that checkpoints of
        earlier versions remain readable.
        """
        outcome = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in NOT_IN_OUTCOME}
        outcome["earlier_seconds"] = self.wall_seconds
        evaluations = {"evaluation": self.evaluation, "ema_evaluation": self.ema_evaluation}
        return {"outcome": outcome} | {name: _to_plain(evaluation) for name, evaluation in evaluations.items()}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Metrics:
        """Return the measurements in a checkpoint. Raises KeyError or TypeError if its keys are others."""
        metrics = cls(**state["outcome"])
        metrics.evaluation = _to_evaluation(state["evaluation"])
        metrics.ema_evaluation = _to_evaluation(state["ema_evaluation"])
        return metrics

    def continue_from(self, earlier: Metrics) -> None:
        """Take over the results and sums of a checkpoint, but not its device, precision, threads and processes."""
        for name in CONTINUED:
            setattr(self, name, getattr(earlier, name))


def _to_plain(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    return asdict(evaluation) | {"correct": torch.from_numpy(evaluation.correct)}


def _to_evaluation(values: dict[str, Any] | None) -> Evaluation | None:
    return None if values is None else Evaluation(**values | {"correct": np.asarray(values["correct"])})
