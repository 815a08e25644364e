"""The network as an iteration calls it: compiled, and with gradients of several parts and processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from roadmap.training.forward import ForwardPass, compile_mode
from tests.helpers import run_processes, set_rank


@pytest.mark.parametrize(
    ("device", "num_parts", "mode"),
    [("cuda", 1, "reduce-overhead"), ("cuda", 2, "default"), ("cpu", 1, "default"), ("cpu", 2, "default")],
)
def test_cuda_graphs_are_used_only_for_a_batch_of_one_part(device: str, num_parts: int, mode: str) -> None:
    assert compile_mode(torch.device(device), num_parts) == mode


def _count_averages(rank: int, port: int) -> None:
    set_rank(rank, port)
    torch.distributed.init_process_group("gloo")
    monkeypatch = pytest.MonkeyPatch()
    torch_compile: Any = torch.compile
    averages: list[int] = []
    group: Any = torch.distributed.group.WORLD

    def compile_eagerly(module: nn.Module, mode: str) -> Any:
        return torch_compile(module, backend="eager")

    def count(_state: Any, bucket: Any) -> Any:
        averages.append(bucket.index())
        return default_hooks.allreduce_hook(group, bucket)

    count.__annotations__.clear()  # DDP compares them with its own types
    monkeypatch.setattr(torch, "compile", compile_eagerly)

    for compiled in (False, True):
        model = nn.Linear(3, 2)
        forward = ForwardPass(model, num_processes=2, compiled=compiled, num_parts=2)
        assert forward.ddp is not None
        forward.ddp.register_comm_hook(None, count)
        averages.clear()
        for iteration in range(1, 4):
            with forward.without_averaging():
                forward(torch.full((4, 3), float(rank))).sum().backward()
            assert len(averages) == iteration - 1
            forward(torch.ones(4, 3)).sum().backward()
            assert len(averages) == iteration
            # 4 images: of the first part the mean of 0 and 1, of the second part 1
            expected = torch.full((2, 3), 4 * 0.5 + 4 * 1.0)
            assert model.weight.grad is not None and torch.equal(model.weight.grad, expected)
            model.zero_grad()
    torch.distributed.destroy_process_group()


def test_gradients_are_averaged_once_in_an_iteration_also_if_compiled() -> None:
    run_processes(_count_averages)
