"""Evaluation of a network on the test set: top-1, top-5, loss, and whether each image was classified correctly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import bdtrc
from torch import Tensor, nn

from roadmap.config.choices import OnError
from roadmap.config.schedule import Schedule
from roadmap.data.images import Batch, readable
from roadmap.runtime import distributed
from roadmap.runtime.signals import StopRequest
from roadmap.training.device import DeviceConfig
from roadmap.training.recipe import BatchAugment

CHANCE_LEVEL = 0.01  # one-sided: one in a hundred networks that guess passes for a trained one


class DivergedError(Exception):
    """The loss is not a finite number, or the trained network is not better than chance."""


@dataclass
class Evaluation:
    """The results on the test set."""

    top1: float  # percent
    top5: float  # percent; with fewer than five classes, all classes count
    loss: float  # cross entropy, nats per image
    correct: np.ndarray  # bool (N,), in the order of the test set, without unreadable images
    most_frequent: float  # share of the most frequent class
    unreadable: list[str]  # skipped images: path and reason


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    augment: BatchAugment,
    device_config: DeviceConfig,
    on_error: OnError,
    stop: StopRequest | None = None,
    collect: Callable[[Tensor, Tensor], None] | None = None,
) -> Evaluation | None:
    """Return top-1, top-5 and loss over all of `batches`, with several processes over all their shares.

    `collect` is called with the logits, float32 (N, K), and the labels (N,) of each batch.

    Returns None if `stop` is set before the end (one process only). Raises DivergedError on a non-finite loss and
    BadImageError on an unreadable image that may not be skipped.
    """
    model.eval()
    chunks: list[tuple[Tensor, Tensor, Tensor]] = []  # index, label, whether the prediction is correct
    dtype = torch.float64 if device_config.device.type != "mps" else torch.float32
    sums = torch.zeros(2, device=device_config.device, dtype=dtype)  # loss, images whose label is in the top 5
    errors: list[str] = []
    for batch in batches:
        if stop and distributed.world_size() == 1:
            return None
        errors += readable(batch, on_error).unreadable
        images = augment.normalize(batch.images).contiguous(memory_format=torch.channels_last)
        labels = batch.labels.to(device_config.device, non_blocking=True)
        with device_config.autocast():
            logits = model(images)
        logits = logits.float()
        if collect is not None:
            collect(logits, labels)
        hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        sums += torch.stack([F.cross_entropy(logits, labels, reduction="sum"), hits.sum()])
        chunks.append((batch.indices, labels, hits[:, 0]))
    own = [torch.cat(parts).cpu().numpy() for parts in zip(*chunks, strict=True)] or [np.empty(0, np.int64)] * 3
    gathered = distributed.all_gather((own, errors))
    index, labels, correct = (np.concatenate([arrays[i] for arrays, _ in gathered]) for i in range(3))
    loss, top5 = (distributed.all_reduce_sum(sums) / len(index)).tolist()
    if not math.isfinite(loss):
        raise DivergedError(f"the test loss is {loss}")
    correct = correct[np.argsort(index)].astype(bool)
    most_frequent = float(np.bincount(labels).max() / len(labels))
    unreadable = [error for _, errors in gathered for error in errors]
    return Evaluation(100 * float(correct.mean()), 100 * top5, loss, correct, most_frequent, unreadable)


def evaluated_epochs(schedule: Schedule, evaluations: int) -> set[int]:
    """Return the epochs, from 1, after which the test set is evaluated: evenly spread, always with the last one."""
    return {math.ceil((i + 1) * schedule.epochs / evaluations) for i in range(evaluations)}


def check_above_chance(evaluation: Evaluation) -> None:
    """Raise DivergedError if the network is not better than predicting the majority class (one-sided exact binomial
    test at 1 %)."""
    num_images, chance = len(evaluation.correct), evaluation.most_frequent
    num_correct = int(evaluation.correct.sum())
    # bdtrc(k - 1, n, p) is P(X >= k). scipy.stats has this test too, but its import takes 0.8 s of each process.
    if chance < 1 and bdtrc(num_correct - 1, num_images, chance) > CHANCE_LEVEL:
        message = f"top-1 of {evaluation.top1:.2f} % is not better than predicting the majority class"
        hint = "if that is expected, set budget.allow_chance=true"
        raise DivergedError(f"{message} ({100 * chance:.2f} %); {hint}")
