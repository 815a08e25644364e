"""The network as a training iteration calls it: compiled, and over several processes."""

from __future__ import annotations

import inspect
import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# The name of DDP's option for buffers in each forward pass; the second one is that of older versions of torch.
_OPTIONS = inspect.signature(DistributedDataParallel).parameters
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"


class ForwardPass:
    """Calls the network: images (N,C,H,W) -> logits (N,K). Several processes average their gradients (DDP)."""

    def __init__(self, model: nn.Module, num_processes: int, compiled: bool, num_parts: int) -> None:
        """`num_parts` is the number of parts of a batch whose gradients are summed before an update."""
        self.ddp: DistributedDataParallel | None = None
        if num_processes > 1:
            # A weight with a side of one pixel or channel has several sets of strides for the same layout.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            # Each process computes the same running statistics of BatchNorm: `NormGroups.update_running_statistics`.
            self.ddp = DistributedDataParallel(model, **{SYNC_BUFFERS: False})  # type: ignore[arg-type]
        self.module: nn.Module = self.ddp or model
        if compiled:
            mode = compile_mode(next(model.parameters()).device, num_parts)
            self.module = torch.compile(self.module, mode=mode)  # type: ignore[assignment]

    def __call__(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(images)
        return logits

    def without_averaging(self) -> AbstractContextManager[None]:
        """Return the context for all parts of a batch but the last: their gradients stay in this process."""
        return nullcontext() if self.ddp is None else self.ddp.no_sync()


def compile_mode(device: torch.device, num_parts: int) -> str:
    """Return torch.compile's mode: CUDA graphs for a batch of one part.

    A CUDA graph writes its outputs to the same memory each time, so the results of a part are lost when the next part
    starts (pytorch/pytorch#169545).
    """
    return "reduce-overhead" if device.type == "cuda" and num_parts == 1 else "default"
