"""torch.compile reads each network as one graph, and keeps it from one training iteration to the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import roadmap
from roadmap.models import drop_path
from roadmap.models.batch_norm import use_norm_groups
from roadmap.models.network import build_network


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("step", "num_groups", "bf16"),
    [("baseline", 2, False), ("fewer_activations", 1, True), ("separate_downsampling", 1, True), ("grn", 1, False)],
)
def test_a_network_is_one_graph_in_all_iterations(step: str, num_groups: int, bf16: bool) -> None:
    """Whole graphs have no Python between them, and their kernels can be fused across layers.

    The groups of BatchNorm are those of the two parts of a batch in turn."""
    spec = roadmap.compose(
        f"+step={step}", "data=fashion_mnist", "base=pico", "base.drop_path=0.5", "base.depths=[1,1,2,1]"
    ).network
    torch.manual_seed(0)
    model = build_network(spec, 32).train()
    groups = use_norm_groups(model, num_groups, is_shared=False)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images = torch.randn(8, spec.in_chans, 32, 32)
    for iteration in range(3):
        results = []
        for network in (model, compiled):
            drop_path.draw_masks(model, 0, 0, iteration, torch.arange(8))
            first = num_groups * (iteration % 2)
            groups.select([(first + i, 8 // num_groups) for i in range(num_groups)])
            with (
                torch.autocast("cpu", torch.bfloat16, enabled=bf16),
                torch._dynamo.config.patch(error_on_recompile=iteration > 0),
            ):
                results.append(network(images))
        assert torch.equal(*results)
