"""Where a run computes and in which arithmetic."""

from __future__ import annotations

import os
import platform
import resource
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from roadmap.config.schema import Device, Precision, SpecError
from roadmap.models import cpu_kernels
from roadmap.runtime.system import cpu_name


@dataclass(frozen=True)
class DeviceConfig:
    device: torch.device
    precision: Precision  # fp32 or bf16
    reason: str  # for the precision

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision is Precision.bf16)

    def synchronize(self) -> None:
        """Wait until all work is done, so that a clock tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def peak_memory_mib(self) -> float:
        """Of the accelerator's memory, as PyTorch took it; on a CPU of the process, all libraries included."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory() / 2**20
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

    def name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        return cpu_name() if self.device.type == "cpu" else platform.processor()

    def __str__(self) -> str:
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{self.device.type} ({self.name()}{threads}), {self.precision.value} ({self.reason})"


def choose_device(wanted: Device, precision: Precision) -> DeviceConfig:
    """The place for `device=` and `precision=`; `auto` takes CUDA, then MPS, then the CPU. Raises SpecError where the
    device is not there."""
    available = {
        Device.cuda: torch.cuda.is_available(),
        Device.mps: torch.backends.mps.is_available(),
        Device.cpu: True,
    }
    if wanted is Device.auto:
        wanted = next(device for device, there in available.items() if there)
    if not available[wanted]:
        raise SpecError(f"device={wanted.value}: PyTorch finds no such device here; use device=auto")
    device = torch.device(wanted.value)
    if precision is not Precision.auto:
        return DeviceConfig(device, precision, "as asked")
    return DeviceConfig(device, *_precision(device))


def _precision(device: torch.device) -> tuple[Precision, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision.bf16, "this GPU computes in it"
        return Precision.fp32, "this GPU has no bf16"
    if device.type == "cpu":
        unit = cpu_bf16_unit()
        return (Precision.bf16, f"processor has {unit}") if unit else (Precision.fp32, "processor has no bf16")
    return Precision.fp32, "default on MPS"


def cpu_bf16_unit() -> str | None:
    """The unit of this processor that multiplies bf16 matrices, if any."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None


def set_global_switches(place: DeviceConfig, deterministic: bool, fast_kernels: bool) -> None:
    """Set the global switches of this process: TF32 on, deterministic algorithms and our CPU kernels if asked for."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its sums only with this
    torch.use_deterministic_algorithms(deterministic)
    cpu_kernels.enable(fast_kernels)
    if place.device.type == "cpu":
        cpu_kernels.keep_memory()
    elif place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
