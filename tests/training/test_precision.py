"""Precision of a run: the choice for a device, and the scaled loss of fp16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from roadmap.config.choices import Device, Precision
from roadmap.config.compose import compose
from roadmap.training.device import choose_device
from roadmap.training.metrics import Metrics
from roadmap.training.trainer import Trainer
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("has_bf16", "expected", "reason"),
    [(True, Precision.bf16, "GPU has bf16"), (False, Precision.fp16, "GPU has no bf16")],
)
def test_a_gpu_without_bf16_computes_in_fp16(
    has_bf16: bool, expected: Precision, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A T4 or V100 has fast units for fp16 only. Emulated bf16 is slower than fp32."""

    def is_supported(*, including_emulation: bool) -> bool:
        return has_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    device_config = choose_device(Device.auto, Precision.auto)
    assert (device_config.precision, device_config.reason) == (expected, reason)
    requested = choose_device(Device.auto, Precision.fp32)
    assert (requested.precision, requested.reason) == (Precision.fp32, "as requested")


def new_trainer(precision: Precision, *overrides: str) -> Trainer:
    spec = compose("+step=gelu", *TINY, "budget.epochs=2", "budget.equal_epochs=true", *overrides)
    return Trainer(spec, choose_device(Device.cpu, precision), Metrics())


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_only_fp16_scales_the_loss(precision: Precision) -> None:
    assert not new_trainer(precision).scaler.is_enabled()


def test_a_scaled_loss_gives_the_same_training() -> None:
    """The scale is a power of two, so that the gradients of bf16 are the same bit by bit."""
    plain, scaled = new_trainer(Precision.bf16), new_trainer(Precision.bf16)
    scaled.scaler = torch.amp.GradScaler("cpu")
    plain.train()
    scaled.train()
    assert scaled.metrics.curve == plain.metrics.curve
    for tensor, expected in zip(scaled.model.state_dict().values(), plain.model.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected)


def test_an_update_with_gradients_that_overflow_is_skipped() -> None:
    trainer = new_trainer(Precision.fp16)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    forward = trainer.wrap_model()
    batches = trainer.augment.augment_in_chunks(trainer.train_batches.epoch(0, 0), 0)
    trainer.model.train()
    trainer.iteration = 1  # the rate of the first iteration is 0
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train_iteration(forward, batches)
    assert all(map(torch.equal, before, trainer.model.parameters()))
    assert trainer.scaler.get_scale() == 2.0**126
    assert trainer.loss_sum.isfinite()  # the run has not diverged
    trainer.scaler.update(2.0**10)
    trainer.train_iteration(forward, batches)
    assert not any(map(torch.equal, before, trainer.model.parameters()))


def test_the_state_of_the_scaler_is_in_the_checkpoint(tmp_path: Path) -> None:
    """A resumed run skips the same updates as an uninterrupted one."""
    trainer = new_trainer(Precision.fp16)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3)
    trainer.train()
    with trainer._checkpoints_in(tmp_path):
        trainer.save()
    resumed = new_trainer(Precision.fp16)
    resumed.resume(tmp_path)
    state = trainer.scaler.state_dict()
    assert state["scale"] != 2.0**20 and resumed.scaler.state_dict() == state


def test_a_checkpoint_without_a_scale_can_be_resumed_in_fp16(tmp_path: Path) -> None:
    trainer = new_trainer(Precision.fp32)
    with trainer._checkpoints_in(tmp_path):
        trainer.save()
    resumed = new_trainer(Precision.fp16)
    resumed.resume(tmp_path)
    assert resumed.scaler.get_scale() == 2.0**16  # torch's initial value
