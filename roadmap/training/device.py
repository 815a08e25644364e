"""Device and dtype of a run, and PyTorch's global settings for it."""

from __future__ import annotations

import math
import os
import platform
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from roadmap.config.choices import Device, Precision
from roadmap.config.schema import SpecError
from roadmap.models import cpu_kernels
from roadmap.runtime.system import cpu_name, memory_bytes

AUTOCAST_DTYPES = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}


@dataclass(frozen=True)
class DeviceConfig:
    """The device and the precision that a run computes with."""

    device: torch.device
    precision: Precision  # fp32, bf16 or fp16
    reason: str  # for the precision

    @property
    def check_interval(self) -> int:
        """Iterations between two checks of the loss. A check waits for an accelerator to finish its work."""
        return 1 if self.device.type == "cpu" else 50

    def log_interval(self, iterations: int) -> int:
        """Return the number of iterations between two points of the loss: `iterations`, rounded to whole checks."""
        return max(1, iterations // self.check_interval) * self.check_interval

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the network computes in the run's precision."""
        dtype = AUTOCAST_DTYPES.get(self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Return what scales the loss, so that small gradients do not become 0 in fp16. It does nothing otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision is Precision.fp16)

    def synchronize(self) -> None:
        """Wait until the device has finished all work. Needed before a clock is read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def peak_memory_mib(self) -> float | None:
        """Return the peak of the accelerator memory that PyTorch allocated; on a CPU, the peak of the whole process,
        or None on Windows, which does not report it."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory() / 2**20
        try:
            import resource
        except ImportError:
            return None
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

    def memory_bytes(self) -> float:
        """Return the memory of the device in bytes; on a CPU, that of the machine or of the control group."""
        if self.device.type == "cuda":
            return float(torch.cuda.get_device_properties(self.device).total_memory)
        if self.device.type == "mps":
            return float(torch.mps.recommended_max_memory())
        return min((size for size in memory_bytes() if size is not None), default=math.inf)

    def name(self) -> str:
        """Return the model name of the GPU or processor."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        return cpu_name() if self.device.type == "cpu" else platform.processor()

    def __str__(self) -> str:
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{self.device.type} ({self.name()}{threads}), {self.precision.value} ({self.reason})"


def choose_device(device_choice: Device, precision: Precision) -> DeviceConfig:
    """Return the device and precision for `device=` and `precision=`.

    `device=auto` takes CUDA if available, else MPS, else the CPU. Raises SpecError if the device is not available.
    """
    available = {
        Device.cuda: torch.cuda.is_available(),
        Device.mps: torch.backends.mps.is_available(),
        Device.cpu: True,
    }
    if device_choice is Device.auto:
        device_choice = next(choice for choice, is_available in available.items() if is_available)
    if not available[device_choice]:
        raise SpecError(f"device={device_choice.value}: PyTorch finds no such device here; use device=auto")
    device = torch.device(device_choice.value)
    if precision is not Precision.auto:
        return DeviceConfig(device, precision, "as requested")
    return DeviceConfig(device, *_auto_precision(device))


def _auto_precision(device: torch.device) -> tuple[Precision, str]:
    """Return bf16 where the device has units for it, else fp16 on a GPU and fp32 elsewhere, and the reason."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision.bf16, "GPU has bf16"
        return Precision.fp16, "GPU has no bf16"
    if device.type == "cpu":
        unit = cpu_bf16_unit()
        return (Precision.bf16, f"processor has {unit}") if unit else (Precision.fp32, "processor has no bf16")
    return Precision.fp32, "default on MPS"


def cpu_bf16_unit() -> str | None:
    """Return the name of this processor's unit for bf16 matrix products, or None."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None


def configure_torch(device_config: DeviceConfig, deterministic: bool, fast_kernels: bool) -> None:
    """Set PyTorch's global settings in this process: TF32 on, deterministic algorithms and our CPU kernels if asked."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its sums only with this
    torch.use_deterministic_algorithms(deterministic)
    cpu_kernels.enable(fast_kernels)
    if device_config.device.type == "cpu":
        cpu_kernels.keep_memory()
    elif device_config.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
