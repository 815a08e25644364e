"""How many runs train at once on this machine, and on which devices."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from roadmap.config.choices import Device
from roadmap.runtime import system
from roadmap.runtime.system import Resources
from roadmap.runtime.world import is_distributed
from roadmap.sweep.planned_run import PlannedRun

# Device files in /dev that exist where a driver of NVIDIA, of AMD, or of Windows under WSL is loaded.
GPU_DEVICE_FILES = ("nvidia[0-9]*", "kfd", "dxg")


class Placement(NamedTuple):
    """Where the runs of a sweep train on this machine."""

    num_parallel: int  # runs at once
    num_threads: int | None  # CPU threads of each run; None: PyTorch's own default
    num_gpus: int  # the runs are distributed over these GPUs; 0: none is used
    num_ranks: int = 1  # processes that train each run together

    @property
    def num_groups(self) -> int:
        """Number of groups of GPUs, each of which trains a run; 0 without GPUs."""
        return self.num_gpus // self.num_ranks

    @property
    def resources(self) -> Resources:
        """The part of the machine for each run: the cores, and the memory of the device, are divided evenly."""
        runs_per_device = math.ceil(self.num_parallel / max(1, self.num_groups))
        return Resources(max(1, system.num_cores() // self.num_parallel), 1 / runs_per_device)

    def __str__(self) -> str:
        threads = f", {self.num_threads} CPU threads each" if self.num_threads else ""
        gpus = f", distributed over {self.num_gpus} GPUs" if self.num_gpus > 1 else ""
        ranks = f", {self.num_ranks} processes each" if self.num_ranks > 1 else ""
        return f"{self.num_parallel} runs at once{ranks}{threads}{gpus} (parallel=N sets another number)"


def choose_placement(runs: Sequence[PlannedRun]) -> Placement:
    """Return how many of `runs` train at once, and where.

    Networks for small images gain more from several processes than from several threads: on two cores, two processes
    of one thread train 1.2 to 1.9 times as many images/s as one process of two threads (`python -m benchmarks timm`).
    A GPU takes one run; `sweep.gpu_sharing` may add others. The number of threads does not depend on how many runs are
    left, so that a resumed run computes with as many threads as before.
    """
    requested, num_ranks = runs[0].spec.parallel, runs[0].spec.processes or 1
    if is_distributed():  # the processes of torchrun train each run together
        return Placement(1, None, 0)
    num_gpus = 0 if all(run.spec.device is Device.cpu for run in runs) else count_gpus()
    if num_gpus:
        return Placement(requested or max(1, num_gpus // num_ranks), None, num_gpus, num_ranks)
    num_cores = system.num_cores()
    small = all(run.spec.data.small_images and run.spec.device is not Device.mps for run in runs)
    if requested is None and (not small or _has_mps()):
        return Placement(1, None, 0, num_ranks)
    num_parallel = requested or max(1, num_cores // num_ranks)
    return Placement(num_parallel, max(1, num_cores // num_parallel), 0, num_ranks)


def place_alone(run: PlannedRun) -> Placement:
    """Return where a run trains that no other run shares this machine with: on all cores, or on one GPU per process."""
    num_ranks = run.spec.processes or 1
    has_gpu = run.spec.device is not Device.cpu and count_gpus() > 0
    return Placement(1, None, num_ranks if has_gpu else 0, num_ranks)


def count_gpus() -> int:
    """Return the number of GPUs that this process may use; imports torch only on machines with GPUs."""
    if sys.platform == "linux" and not any(next(Path("/dev").glob(name), None) for name in GPU_DEVICE_FILES):
        return 0  # known without importing torch
    import torch

    # CUDA shows a process only the first of several MIG slices. Each run is a process, and can have a slice of its own.
    slices = _visible_slices()
    return len(slices) if slices and torch.cuda.is_available() else torch.cuda.device_count()


def has_slices() -> bool:
    """Return whether the GPUs that this process may use are slices (MIG)."""
    return bool(_visible_slices())


def _visible_slices() -> set[str]:
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return {name for name in names if name.startswith("MIG-")}


def _has_mps() -> bool:
    if sys.platform != "darwin":
        return False
    import torch

    return torch.backends.mps.is_available()
