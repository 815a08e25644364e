"""How many runs train at once on this machine, and on which devices."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from roadmap.config.schema import Device
from roadmap.runtime import system
from roadmap.runtime.progress import TEAM
from roadmap.sweep.planned_run import PlannedRun

GPU_FILES = ("nvidia[0-9]*", "kfd", "dxg")  # in /dev, where a driver of NVIDIA, AMD, or Windows below WSL is loaded


class Placement(NamedTuple):
    at_once: int
    threads: int | None  # of each run on the CPU; None: as many as PyTorch takes
    gpus: int  # runs take turns on them

    def __str__(self) -> str:
        where = f", {self.threads} CPU threads each" if self.threads else ""
        where += f", on {self.gpus} GPUs in turn" if self.gpus > 1 else ""
        return f"{self.at_once} at once{where} (parallel=N for another number)"


def choose_placement(jobs: Sequence[PlannedRun]) -> Placement:
    """How many runs at once, and where.

    Networks for small images gain more from processes than from threads: on two cores two processes of one thread
    train 1.2 to 1.9 times as many images/s as one of two (`python -m benchmarks timm`). A GPU takes one run. The
    number of threads does not depend on how many runs are left: what is resumed goes on with as many as before.
    """
    asked = jobs[0].spec.parallel
    if TEAM:  # torchrun's processes train each run together
        return Placement(1, None, 0)
    gpus = 0 if all(job.spec.device is Device.cpu for job in jobs) else _count_gpus()
    if gpus:
        return Placement(asked or gpus, None, gpus)
    cores = system.num_cores()
    small = all(job.spec.data.small_images and job.spec.device is not Device.mps for job in jobs)
    if asked is None and (not small or _has_mps()):
        return Placement(1, None, 0)
    at_once = asked or cores
    return Placement(at_once, max(1, cores // at_once), 0)


def _count_gpus() -> int:
    if sys.platform == "linux" and not any(next(Path("/dev").glob(name), None) for name in GPU_FILES):
        return 0  # known without importing torch
    import torch

    return torch.cuda.device_count()


def _has_mps() -> bool:
    if sys.platform != "darwin":
        return False
    import torch

    return torch.backends.mps.is_available()
