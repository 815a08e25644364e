"""Training: golden losses, learning, torch.compile, accumulation."""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from roadmap.config.choices import Device, Precision
from roadmap.config.compose import compose
from roadmap.models.batch_norm import use_norm_groups
from roadmap.runtime.world import World
from roadmap.training import recipe
from roadmap.training.device import DeviceConfig, choose_device
from roadmap.training.evaluation import DivergedError
from roadmap.training.forward import ForwardPass
from roadmap.training.metrics import Metrics
from roadmap.training.trainer import Trainer
from tests.conftest import TINY


def train(*overrides: str, precision: Precision = Precision.fp32) -> Metrics:
    """Train without checkpoints and return what was measured."""
    metrics = Metrics()
    Trainer(compose(*overrides), choose_device(Device.cpu, precision), metrics).train()
    return metrics


def test_one_epoch_has_the_golden_loss(golden: Callable[[str, Any], Any]) -> None:
    """If this fails after a change that should not affect training, find the cause. If the change should alter
    training, say so in CHANGELOG.md, raise `FORMAT` of the record and run `pytest --regenerate-goldens`."""
    losses = {}
    for step in ("baseline", "training_recipe", "increase_width", "separate_downsampling", "grn"):
        metrics = train(f"+step={step}", *TINY, "budget.train_images=64", "budget.regularization=1", "precision=fp32")
        losses[step] = metrics.curve[0]["train_loss"]
    assert losses == pytest.approx(golden("losses", losses), rel=1e-5)


def test_the_learning_rate_changes_in_each_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update uses the rate of its own iteration, and a checkpoint's record has the last one."""
    spec = compose("+step=training_recipe", *TINY, "budget.epochs=4", "precision=fp32")
    trainer = Trainer(spec, choose_device(Device.cpu, Precision.fp32), Metrics())
    used: list[float] = []
    update = trainer.optimizer.step

    def step() -> None:
        used.append(trainer.optimizer.param_groups[0]["lr"])
        update()

    monkeypatch.setattr(trainer.optimizer, "step", step)
    trainer.train()
    assert len(used) == 4 * trainer.iterations_per_epoch and len(set(used)) == len(used)
    for iteration, rate in enumerate(used):
        assert rate == recipe.learning_rate(spec.recipe, trainer.schedule, trainer.iterations_per_epoch, iteration)


@pytest.mark.slow
def test_training_learns() -> None:
    metrics = train(
        "+step=separate_downsampling", "budget.epochs=6", "budget.regularization=0", precision=Precision.auto
    )
    assert metrics.evaluation is not None and metrics.evaluation.top1 > 80
    assert metrics.curve[-1]["train_loss"] < metrics.curve[0]["train_loss"]  # type: ignore[operator]


def test_an_accelerator_is_waited_for_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is read after three of the four iterations of an epoch, and after the last. The curve is the same."""
    overrides = ("+step=training_recipe", *TINY, "budget.epochs=2", "precision=fp32")
    checked = []
    mean_loss = Trainer._mean_loss

    def spy(trainer: Trainer) -> float:
        checked.append((trainer.epoch, trainer.iteration))
        return mean_loss(trainer)

    monkeypatch.setattr(Trainer, "_mean_loss", spy)
    curves = []
    for interval, iterations in ((1, (1, 2, 3, 4)), (3, (3, 4))):
        checked.clear()
        monkeypatch.setattr(DeviceConfig, "check_interval", interval)
        curves.append(train(*overrides).curve)
        positions = [(epoch, iteration) for epoch in range(2) for iteration in iterations]
        assert list(dict.fromkeys(checked)) == positions
    assert curves[0] == curves[1]


@pytest.mark.parametrize("interval", [1, 3])
def test_the_first_iteration_with_a_bad_loss_is_named(interval: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss_of, count = recipe.training_loss, 0

    def bad_from_the_tenth_on(*arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        return loss_of(*arguments) * (math.inf if count >= 10 else 1)

    monkeypatch.setattr(recipe, "training_loss", bad_from_the_tenth_on)
    monkeypatch.setattr(DeviceConfig, "check_interval", interval)
    with pytest.raises(DivergedError, match="the loss is (inf|nan) at epoch 3, iteration 2"):
        train("+step=training_recipe", *TINY, "budget.epochs=3")


def test_large_gradients_are_not_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper clips no gradients. The first update of SGD is the rate times the gradient."""
    loss_of = recipe.training_loss
    monkeypatch.setattr(recipe, "training_loss", lambda *arguments: 1e3 * loss_of(*arguments))  # pyrefly: ignore
    spec = compose("+step=baseline", *TINY, "precision=fp32", "recipe.weight_decay=0")
    trainer = Trainer(spec, choose_device(Device.cpu, Precision.fp32), Metrics())
    forward = trainer.wrap_model()
    weight = trainer.model.get_parameter("head.weight")
    before = weight.detach().clone()
    gradients: list[torch.Tensor] = []
    weight.register_post_accumulate_grad_hook(lambda parameter: gradients.append(parameter.grad.clone()))  # type: ignore[union-attr]
    trainer.train_iteration(forward, trainer.train_batches.epoch(0, 0))
    (gradient,) = gradients
    assert gradient.norm() > 100
    torch.testing.assert_close(weight.detach(), before - trainer.schedule.lr * gradient)


@pytest.mark.parametrize(("title", "start"), [("gelu seed=0", "gelu seed=0 on cpu"), ("", "  on cpu")])
def test_messages_begin_with_the_title(title: str, start: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = compose("+step=training_recipe", *TINY)
    Trainer(spec, choose_device(Device.cpu, Precision.fp32), Metrics(), title)
    assert capsys.readouterr().out.startswith(start)


def test_checkpoints_are_saved_after_a_number_of_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[int, int]] = []

    def save(trainer: Trainer) -> None:
        saved.append((trainer.epoch, trainer.iteration))

    monkeypatch.setattr(Trainer, "save", save)
    train("+step=training_recipe", *TINY, "budget.epochs=3", "checkpoint_steps=3")
    assert saved == [(0, 3), (1, 2), (2, 1), (2, 4)]  # of 4 iterations in each epoch


def test_the_first_iteration_of_a_compiled_network_is_timed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(1000, 10)
    times = SimpleNamespace(perf_counter=lambda: float(next(clock)), monotonic=time.monotonic)
    monkeypatch.setattr("roadmap.training.trainer.time", times)

    def not_compiled(model: torch.nn.Module, mode: str) -> torch.nn.Module:
        return model

    monkeypatch.setattr(torch, "compile", not_compiled)
    assert train("+step=training_recipe", *TINY, "compile=true").compile_seconds == 10


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore::Warning")  # of torch's own compiler
def test_a_compiled_network_learns_the_same() -> None:
    overrides = ("+step=gelu", *TINY, "precision=fp32", "network.drop_path=0.3")
    plain, compiled = (train(*overrides, f"compile={compiled}") for compiled in ("false", "true"))
    assert plain.curve[0] == pytest.approx(compiled.curve[0], rel=1e-3)
    assert plain.compile_seconds is None and compiled.compile_seconds is not None


@pytest.mark.parametrize("rank", [0, 1])
def test_the_throughput_of_a_process_counts_the_images_of_all(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three groups of BatchNorm are divided among two processes as two and one: their parts are unequal."""
    monkeypatch.setattr("roadmap.training.trainer.current_world", lambda: World(rank, 2, rank))
    overrides = ("budget.train_images=96", "budget.batch_size=96", "recipe.norm_batch_size=32")
    spec = compose("+step=baseline", *TINY, *overrides)
    trainer = Trainer(spec, choose_device(Device.cpu, Precision.fp32), Metrics())
    trainer.norm_groups = use_norm_groups(trainer.model, 3, is_shared=False)
    forward = ForwardPass(trainer.model, num_processes=1, compiled=False, num_parts=1)
    trainer.train_iteration(forward, trainer.train_batches.epoch(0, 0))
    assert len(trainer.split.parts[0]) == (32 if rank else 64)
    assert trainer.metrics.train_images == 96


@pytest.mark.parametrize(("step", "count"), [("gelu", 4), ("layer_norm", 3), ("separate_downsampling", 3)])
def test_accumulation_makes_the_same_updates(step: str, count: int) -> None:
    """With Mixup and, for `gelu`, with BatchNorm over groups of 8 images."""
    overrides = (*TINY, "budget.epochs=2", "budget.regularization=1", "network.drop_path=0.3", "precision=fp32")
    groups = ("recipe.norm_batch_size=8", "recipe.mix_batch_size=16")
    whole, parts = (train(f"+step={step}", *overrides, *groups, f"accumulate={parts}") for parts in (1, count))
    for row, expected in zip(parts.curve, whole.curve, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
