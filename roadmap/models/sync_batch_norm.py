"""BatchNorm over the batch of all processes, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from roadmap.runtime.distributed import all_reduce_sum, world_size


class _AllReduceSum(torch.autograd.Function):
    """`total` that gradients pass: each process's part of the sum moves the loss of all."""

    @staticmethod
    def forward(_: Any, part: Tensor) -> Tensor:
        return all_reduce_sum(part.clone())

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient.clone())


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the images of all processes, N,C,H,W -> N,C,H,W.

    torch.nn.SyncBatchNorm knows no CPU; this one is for any device, and differentiates through the exchange.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            count = all_reduce_sum(values.new_full((1,), values.numel() / values.shape[1]))
            mean = _AllReduceSum.apply(values.sum((0, 2, 3))) / count
            centred = values - mean[:, None, None]
            variance = _AllReduceSum.apply(centred.square().sum((0, 2, 3))) / count
            self._remember(mean.detach(), variance.detach() * count / (count - 1))
            scale = self.weight * (variance + self.eps).rsqrt()
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def use_sync_batch_norm(model: nn.Module) -> None:
    """Let every BatchNorm of `model` see the whole batch; in place, parameters and buffers stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
