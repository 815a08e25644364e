"""A network on the test set: top-1, top-5, loss, and for each image whether it was right."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from roadmap.config.schema import OnError
from roadmap.data.images import Batch, readable
from roadmap.runtime import distributed
from roadmap.runtime.signals import StopRequest
from roadmap.training.device import DeviceConfig
from roadmap.training.recipe import BatchAugment

CHANCE_LEVEL = 0.01  # one-sided: a network that guesses passes for a trained one once in a hundred times


class DivergedError(Exception):
    """The loss is no longer a finite number, or the trained network guesses."""


@dataclass
class Evaluation:
    top1: float  # percent
    top5: float  # percent; of fewer than five classes: the best of all of them
    loss: float  # cross entropy, nats per image
    correct: np.ndarray  # bool (N,), in the order of the test set, unreadable images left out
    most_frequent: float  # share of the most frequent class
    unreadable: list[str]  # the images that were left out: path and reason


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    augment: BatchAugment,
    place: DeviceConfig,
    on_error: OnError,
    stop: StopRequest | None = None,
) -> Evaluation | None:
    """Top-1, top-5 and loss over all of `batches`, each image once; with several processes, over the shares of all.

    None where `stop` asked for an end before it was reached. Raises DivergedError on a non-finite loss and
    BadImageError on an unreadable image that may not be left out.
    """
    model.eval()
    chunks: list[tuple[Tensor, Tensor, Tensor]] = []  # index, label, best guess right?
    sums = torch.zeros(2, device=place.device, dtype=torch.float64 if place.device.type != "mps" else torch.float32)
    errors: list[str] = []
    for batch in batches:
        if stop and distributed.world_size() == 1:
            return None
        errors += readable(batch, on_error).unreadable
        images = augment.normalize(batch.images).contiguous(memory_format=torch.channels_last)
        labels = batch.labels.to(place.device, non_blocking=True)
        with place.autocast():
            logits = model(images)
        logits = logits.float()
        hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        sums += torch.stack([F.cross_entropy(logits, labels, reduction="sum"), hits.sum()])
        chunks.append((batch.indices, labels, hits[:, 0]))
    mine = [torch.cat(parts).cpu().numpy() for parts in zip(*chunks, strict=True)] or [np.empty(0, np.int64)] * 3
    found = distributed.all_gather((mine, errors))
    index, labels, correct = (np.concatenate([parts[i] for parts, _ in found]) for i in range(3))
    loss, best5 = (distributed.all_reduce_sum(sums) / len(index)).tolist()
    if not math.isfinite(loss):
        raise DivergedError(f"the test loss is {loss}")
    correct = correct[np.argsort(index)].astype(bool)
    frequent = float(np.bincount(labels).max() / len(labels))
    unreadable = [error for _, errors in found for error in errors]
    return Evaluation(100 * float(correct.mean()), 100 * best5, loss, correct, frequent, unreadable)


def check_above_chance(evaluation: Evaluation) -> None:
    """Raise DivergedError where the network is not better than one that always says the most frequent class (one-sided
    exact binomial test at 1 %)."""
    count, chance = len(evaluation.correct), evaluation.most_frequent
    right = int(evaluation.correct.sum())
    if chance < 1 and stats.binomtest(right, count, chance, "greater").pvalue > CHANCE_LEVEL:
        what = f"top-1 of {evaluation.top1:.2f} % is not above the {100 * chance:.2f} % of always saying one class"
        raise DivergedError(f"{what}; if that is all it could learn, set budget.allow_chance=true")
