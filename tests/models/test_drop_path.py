"""Stochastic depth: what it does to a block, and draws that depend on the position in the global batch."""

from __future__ import annotations

from typing import Any

import pytest
import timm.layers
import torch
from torch import nn

from roadmap.models.drop_path import Dropout, DropPath, draw_masks, replace_timm_drop_path
from roadmap.models.network import Network
from tests.models.specs import TINY, network_spec


def test_a_dropped_branch_leaves_the_shortcut() -> None:
    """In training, a block whose branch is dropped is the identity."""
    spec = network_spec("separate_downsampling", **TINY, drop_path=0.9, layer_scale=1.0)
    network: Any = Network(spec).train()
    block = network.stages[3].blocks[0]
    torch.manual_seed(0)
    x = torch.randn(64, 64, 2, 2)
    unchanged = (block(x) == x).flatten(1).all(1).float().mean()
    assert 0.7 < unchanged < 1.0
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_the_mean_of_a_branch_does_not_change(rate: float) -> None:
    """Kept branches are multiplied by 1 / (1 - rate), with and without drawn masks."""
    layer, x = DropPath(rate).train(), torch.ones(4000, 1)
    torch.manual_seed(0)
    for drawn in (False, True):
        if drawn:
            draw_masks(nn.Sequential(nn.Linear(1, 1), layer), 0, 0, 0, torch.arange(len(x)))
        result = layer(x)
        assert result.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
        assert float(result.mean()) == pytest.approx(1, abs=4 * (rate / (1 - rate) / len(x)) ** 0.5)


def masks(model: nn.Module, positions: torch.Tensor, epoch: int = 1, iteration: int = 7) -> list[torch.Tensor]:
    draw_masks(model, 3, epoch, iteration, positions)
    return [m.factor.clone() for m in model.modules() if isinstance(m, DropPath) and m.factor is not None]


def test_two_processes_draw_what_one_process_draws() -> None:
    model = nn.Sequential(nn.Linear(1, 1), DropPath(0.5), DropPath(0.25))
    whole = masks(model, torch.arange(64))
    halves = [masks(model, positions) for positions in torch.arange(64).chunk(2)]
    for i, mask in enumerate(whole):
        assert torch.equal(mask, torch.cat([half[i] for half in halves]))
    assert set(whole[0].tolist()) == {0.0, 2.0}
    assert not torch.equal(whole[0] > 0, whole[1] > 0)
    for changed in ({"epoch": 2}, {"iteration": 8}):
        assert not torch.equal(whole[0], masks(model, torch.arange(64), **changed)[0])


def test_the_masks_of_each_iteration_are_in_the_same_memory() -> None:
    """A CUDA graph reads its inputs where they were when it was recorded."""
    model = nn.Sequential(nn.Linear(1, 1), DropPath(0.5), DropPath(0.25))
    places = []
    for iteration in range(2):
        draw_masks(model, 0, 0, iteration, torch.arange(8))
        layers = [layer for layer in model if isinstance(layer, DropPath)]
        places.append([layer.factor.data_ptr() for layer in layers if layer.factor is not None])
    assert places[0] == places[1]
    assert len(set(places[0])) == 2
    assert "masks" not in model.state_dict()


def test_drawn_masks_hold_for_one_forward_pass() -> None:
    layer = DropPath(0.5).train()
    layer.factor = torch.tensor([0.0, 2.0])
    x = torch.ones(2, 3, 1, 1)
    assert layer(x).flatten(1).tolist() == [[0.0] * 3, [2.0] * 3]
    assert layer.factor is None
    assert torch.equal(layer.eval()(x), x)


def test_timm_layers_are_replaced() -> None:
    model: Any = replace_timm_drop_path(nn.Sequential(nn.Identity(), nn.Sequential(timm.layers.DropPath(0.3))))
    layer = model[1][0]
    assert isinstance(layer, DropPath) and layer.rate == 0.3


def dropout_mask(layer: Dropout, positions: torch.Tensor, epoch: int = 1, iteration: int = 7) -> torch.Tensor:
    draw_masks(nn.Sequential(nn.Linear(1, 1), layer), 3, epoch, iteration, positions)
    assert layer.factor is not None
    return layer.factor.clone()


def test_dropout_keeps_the_mean_and_does_nothing_in_evaluation() -> None:
    layer, x = Dropout(0.25, 50).train(), torch.ones(400, 50)
    torch.manual_seed(0)
    for drawn in (False, True):
        if drawn:
            dropout_mask(layer, torch.arange(400))
        result = layer(x)
        assert result.unique().tolist() == pytest.approx([0, 4 / 3])
        assert float(result.mean()) == pytest.approx(1, abs=4 * (1 / 3 / x.numel()) ** 0.5)
    assert layer.eval()(x) is x


def test_dropout_depends_on_the_position_in_the_batch() -> None:
    layer = Dropout(0.5, 8)
    whole = dropout_mask(layer, torch.arange(64))
    halves = [dropout_mask(layer, positions) for positions in torch.arange(64).chunk(2)]
    assert torch.equal(whole, torch.cat(halves))
    assert torch.equal(whole, dropout_mask(layer, torch.arange(64)))
    for changed in ({"epoch": 2}, {"iteration": 8}):
        assert not torch.equal(whole, dropout_mask(layer, torch.arange(64), **changed))


def test_dropout_acts_on_the_features_before_the_classifier() -> None:
    network = Network(network_spec("separate_downsampling", **TINY, dropout=0.5)).train()
    features: list[torch.Tensor] = []

    def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        features.append(inputs[0])

    network.head.register_forward_pre_hook(keep)
    network(torch.randn(4, 3, 32, 32))
    assert 0.3 < (features[0] == 0).float().mean() < 0.7
