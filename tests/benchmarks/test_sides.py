"""Both sides of a benchmark can do training iterations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.sides import Case, Flags, TimmTraining, our_training
from roadmap.models import cpu_kernels
from tests.conftest import TINY

CASE = Case("a case", ("+step=separate_downsampling", *TINY, "budget.train_images=16", "budget.batch_size=8"))


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    yield
    cpu_kernels.enable(True)


@pytest.mark.parametrize("part", ["all", "load", "train"])
def test_our_side_trains_a_batch_in_each_iteration(part: str) -> None:
    iteration = our_training(CASE, part)
    assert [iteration() for _ in range(3)] == [8, 8, 8]  # the third one is of the second epoch


def test_the_side_of_timm_trains_a_batch_in_each_iteration() -> None:
    training = TimmTraining(CASE, Flags(bf16=False, workers=0))
    assert [training() for _ in range(3)] == [8, 8, 8]
    assert 0 <= training.accuracy() <= 100
