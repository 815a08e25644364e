"""Train one network and evaluate its last epoch's weights on the test set. Knows nothing of steps or studies."""

from __future__ import annotations

import io
import math
import time
import traceback
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadmap import device as devices
from roadmap import recipe, record, weights
from roadmap.budget import Plan, plan
from roadmap.cost import measure
from roadmap.data import datasets
from roadmap.data.loading import TrainLoader, eval_loader, num_workers
from roadmap.network import Network
from roadmap.progress import RunProgress, say
from roadmap.seeds import derive, seed_all
from roadmap.spec import RunSpec, SpecError

CHECK_EVERY = 50  # steps between two looks at the loss on an accelerator: each look waits for it


class DivergedError(Exception):
    """The training loss is no longer a finite number."""


@dataclass
class Evaluation:
    top1: float  # percent
    top5: float  # percent; of fewer than five classes: the best of all of them
    loss: float  # cross entropy, nats per image
    correct: np.ndarray  # bool (N,), in the order of the test set


@dataclass
class Outcome:
    """What came of a run, as far as it got."""

    curve: list[dict[str, float | int | None]] = field(default_factory=list)  # one row per epoch
    evaluation: Evaluation | None = None
    train_seconds: float = 0.0
    train_images: int = 0
    device: str = ""
    precision: str = ""
    threads: int = 0
    peak_memory_mib: float = 0.0

    @property
    def images_per_second(self) -> float | None:
        """Training throughput: loading, augmentation, forward, backward and the optimizer's step."""
        return self.train_images / self.train_seconds if self.train_seconds > 0 else None


def run(spec: RunSpec, command: str = "", title: str = "") -> dict[str, Any]:
    """Run `spec`, write its record and return it; `title` stands before its lines of progress.

    A run that raises or diverges leaves a record that says so; it does not raise. Only a setting that turns out to be
    impossible raises (SpecError) before training, and a user's interrupt: then nothing is written.
    """
    folder = record.run_folder(spec)
    content = record.start(spec, command)
    started = time.time()
    content["started_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
    outcome = Outcome()
    model: nn.Module | None = None
    try:
        place = devices.choose(spec.device, spec.precision)
        content |= asdict(measure(spec.network, spec.data.image_size))
        content |= {"plan": asdict(plan(spec.recipe, spec.budget))}
        model = train(spec, place, outcome, title)
        content["status"] = record.COMPLETED
    except (SpecError, KeyboardInterrupt):
        raise
    except DivergedError as error:
        content |= {"status": record.DIVERGED, "error": str(error)}
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        content |= {"status": record.FAILED, "error": reason, "traceback": traceback.format_exc()}
    content |= _measured(outcome) | {"wall_seconds": time.time() - started}
    folder.mkdir(parents=True, exist_ok=True)
    if model is not None and outcome.evaluation is not None:
        record.write_bytes(folder / "correct.npy", _bytes(outcome.evaluation.correct))
        if spec.save_weights:
            record.write_bytes(folder / "model.pt", _bytes(model.state_dict()))
    record.write(folder, content)  # last: where it is, all is
    return content


def check(spec: RunSpec) -> None:
    """Raise SpecError where the device, the data or the weights do not fit the spec; nothing is trained or written."""
    devices.choose(spec.device, spec.precision)
    splits = datasets.load(spec.data, spec.budget)
    TrainLoader(splits.train, spec, plan(spec.recipe, spec.budget).batch_size, workers=0)
    if spec.weights is not None:
        weights.load_into(Network(spec.network), spec)


def train(spec: RunSpec, place: devices.Place, outcome: Outcome, title: str = "") -> nn.Module:
    """The trained network, on `place`; `outcome` is filled in on the way.

    Raises DivergedError where the loss is not finite, SpecError where the data or weights do not fit the spec.
    """
    devices.prepare(place, spec.deterministic)
    say(f"{title or ' '} on {place}")
    outcome.device, outcome.precision = place.name(), place.precision.value
    outcome.threads = torch.get_num_threads()
    todo = plan(spec.recipe, spec.budget)
    splits = datasets.load(spec.data, spec.budget)
    workers = num_workers(spec.data, place.device.type)
    train_batches = TrainLoader(splits.train, spec, todo.batch_size, workers)
    test_batches = eval_loader(splits.test, spec, min(2 * todo.batch_size, 512), workers)

    seed_all(derive(spec.seed, "init"))
    model: nn.Module = Network(spec.network)
    if spec.weights is not None:
        weights.load_into(model, spec)
    model = model.to(place.device, memory_format=torch.channels_last)
    steps = train_batches.steps_per_epoch
    optimizer = recipe.optimizer(model, spec.recipe, todo.lr)
    schedule = recipe.schedule(optimizer, spec.recipe, todo, steps)
    augment = recipe.BatchAugment(spec, place.device)

    with RunProgress(todo.epochs, steps, todo.batch_size, title) as progress:
        for epoch in range(todo.epochs):
            model.train()
            total = torch.zeros((), device=place.device)
            before, began = outcome.train_seconds, time.perf_counter()
            step = 0
            for step, (raw, classes) in enumerate(train_batches.epoch(epoch), start=1):
                seed_all(derive(spec.seed, "step", epoch, step))
                schedule.step_update(epoch * steps + step - 1)
                images, targets = augment(raw, classes)
                with place.autocast():
                    logits = model(images)
                loss = recipe.loss(logits, targets, spec.recipe)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                total += loss.detach()
                outcome.train_images += len(images)
                if place.device.type == "cpu" or step % CHECK_EVERY == 0 or step == steps:
                    mean = float(total) / step
                    outcome.train_seconds = before + time.perf_counter() - began
                    if not math.isfinite(mean):
                        raise DivergedError(f"the loss is {mean} at epoch {epoch + 1}, step {step}")
                    progress.step(epoch, step, mean, outcome.train_seconds)
            place.synchronize()
            outcome.train_seconds = before + time.perf_counter() - began
            row: dict[str, float | int | None] = {
                "epoch": epoch + 1,
                "lr": optimizer.param_groups[0]["lr"],
                "train_loss": float(total) / step,
            }
            if epoch + 1 in evaluated_epochs(todo, spec.budget.evaluations):
                outcome.evaluation = evaluate(model, test_batches, augment, place)
                progress.test = outcome.evaluation.top1
                row |= {"test_top1": outcome.evaluation.top1, "test_loss": outcome.evaluation.loss}
            outcome.curve.append(row)
    outcome.peak_memory_mib = place.peak_memory_mib()
    return model


def evaluated_epochs(todo: Plan, evaluations: int) -> set[int]:
    """The epochs, from 1, after which the test set is looked at: evenly spread, the last one always."""
    return {math.ceil((i + 1) * todo.epochs / evaluations) for i in range(evaluations)}


@torch.no_grad()
def evaluate(model: nn.Module, batches: Any, augment: recipe.BatchAugment, place: devices.Place) -> Evaluation:
    """Top-1, top-5 and loss over all of `batches`, each image once. Raises DivergedError on a non-finite loss."""
    model.eval()
    first: list[Tensor] = []  # per batch: was the best guess right?
    best5 = torch.zeros((), device=place.device)
    loss = torch.zeros((), device=place.device, dtype=torch.float64 if place.device.type != "mps" else torch.float32)
    for raw, classes in batches:
        images = augment.normalize(raw).contiguous(memory_format=torch.channels_last)
        labels = classes.to(place.device, non_blocking=True)
        with place.autocast():
            logits = model(images)
        logits = logits.float()
        loss += F.cross_entropy(logits, labels, reduction="sum")
        hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        first.append(hits[:, 0])
        best5 += hits.sum()
    correct = torch.cat(first).cpu().numpy()
    mean_loss = float(loss) / len(correct)
    if not math.isfinite(mean_loss):
        raise DivergedError(f"the test loss is {mean_loss}")
    return Evaluation(100 * float(correct.mean()), 100 * float(best5) / len(correct), mean_loss, correct)


def _measured(outcome: Outcome) -> dict[str, Any]:
    evaluation = outcome.evaluation
    return {
        "top1": evaluation.top1 if evaluation else None,
        "top5": evaluation.top5 if evaluation else None,
        "loss": evaluation.loss if evaluation else None,
        "num_test": len(evaluation.correct) if evaluation else None,
        "curve": outcome.curve,
        "images_per_second": outcome.images_per_second,
        "train_seconds": outcome.train_seconds,
        "peak_memory_mib": outcome.peak_memory_mib,
        "device": {"name": outcome.device, "precision": outcome.precision, "threads": outcome.threads},
    }


def _bytes(content: Any) -> bytes:
    """An array as .npy, a state dict as PyTorch's file (readable with weights_only=True)."""
    buffer = io.BytesIO()
    if isinstance(content, np.ndarray):
        np.save(buffer, content)
    else:
        torch.save(content, buffer)
    return buffer.getvalue()
