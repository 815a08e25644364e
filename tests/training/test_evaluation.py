"""Evaluation: top-1, top-5, loss, and what counts as chance."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from roadmap.config.choices import Device, Precision
from roadmap.config.compose import compose
from roadmap.config.schedule import Schedule
from roadmap.data.images import Batch
from roadmap.models.drop_path import DropPath
from roadmap.runtime.signals import StopRequest
from roadmap.training.device import choose_device
from roadmap.training.evaluation import DivergedError, Evaluation, check_above_chance, evaluate, evaluated_epochs
from roadmap.training.recipe import BatchAugment


def test_evaluation_equals_a_count_by_hand() -> None:
    """Four images, six classes: logits in, top-1, top-5 and loss out."""
    spec = compose("+step=baseline")
    logits = torch.tensor([[9.0, 0, 0, 0, 0, -9], [0, 9, 0, 0, 0, -9], [0, 0, 0, 0, 9, -9], [0, 0, 0, 9, 0, -9]])
    labels = torch.tensor([0, 1, 5, 0])

    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return logits[: len(x)]

    device_config = choose_device(Device.cpu, Precision.fp32)
    batches = [Batch(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), labels, torch.arange(4), torch.arange(4))]
    augment = BatchAugment(spec, device_config.device)
    evaluation = evaluate(Fixed(), batches, augment, device_config, spec.data.on_error)
    assert evaluation is not None
    assert evaluation.correct.tolist() == [True, True, False, False]
    assert (evaluation.top1, evaluation.top5) == (50, 75)
    assert evaluation.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-6)


def test_evaluation_is_not_in_training_mode() -> None:
    """BatchNorm uses its running statistics and does not change them; stochastic depth drops no branch."""
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(1)
    model = torch.nn.Sequential(norm, DropPath(0.9), torch.nn.Flatten(), torch.nn.Linear(64, 6)).train()
    norm.running_mean = torch.tensor([0.7])
    spec, device_config = compose("+step=baseline"), choose_device(Device.cpu, Precision.fp32)
    images = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8)
    augment = BatchAugment(spec, device_config.device)
    with torch.no_grad():
        labels = copy.deepcopy(model).eval()(augment.normalize(images)).argmax(1)
    batches = [Batch(images[i : i + 8], labels[i : i + 8], torch.arange(i, i + 8), torch.arange(8)) for i in (0, 8, 16)]
    evaluation = evaluate(model, batches, augment, device_config, spec.data.on_error)
    assert evaluation is not None and evaluation.top1 == 100
    assert torch.equal(norm.running_mean, torch.tensor([0.7]))


def test_results_of_several_processes_are_in_the_order_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has the images 0 and 2, classified correctly; the other has 3 and 1."""

    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not torch.is_grad_enabled()
            return torch.eye(6)[: len(x)]

    def gather(own: Any) -> list[Any]:
        return [([np.array([3, 1]), np.array([4, 4]), np.array([False, True])], ["an error"]), own]

    monkeypatch.setattr("roadmap.runtime.distributed.all_gather", gather)
    spec, device_config = compose("+step=baseline"), choose_device(Device.cpu, Precision.fp32)
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    batches = [Batch(images, torch.tensor([0, 1]), torch.tensor([0, 2]), torch.arange(2))]
    augment = BatchAugment(spec, device_config.device)
    evaluation = evaluate(Fixed(), batches, augment, device_config, spec.data.on_error)
    assert evaluation is not None
    assert evaluation.correct.tolist() == [True, True, True, False] and evaluation.top1 == 75
    without_images = evaluate(Fixed(), [], augment, device_config, spec.data.on_error)
    assert without_images is not None and without_images.correct.tolist() == [True, False]
    assert evaluation.most_frequent == 0.5 and evaluation.unreadable == ["an error"]


def test_a_signal_ends_an_evaluation() -> None:
    spec, device_config, stop = compose("+step=baseline"), choose_device(Device.cpu, Precision.fp32), StopRequest()
    stop.reason = "SIGTERM"
    batch = Batch(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), torch.arange(2), torch.arange(2))
    augment = BatchAugment(spec, device_config.device)
    assert evaluate(torch.nn.Identity(), [batch], augment, device_config, spec.data.on_error, stop) is None


@pytest.mark.parametrize(("num_correct", "diverged"), [(100, True), (110, True), (125, False), (900, False)])
def test_a_network_at_chance_has_diverged(num_correct: int, diverged: bool) -> None:
    """Of 1,000 images in ten equal classes, 99 % of guessing networks classify at most 122 correctly."""
    correct = np.arange(1000) < num_correct
    evaluation = Evaluation(num_correct / 10, 50.0, 2.3, correct, 0.1, [])
    message = r"is not better than predicting the majority class \(10.00 %\); .* budget.allow_chance=true"
    with pytest.raises(DivergedError, match=message) if diverged else nullcontext():
        check_above_chance(evaluation)


@pytest.mark.parametrize(
    ("epochs", "evaluations", "expected"), [(10, 10, range(1, 11)), (10, 3, [4, 7, 10]), (2, 10, [1, 2])]
)
def test_the_last_epoch_is_always_evaluated(epochs: int, evaluations: int, expected: Iterable[int]) -> None:
    assert evaluated_epochs(Schedule(epochs, 1, 0.1, 1, 0, 0), evaluations) == set(expected)
