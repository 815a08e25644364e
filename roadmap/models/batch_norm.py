"""BatchNorm over groups of a batch: `recipe.norm_batch_size` images, however many processes share the batch.

A large batch is usually trained on several GPUs, each of which normalizes its own images. The groups give the same
statistics in one process ("ghost batches": Hoffer et al., "Train longer, generalize better", NeurIPS 2017), in several
processes with whole groups each, and in several processes that share a group.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadmap.config.schema import NetworkSpec, SpecError
from roadmap.runtime.distributed import all_reduce_sum


def use_norm_groups(model: nn.Module, num_groups: int, is_shared: bool) -> NormGroups:
    """Let every BatchNorm of `model`, in place, normalize the groups of a batch. Parameters and buffers stay.

    `num_groups` is that of the whole batch, and `is_shared` tells whether a group has images in several processes.
    A single group needs only layers of torch: BatchNorm2d in one process, SyncBatchNorm in several on CUDA.
    """
    if num_groups == 1 and is_shared and next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    elif num_groups > 1 or is_shared:
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = GroupedBatchNorm2d
    return NormGroups(model, num_groups, is_shared)


def check_batch_norms(model: nn.Module, spec: NetworkSpec, num_groups: int, num_parts: int) -> None:
    """Raise SpecError if layers of the user would normalize over other images than the run asks for.

    `num_groups` and `num_parts` say in how many groups and in how many parts, on all processes, a batch is computed.
    Only `torch.nn.BatchNorm2d` in a network with norm=batch_norm follows them.
    """
    if num_groups == num_parts == 1 or not spec.user_classes:
        return
    for module in model.modules():
        is_grouped = type(module) is nn.BatchNorm2d and spec.has_batch_norm
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not is_grouped:
            field, path = next(iter(spec.user_classes.items()))
            problem = f"its {type(module).__name__} cannot normalize over groups or parts of a batch"
            advice = "use network.norm=batch_norm with torch.nn.BatchNorm2d"
            alternative = "recipe.norm_batch_size=null, accumulate=1 and one process"
            raise SpecError(f"{field}={path}: {problem}; {advice}, or {alternative}")


class NormGroups:
    """The groups of the part of a batch that the next forward pass normalizes, and their statistics.

    All grouped layers of a network share one object; without such layers it does nothing.
    """

    def __init__(self, model: nn.Module, num_groups: int, is_shared: bool) -> None:
        """See `use_norm_groups`."""
        self.num_groups, self.is_shared = num_groups, is_shared
        self.numbers: list[int] = []
        self.sizes: list[int] = []
        self.layers = [module for module in model.modules() if isinstance(module, GroupedBatchNorm2d)]
        self._widths = [layer.num_features for layer in self.layers for _ in ("mean", "variance")]
        # Of all layers, in one tensor, so that few operations suffice: a row for each group of a part of the batch.
        # Rows are counted from 0 in each part; with other rows, torch.compile would compile each part.
        rows = 1 if is_shared else num_groups
        self._statistics = torch.zeros(rows, sum(self._widths), device=next(model.parameters()).device)
        parts = self._statistics.split(self._widths, dim=1)
        for layer, mean, variance in zip(self.layers, parts[::2], parts[1::2], strict=True):
            layer.groups, layer.means, layer.variances = self, mean, variance
        self._sums = torch.zeros_like(self._statistics[0])  # over the groups of the parts before this one
        self._count = 0  # groups in these sums

    def select(self, groups: list[tuple[int, int]]) -> None:
        """Set the groups of the next forward pass: (number, images in this process), in the order of its images."""
        self._add_statistics()
        self.numbers, self.sizes = [number for number, _ in groups], [size for _, size in groups]

    def update_running_statistics(self) -> None:
        """Move the running statistics, once in a training iteration, towards the mean over all groups."""
        if not self.layers:
            return
        self._add_statistics()
        count = torch.full_like(self._sums[:1], self._count)
        sums = torch.cat([self._sums, count])  # so that one all-reduce suffices
        if not self.is_shared:
            sums = all_reduce_sum(sums)
        sums /= sums[-1].clone()
        *means, _ = sums.split([*self._widths, 1])
        for layer, mean, variance in zip(self.layers, means[::2], means[1::2], strict=True):
            layer.update_running_statistics(mean, variance)
        self._sums.zero_()
        self._count = 0

    def _add_statistics(self) -> None:
        """Add the statistics of the last part to the sums."""
        if not self.layers or not self.sizes:
            return
        num_rows = 1 if self.is_shared else len(self.sizes)
        for row in self._statistics[:num_rows]:
            self._sums += row
        self._count += num_rows
        self._statistics.zero_()
        self.numbers.clear()
        self.sizes.clear()


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with the statistics of each group of images: (N, C, H, W) -> (N, C, H, W).

    In training, `NormGroups.select` must describe the images before each forward pass. Outside of training, it is
    torch's BatchNorm2d, whose parameters and buffers it has.
    """

    groups: NormGroups
    means: Tensor  # (groups, C), of this iteration; one row of sums if a group has images in several processes
    variances: Tensor  # (groups, C), unbiased

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        return self._over_processes(input) if self.groups.is_shared else self._in_this_process(input)

    def _in_this_process(self, input: Tensor) -> Tensor:
        normalized = []
        for row, images in enumerate(input.split(self.groups.sizes)):
            # With a momentum of 1 it leaves the statistics of these images in `mean` and `variance`.
            mean, variance = self.means[row], self.variances[row]
            normalized.append(F.batch_norm(images, mean, variance, self.weight, self.bias, True, 1.0, self.eps))
        return normalized[0] if len(normalized) == 1 else torch.cat(normalized)

    def _over_processes(self, input: Tensor) -> Tensor:
        groups = self.groups
        images = input.float().split(groups.sizes)
        count = self._sum_over_processes([x.new_full((1,), x.numel() / x.shape[1]) for x in images]).clamp(min=1)
        mean = self._sum_over_processes([x.sum((0, 2, 3)) for x in images]) / count
        centred = [x - mean[group, :, None, None] for group, x in zip(groups.numbers, images, strict=True)]
        variance = self._sum_over_processes([x.square().sum((0, 2, 3)) for x in centred]) / count
        with torch.no_grad():
            self.means[0] += mean.mean(0)
            self.variances[0] += (variance * count / (count - 1).clamp(min=1)).mean(0)
        scale = self.weight * (variance + self.eps).rsqrt()
        scaled = [x * scale[group, :, None, None] for group, x in zip(groups.numbers, centred, strict=True)]
        return (torch.cat(scaled) + self.bias[:, None, None]).to(input.dtype)

    def _sum_over_processes(self, parts: list[Tensor]) -> Tensor:
        """Return the sums (groups, C) of the parts (C,) of each group, over all processes."""
        sums = list(parts[0].new_zeros(self.groups.num_groups, len(parts[0])))
        for group, part in zip(self.groups.numbers, parts, strict=True):
            sums[group] = part
        return _AllReduceSum.apply(torch.stack(sums))

    def update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards `mean` (C,) and `variance` (C,)."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _AllReduceSum(torch.autograd.Function):
    """`all_reduce_sum` with gradients: the part of each process changes the loss of all processes."""

    @staticmethod
    def forward(_: Any, part: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        return all_reduce_sum(part.clone())

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        return all_reduce_sum(gradient.clone())
