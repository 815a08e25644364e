"""Train one network and evaluate its last epoch's weights on the test set. Knows nothing of steps or studies."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from roadmap.config.schedule import Schedule, make_schedule
from roadmap.config.schema import RunSpec, SpecError
from roadmap.data import datasets
from roadmap.data.download import download_if_absent
from roadmap.data.images import Batch
from roadmap.data.loaders import eval_loader, num_workers, train_loader
from roadmap.data.sampling import BatchSplit
from roadmap.models import drop_path, weights
from roadmap.models.network import build
from roadmap.models.sync_batch_norm import use_sync_batch_norm
from roadmap.records.record import run_name
from roadmap.runtime import distributed
from roadmap.runtime.progress import RunProgress, say
from roadmap.runtime.random import derive, seed_all
from roadmap.runtime.signals import Stopped, StopRequest, deferred_signals
from roadmap.runtime.world import current_world
from roadmap.training import checkpoint, recipe
from roadmap.training import device as devices
from roadmap.training.evaluation import DivergedError, Evaluation, check_above_chance, evaluate
from roadmap.training.metrics import Metrics

LOSS_CHECK_INTERVAL = 50  # steps between two looks at the loss on an accelerator: each look waits for it


class Trainer:
    """A run under way: everything that `train` goes on with, and that a checkpoint holds."""

    def __init__(self, spec: RunSpec, place: devices.DeviceConfig, outcome: Metrics, title: str = "") -> None:
        """Raises SpecError where the data or weights do not fit the spec."""
        self.spec, self.place, self.outcome, self.title = spec, place, outcome, title
        devices.set_global_switches(place, spec.deterministic, spec.fast_kernels)
        self.world = current_world()
        say(f"{title or ' '} on {place}" + (f", {self.world.size} processes" if self.world.size > 1 else ""))
        outcome.device, outcome.precision = place.name(), place.precision.value
        outcome.threads, outcome.processes = torch.get_num_threads(), self.world.size

        self.plan = todo = make_schedule(spec.recipe, spec.budget)
        if self.world.leads:
            download_if_absent(spec.data)
        distributed.all_gather(None)  # the others wait for the download
        splits = datasets.load(spec.data, spec.budget)
        workers = num_workers(spec.data, place.device.type, self.world)
        self.split = BatchSplit(todo.batch_size, self.world, spec.accumulate)
        self.batches = train_loader(splits.train, spec, self.split, workers, place.device)
        test_batch = min(2 * todo.batch_size, 512)
        self.test = eval_loader(splits.test, spec, test_batch, workers, place.device, self.world)

        seed_all(derive(spec.seed, "init"))
        model = build(spec.network, spec.data.image_size)
        if spec.weights is not None:
            weights.load_into(model, spec)
        self.model: nn.Module = model.to(place.device, memory_format=torch.channels_last)
        self.optimizer = recipe.make_optimizer(self.model, spec.recipe, todo.lr)
        self.schedule = recipe.make_lr_schedule(self.optimizer, spec.recipe, todo, self.batches.steps_per_epoch)
        self.augment = recipe.BatchAugment(spec, place.device, not self.batches.augments)
        # Where it is: `step` steps of epoch `epoch` are done, the sum of their losses is `loss`; `bad` is the first
        # step (from 1) whose loss was no finite number, 0 while there is none.
        self.epoch = self.step = 0
        self.loss = torch.zeros((), device=place.device)
        self.bad = torch.zeros((), device=place.device, dtype=torch.int64)
        self.saved_at = time.monotonic()

    def train(self, folder: Path | None = None) -> nn.Module:
        """Train to the end and return the network; checkpoints go to `folder`, if one is given.

        Raises DivergedError where the loss is not finite or the result is chance, BadImageError on an unreadable image
        that may not be left out, and Stopped after a signal, with a checkpoint.
        """
        todo, steps = self.plan, self.batches.steps_per_epoch
        with (
            deferred_signals() as stop,
            RunProgress(todo.epochs, steps, todo.batch_size, self.title, self.epoch * steps + self.step) as progress,
        ):
            forward = self._parallel()
            while self.epoch < todo.epochs:
                self._train_epoch(forward, progress, stop, folder)
                row: dict[str, float | int | None] = {
                    "epoch": self.epoch + 1,
                    "lr": self.optimizer.param_groups[0]["lr"],
                    "train_loss": self._mean_loss(),
                }
                if self.epoch + 1 in evaluated_epochs(todo, self.spec.budget.evaluations):
                    on_error = self.spec.data.on_error
                    with self._telling_where():
                        found = evaluate(self.model, self.test, self.augment, self.place, on_error, stop)
                    if found is None:
                        self._stop(stop, folder)
                    self.outcome.evaluation = found
                    progress.test = found.top1
                    row |= {"test_top1": found.top1, "test_loss": found.loss}
                self.outcome.curve.append(row)
                self.epoch, self.step = self.epoch + 1, 0
                self.loss.zero_()
        self.outcome.peak_memory_mib = self.place.peak_memory_mib()
        self.outcome.unreadable = sorted(
            {error for mine in distributed.all_gather(self.outcome.unreadable) for error in mine}
        )
        if self.spec.keep_checkpoint:
            self.save(folder)
        if self.outcome.evaluation is not None and not self.spec.budget.allow_chance:
            self.epoch, self.step = todo.epochs - 1, steps
            with self._telling_where():
                check_above_chance(self.outcome.evaluation)
        return self.model

    @contextmanager
    def _telling_where(self) -> Iterator[None]:
        try:
            yield
        except DivergedError as error:
            raise DivergedError(f"{error} ({self._where()})") from None

    def _train_epoch(self, forward: nn.Module, progress: RunProgress, stop: StopRequest, folder: Path | None) -> None:
        """The steps of the epoch that are not done yet."""
        self.model.train()
        steps, outcome = self.batches.steps_per_epoch, self.outcome
        look_every = 1 if self.place.device.type == "cpu" else LOSS_CHECK_INTERVAL
        images_before, before, began = outcome.train_images, outcome.train_seconds, time.perf_counter()
        batches = self.augment.ahead(self.batches.epoch(self.epoch, self.step), self.epoch)
        while self.step < steps:
            self.train_step(forward, batches)
            self.step += 1
            if self.spec.compile and outcome.compile_seconds is None:  # the first step, which does not count
                self.place.synchronize()
                outcome.compile_seconds = time.perf_counter() - began
                say(f"{self.title or ' '} compiled in {outcome.compile_seconds:.0f} s")
                began, outcome.train_images = time.perf_counter(), images_before
            # Several processes have to look at the same steps: there a clock or a signal waits for the next one.
            due, late = self._save_is_due(), self._save_is_late()
            asked = due or (self.world.size == 1 and (late or bool(stop)))
            if self.step % look_every and self.step < steps and not asked:
                continue
            mean = self._mean_loss()
            outcome.train_seconds = before + time.perf_counter() - began
            progress.step(self.epoch, self.step, mean, outcome.images_per_second)
            save, end = distributed.all_reduce_max(due or late, bool(stop))
            if end:
                self._stop(stop, folder)
            elif save:
                self.save(folder)
                began = time.perf_counter() - (outcome.train_seconds - before)  # the clock stood still

    def train_step(self, forward: nn.Module, batches: Iterator[Batch]) -> None:
        spec, epoch, step = self.spec, self.epoch, self.step
        self.schedule.step_update(epoch * self.batches.steps_per_epoch + step)
        for i, part in enumerate(self.split.parts):
            batch = next(batches)
            self.outcome.unreadable += [error for error in batch.unreadable if error not in self.outcome.unreadable]
            drop_path.draw_masks(self.model, spec.seed, epoch, step, batch.positions)
            images, targets = self.augment(batch, epoch, step, self.split.batch_size)
            last = i + 1 == len(self.split.parts)
            share = len(part) / self.split.batch_size  # of the global batch
            with nullcontext() if last or not isinstance(forward, DistributedDataParallel) else forward.no_sync():
                with self.place.autocast():
                    logits = forward(images)
                loss = recipe.training_loss(logits, targets, spec.recipe) * share
                (loss * self.world.size).backward()  # which averages over processes: this makes it the sum
            self.loss += loss.detach()
            self.outcome.train_images += len(images) * self.world.size
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.bad = torch.where((self.bad == 0) & ~self.loss.isfinite(), step + 1, self.bad)

    def _mean_loss(self) -> float:
        """Of the epoch so far, over all processes. Raises DivergedError."""
        mean = float(distributed.all_reduce_sum(self.loss.clone())) / self.step
        if not math.isfinite(mean):
            first = min(filter(None, distributed.all_gather(int(self.bad))))
            raise DivergedError(f"the loss is {mean} at epoch {self.epoch + 1}, step {first}")
        return mean

    def _parallel(self) -> nn.Module:
        """What a step calls: the network itself, compiled if asked for, and under torchrun as DDP."""
        forward: nn.Module = self.model
        if self.world.size > 1:
            use_sync_batch_norm(self.model)
            own = [self.place.device] if self.place.device.type == "cuda" else None
            forward = DistributedDataParallel(self.model, device_ids=own)
        if self.spec.compile:
            on_gpu = self.place.device.type == "cuda"
            forward = torch.compile(forward, mode="reduce-overhead" if on_gpu else "default")  # type: ignore[assignment]
        return forward

    def _save_is_due(self) -> bool:
        steps, done = self.spec.checkpoint_steps, self.epoch * self.batches.steps_per_epoch + self.step
        return steps is not None and done % steps == 0

    def _save_is_late(self) -> bool:
        return time.monotonic() - self.saved_at >= 60 * self.spec.checkpoint_minutes

    def _stop(self, stop: StopRequest, folder: Path | None) -> NoReturn:
        self.save(folder)
        raise Stopped(f"stopped by {stop.reason or 'a signal to another process'} at {self._where()}")

    def _where(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step}"

    def save(self, folder: Path | None) -> None:
        """Write a checkpoint. Where that fails the run goes on, and the one before stays."""
        total = distributed.all_reduce_sum(self.loss.clone())
        if folder is not None and self.world.leads:
            try:
                checkpoint.save(folder, run_name(self.spec), self._state(total))
            except OSError as error:
                say(f"{self.title or ' '} no checkpoint at {self._where()}: {error.strerror}; the one before stays")
        self.saved_at = time.monotonic()

    def _state(self, loss: Tensor) -> dict[str, Any]:
        aside = ("evaluation", "began")
        outcome = {f.name: getattr(self.outcome, f.name) for f in fields(self.outcome) if f.name not in aside}
        outcome["earlier_seconds"] = self.outcome.wall_seconds
        evaluation = None
        if self.outcome.evaluation is not None:
            evaluation = asdict(self.outcome.evaluation)
            evaluation["correct"] = torch.from_numpy(evaluation["correct"])
        return {
            "epoch": self.epoch,
            "step": self.step,
            "loss": loss.cpu(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "outcome": outcome,
            "evaluation": evaluation,
        }

    def resume(self, folder: Path) -> None:
        """Go on from the newest good checkpoint in `folder`, if there is one; all processes from the same."""
        state = None
        if self.world.leads:
            name = run_name(self.spec)
            state = checkpoint.load(folder, name, lambda text: say(f"{self.title or ' '} {text}"))
        state = distributed.broadcast(state)
        if state is None:
            return
        self.epoch, self.step = state["epoch"], state["step"]
        if self.world.leads:
            self.loss += state["loss"].to(self.loss.device)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            before = Metrics(**state["outcome"])
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            what = f"{folder / checkpoint.NAME}: was written by another version of this code; remove it to begin anew"
            raise SpecError(what) from error
        for name in ("curve", "train_seconds", "train_images", "unreadable", "earlier_seconds"):
            setattr(self.outcome, name, getattr(before, name))
        if state["evaluation"] is not None:
            correct = np.asarray(state["evaluation"]["correct"])
            self.outcome.evaluation = Evaluation(**state["evaluation"] | {"correct": correct})
        say(f"{self.title or ' '} goes on from its checkpoint at {self._where()}")
        then, now = before.place(), self.outcome.place()
        if then != now:
            say(f"{self.title or ' '} it was written by {then}, not {now}: sums may differ in their last bits")


def train(spec: RunSpec, place: devices.DeviceConfig, outcome: Metrics, title: str = "") -> nn.Module:
    """The trained network, on `place`, without checkpoints; `outcome` is filled in on the way."""
    return Trainer(spec, place, outcome, title).train()


def evaluated_epochs(todo: Schedule, evaluations: int) -> set[int]:
    """The epochs, from 1, after which the test set is looked at: evenly spread, the last one always."""
    return {math.ceil((i + 1) * todo.epochs / evaluations) for i in range(evaluations)}
