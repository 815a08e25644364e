"""What a run measures while it trains."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from roadmap.training.evaluation import Evaluation


@dataclass
class Metrics:
    """What came of a run, as far as it got."""

    curve: list[dict[str, float | int | None]] = field(default_factory=list)  # one row per epoch
    evaluation: Evaluation | None = None
    train_seconds: float = 0.0
    train_images: int = 0
    compile_seconds: float | None = None
    device: str = ""
    precision: str = ""
    threads: int = 0
    processes: int = 1
    peak_memory_mib: float = 0.0
    unreadable: list[str] = field(default_factory=list)  # training images that were left out
    earlier_seconds: float = 0.0  # wall clock of the sessions before this one
    began: float = field(default_factory=time.time)

    @property
    def wall_seconds(self) -> float:
        """Of all sessions; what a killed one did after its last checkpoint does not count."""
        return self.earlier_seconds + time.time() - self.began

    @property
    def images_per_second(self) -> float | None:
        """Training throughput: loading, augmentation, forward, backward and the optimizer's step."""
        return self.train_images / self.train_seconds if self.train_seconds > 0 else None

    def place(self) -> str:
        return f"{self.processes} processes of {self.threads} threads on {self.device} in {self.precision}"

    def measured(self) -> dict[str, Any]:
        """The part of the record that is known after the run."""
        evaluation = self.evaluation
        place = {"name": self.device, "precision": self.precision, "threads": self.threads}
        skipped = {"train": self.unreadable, "test": evaluation.unreadable if evaluation else []}
        return {
            "top1": evaluation.top1 if evaluation else None,
            "top5": evaluation.top5 if evaluation else None,
            "loss": evaluation.loss if evaluation else None,
            "num_test": len(evaluation.correct) if evaluation else None,
            "curve": self.curve,
            "images_per_second": self.images_per_second,
            "train_seconds": self.train_seconds,
            "compile_seconds": self.compile_seconds,
            "peak_memory_mib": self.peak_memory_mib,
            "device": place | {"processes": self.processes},
            "unreadable": skipped,
        }
