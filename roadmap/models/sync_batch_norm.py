"""BatchNorm over the batch of all processes, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from roadmap.runtime.distributed import all_reduce_sum, world_size


class _AllReduceSum(torch.autograd.Function):
    """`all_reduce_sum` with gradients: the part of each process changes the loss of all processes."""

    @staticmethod
    def forward(_: Any, part: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        return all_reduce_sum(part.clone())

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        return all_reduce_sum(gradient.clone())


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with statistics over the images of all processes: (N, C, H, W) -> (N, C, H, W).

    torch.nn.SyncBatchNorm does not run on CPUs. This class runs on any device; gradients pass through the all-reduce.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            values = input.float()
            count = all_reduce_sum(values.new_full((1,), values.numel() / values.shape[1]))
            mean = _AllReduceSum.apply(values.sum((0, 2, 3))) / count
            centred = values - mean[:, None, None]
            variance = _AllReduceSum.apply(centred.square().sum((0, 2, 3))) / count
            self._update_running_statistics(mean.detach(), variance.detach() * count / (count - 1))
            scale = self.weight * (variance + self.eps).rsqrt()
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def use_sync_batch_norm(model: nn.Module) -> None:
    """Turn every BatchNorm of `model` into a SyncBatchNorm2d, in place. Parameters and buffers stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
