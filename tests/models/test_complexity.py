"""Counted costs: parameters, multiply-adds, activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from roadmap.models.complexity import Cost, measure_cost, measure_module
from tests.models.specs import TINY, network_spec


@pytest.mark.parametrize(
    ("step", "params"), [("baseline", 25_557_032), ("separate_downsampling", 28_589_128), ("grn", 28_635_496)]
)
def test_known_networks_have_the_published_number_of_parameters(step: str, params: int) -> None:
    assert measure_cost(network_spec(step), 224).params == params


def test_costs_of_a_small_module_are_those_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
    macs = 16 * 8 * 3 * 9 + 8 * 16 * 10
    params = 8 * 3 * 9 + 8 + 8 * 16 * 10 + 10
    assert measure_module(model, torch.empty(1, 3, 4, 4)) == Cost(params, macs / 1e9, 8 * 16 + 10)


def test_costs_do_not_depend_on_the_device() -> None:
    from roadmap.models.network import Network

    spec = network_spec("grn", **TINY)
    assert measure_module(Network(spec).eval(), torch.zeros(1, 3, 64, 64)).params == measure_cost(spec, 64).params
