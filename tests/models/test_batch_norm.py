"""BatchNorm over groups of a batch, in one process and in several."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from roadmap.config.choices import Device
from roadmap.data.sampling import BatchSplit
from roadmap.models.batch_norm import GroupedBatchNorm2d, use_norm_groups
from roadmap.runtime import distributed
from roadmap.runtime.world import SINGLE_PROCESS, World
from tests.helpers import run_processes, set_rank


def layer_and_images(batch_size: int) -> tuple[nn.Sequential, Tensor]:
    """Return a network of one BatchNorm, whose parameters and running statistics are random, and images."""
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(3)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.uniform_(0.5, 2, generator=generator)
    images = torch.randn(batch_size, 3, 2, 2, generator=generator)
    return nn.Sequential(norm), images * torch.arange(1, batch_size + 1).view(-1, 1, 1, 1)


def results_of_groups(batch_size: int, sizes: list[int]) -> dict[str, Tensor]:
    """Return what an iteration with torch's BatchNorm2d on each group separately gives."""
    model, images = layer_and_images(batch_size)
    norm = model[0]
    images.requires_grad_()
    copies = [copy.deepcopy(norm) for _ in sizes]
    outputs = torch.cat([one(group) for one, group in zip(copies, images.split(sizes), strict=True)])
    outputs.pow(3).sum().backward()
    assert images.grad is not None
    results = {"outputs": outputs.detach(), "images.grad": images.grad}
    for name in ("weight", "bias"):
        results[f"{name}.grad"] = torch.stack([getattr(one, name).grad for one in copies]).sum(0)
    for name in ("running_mean", "running_var"):
        results[name] = torch.stack([getattr(one, name) for one in copies]).mean(0)
    return results


def results_of_split(split: BatchSplit) -> dict[str, Tensor]:
    """Return the same from an iteration of our BatchNorm in the process of `split`, summed over its parts."""
    model, images = layer_and_images(split.batch_size)
    groups = use_norm_groups(model, split.num_norm_groups, split.shares_norm_groups)
    outputs: list[Tensor] = []
    gradients: list[Any] = []
    for part in split.parts:
        groups.select(split.norm_groups(part))
        own = images[part].requires_grad_()
        outputs.append(model(own))
        outputs[-1].pow(3).sum().backward()
        gradients.append(own.grad)
    groups.update_running_statistics()
    norm: Any = model[0]
    assert norm.num_batches_tracked == 1
    results = {"outputs": torch.cat(outputs).detach(), "images.grad": torch.cat(gradients)}
    results |= {"weight.grad": norm.weight.grad, "bias.grad": norm.bias.grad}
    return results | {name: getattr(norm, name) for name in ("running_mean", "running_var")}


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "norm_batch_size", "sizes"),
    [(12, 1, 4, [4, 4, 4]), (12, 3, 4, [4, 4, 4]), (12, 2, 4, [4, 4, 4]), (14, 1, 4, [4, 4, 4, 2]), (8, 1, None, [8])],
)
def test_each_group_is_normalized_by_itself(
    batch_size: int, accumulate: int, norm_batch_size: int | None, sizes: list[int]
) -> None:
    split = BatchSplit(batch_size, SINGLE_PROCESS, accumulate, norm_batch_size, batch_norm=True)
    expected = results_of_groups(batch_size, sizes)
    for name, value in results_of_split(split).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5, msg=name)


def test_two_iterations_count_each_group_once() -> None:
    model, images = layer_and_images(8)
    groups = use_norm_groups(model, 2, is_shared=False)
    norm: Any = model[0]
    expected = norm.running_mean.clone()
    for batch in (images, 2 * images):
        groups.select([(0, 4), (1, 4)])
        model(batch)
        groups.update_running_statistics()
        expected.lerp_(batch.mean((0, 2, 3)), 0.1)
    torch.testing.assert_close(norm.running_mean, expected)
    model.eval()
    plain = nn.BatchNorm2d(3)
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(model(images), plain.eval()(images))


def check_split(rank: int, port: int, size: int, norm_batch_size: int | None, expected: dict[str, Tensor]) -> None:
    """Run as one of `size` processes: compare its images, and the sums over all processes."""
    set_rank(rank, port, size)
    with distributed.process_group("norms", Device.cpu):
        split = BatchSplit(12, World(rank, size), 1, norm_batch_size, batch_norm=True)
        results = results_of_split(split)
        (part,) = split.parts
        for name in ("outputs", "images.grad"):
            torch.testing.assert_close(results[name], expected[name][part], rtol=1e-4, atol=1e-4, msg=name)
        for name in ("weight.grad", "bias.grad"):
            total = distributed.all_reduce_sum(results[name].clone())
            torch.testing.assert_close(total, expected[name], rtol=1e-4, atol=1e-3, msg=name)
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(results[name], expected[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("size", "norm_batch_size", "sizes"),
    [
        pytest.param(2, 4, [4, 4, 4], id="whole groups, of one process two"),
        pytest.param(2, None, [12], id="one group"),
        pytest.param(3, 6, [6, 6], id="groups across processes", marks=pytest.mark.slow),
    ],
)
def test_processes_have_the_statistics_of_one(size: int, norm_batch_size: int | None, sizes: list[int]) -> None:
    run_processes(check_split, size, norm_batch_size, results_of_groups(12, sizes), exit_codes=[0] * size)


def test_networks_keep_torchs_layers_where_they_suffice() -> None:
    """Fake tensors behave as on CUDA, without a GPU."""
    for is_shared, num_groups in itertools.product((False, True), (1, 2)):
        with FakeTensorMode(), torch.device("cuda"):
            model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            use_norm_groups(model, num_groups, is_shared)
        expected = nn.SyncBatchNorm if is_shared else nn.BatchNorm2d
        assert type(model[1]) is (expected if num_groups == 1 else GroupedBatchNorm2d)
        assert set(model.state_dict()) == set(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).state_dict())
