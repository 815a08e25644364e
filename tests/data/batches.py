"""Batches of a composed run, and their comparison."""

from __future__ import annotations

import torch

from roadmap.config.schema import RunSpec
from roadmap.data import datasets
from roadmap.data.images import Batch
from roadmap.data.loaders import train_loader
from roadmap.data.sampling import BatchSplit

CPU = torch.device("cpu")


def train_batches(spec: RunSpec, epoch: int, workers: int = 0, start: int = 0, size: int = 32) -> list[Batch]:
    """Return the training batches of an epoch, from iteration `start` on, in one process."""
    train, _ = datasets.load(spec.data, spec.budget)
    return list(train_loader(train, spec, BatchSplit(size), workers, CPU).epoch(epoch, start))


def same_batches(batches: list[Batch], others: list[Batch]) -> bool:
    return len(batches) == len(others) and all(
        torch.equal(x, y) for a, b in zip(batches, others, strict=True) for x, y in zip(a[:4], b[:4], strict=True)
    )
