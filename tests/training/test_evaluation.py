"""Evaluation: top-1, top-5, loss, and what counts as chance."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from roadmap.config.choices import Device, Precision
from roadmap.config.compose import compose
from roadmap.config.schedule import Schedule
from roadmap.data.images import Batch
from roadmap.training.device import choose_device
from roadmap.training.evaluation import DivergedError, Evaluation, check_above_chance, evaluate
from roadmap.training.recipe import BatchAugment
from roadmap.training.trainer import evaluated_epochs


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
    assert evaluated_epochs(Schedule(epochs, 1, 0.1, 0, 0), evaluations) == set(expected)
