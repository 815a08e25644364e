"""Trains one network and evaluates its last epoch's weights on the test set. Independent of steps and studies."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

import torch
from timm.utils import ModelEmaV3
from torch import nn

from roadmap.config.schema import RunSpec, SpecError
from roadmap.data.images import Batch
from roadmap.models import drop_path, weights
from roadmap.models.batch_norm import check_batch_norms, use_norm_groups
from roadmap.models.network import build_network
from roadmap.records.record import run_name
from roadmap.runtime import distributed
from roadmap.runtime.logs import logger
from roadmap.runtime.random import derive, seed_all
from roadmap.runtime.signals import Stopped, StopRequest, deferred_signals
from roadmap.runtime.system import Resources, whole_machine
from roadmap.runtime.world import current_world
from roadmap.training import checkpoint, recipe
from roadmap.training.batches import Batches, load_batches
from roadmap.training.device import DeviceConfig, configure_torch
from roadmap.training.evaluation import DivergedError, Evaluation, check_above_chance, evaluate, evaluated_epochs
from roadmap.training.forward import ForwardPass
from roadmap.training.metrics import Metrics
from roadmap.training.progress import RunProgress


class Trainer:
    """One run in training: network, optimizer, data, metrics and the position that a checkpoint saves.

    Use: create it, call `resume(folder)` to continue from a checkpoint, then `train(folder)`.
    """

    def __init__(
        self,
        spec: RunSpec,
        device_config: DeviceConfig,
        metrics: Metrics,
        title: str = "",
        resources: Resources | None = None,
        batches: Batches | None = None,
    ) -> None:
        """Build everything that the training needs; `metrics` is filled in later, and `title` starts messages. By
        default `resources` are the machine's, and `batches` the dataset's. Raises SpecError if they do not fit."""
        self.spec, self.device_config, self.metrics, self.title = spec, device_config, metrics, title
        self.world = current_world()
        configure_torch(device_config, spec.deterministic, spec.fast_kernels)
        self._log(f"on {device_config}" + (f", {self.world.size} processes" if self.world.size > 1 else ""))
        metrics.device, metrics.precision = device_config.name(), device_config.precision.value
        metrics.threads, metrics.processes = torch.get_num_threads(), self.world.size
        self.schedule, self.split, self.train_batches, self.test_batches = batches or load_batches(
            spec, device_config, self.world, resources or whole_machine(), self._log
        )
        metrics.accumulate = self.split.accumulate
        self.iterations_per_epoch = self.train_batches.iterations_per_epoch

        seed_all(derive(spec.seed, "init"))
        model = build_network(spec.network, spec.data.image_size)
        check_batch_norms(model, spec.network, self.split.num_norm_groups, self.split.num_parts)
        if spec.weights is not None:
            weights.load_into(model, spec)
        device = device_config.device
        self.model: nn.Module = model.to(device).to(memory_format=torch.channels_last)
        self.optimizer = recipe.make_optimizer(self.model, spec.recipe, self.schedule.lr)
        # The moving average of parameters and running statistics, as in the official code; None: without one.
        self.ema = None if (decay := spec.recipe.ema_decay) is None else ModelEmaV3(self.model, decay)
        self.scaler = device_config.grad_scaler()
        self.augment = recipe.BatchAugment(spec, device, augment_images=not self.train_batches.augments)
        # Position: `iteration` iterations of epoch `epoch` (from 0) are done; `loss_sum` is the sum of their losses.
        self.epoch = self.iteration = 0
        self.loss_sum = torch.zeros((), device=device)
        self.first_bad_iteration = torch.zeros((), device=device, dtype=torch.int64)  # from 1; 0: all losses are finite
        self.checkpoints: checkpoint.Writer | None = None  # in rank zero, while it trains with a folder

    def train(self, folder: Path | None = None) -> nn.Module:
        """Train to the end and return the network; write checkpoints, curve and progress to `folder`, if given.

        Raises DivergedError if the loss is not finite or the result is not better than chance, BadImageError on an
        unreadable image that may not be skipped, and Stopped after a signal, with a checkpoint.
        """
        epochs, per_epoch = self.schedule.epochs, self.iterations_per_epoch
        evaluated = evaluated_epochs(self.schedule, self.spec.budget.evaluations)
        watched = folder if self.world.is_rank_zero else None
        every = self.device_config.log_interval(self.spec.log_every)
        progress = RunProgress(epochs, per_epoch, self.title, watched, self._num_done(), self.metrics.curve, every)
        with deferred_signals() as stop, self._checkpoints_in(watched), progress:
            forward = self.wrap_model()
            while self.epoch < epochs:
                self._train_epoch(forward, progress, stop)
                row: dict[str, float | int | None] = {
                    "epoch": self.epoch + 1,
                    "lr": self.optimizer.param_groups[0]["lr"],
                    "train_loss": self._mean_loss(),
                }
                if self.epoch + 1 in evaluated:
                    row |= self._evaluate(stop)
                self.metrics.curve.append(row)
                progress.end_epoch(row, self.metrics.wall_seconds)
                self.epoch, self.iteration = self.epoch + 1, 0
                self.loss_sum.zero_()
            if self.spec.keep_checkpoint:
                self.save()
        self.metrics.peak_memory_mib = self.device_config.peak_memory_mib()
        unreadable = distributed.all_gather(self.metrics.unreadable)
        self.metrics.unreadable = sorted({error for errors in unreadable for error in errors})
        if self.metrics.evaluation is not None and not self.spec.budget.allow_chance:
            self.epoch, self.iteration = epochs - 1, per_epoch
            with self._position_in_error():
                check_above_chance(self.metrics.evaluation)
        return self.model

    def wrap_model(self) -> ForwardPass:
        """Return the network as an iteration calls it: under torchrun as DDP, and compiled if `compile`."""
        self.norm_groups = use_norm_groups(self.model, self.split.num_norm_groups, self.split.shares_norm_groups)
        return ForwardPass(self.model, self.world.size, self.spec.compile, self.split.accumulate)

    def _train_epoch(self, forward: ForwardPass, progress: RunProgress, stop: StopRequest) -> None:
        """Do the iterations of the epoch that are not done yet."""
        self.model.train()
        metrics, per_epoch = self.metrics, self.iterations_per_epoch
        images_before, seconds_before, started = metrics.train_images, metrics.train_seconds, time.perf_counter()
        batches = self.augment.augment_in_chunks(self.train_batches.epoch(self.epoch, self.iteration), self.epoch)
        while self.iteration < per_epoch:
            self.train_iteration(forward, batches)
            self.iteration += 1
            if self.spec.compile and metrics.compile_seconds is None:  # the first iteration: not in the throughput
                self.device_config.synchronize()
                metrics.compile_seconds = time.perf_counter() - started
                self._log(f"compiled in {metrics.compile_seconds:.0f} s")
                started, metrics.train_images = time.perf_counter(), images_before
            # All processes must take part in a check: with several, a clock or a signal, which only one of them may
            # have noticed, waits for the next regular one.
            due, late = self._save_is_due(), self.checkpoints is not None and self.checkpoints.is_due
            check_now = due or (self.world.size == 1 and (late or bool(stop)))
            if self.iteration % self.device_config.check_interval and self.iteration < per_epoch and not check_now:
                continue
            mean_loss = self._mean_loss()
            metrics.train_seconds = seconds_before + time.perf_counter() - started
            rate = self.optimizer.param_groups[0]["lr"]
            progress.update(self.epoch, self.iteration, mean_loss, metrics.images_per_second, rate)
            any_save, any_stop = distributed.all_reduce_max(due or late, bool(stop))
            if any_stop:
                self._stop(stop)
            elif any_save:
                self.save()
                started = time.perf_counter() - (metrics.train_seconds - seconds_before)  # without the time of saving
        if self.checkpoints is not None:  # loader processes are forked between epochs: no thread may run then
            self.checkpoints.wait()

    def train_iteration(self, forward: ForwardPass, batches: Iterator[Batch]) -> None:
        """Do one optimizer update with the next parts of `batches`."""
        spec, epoch, iteration = self.spec, self.epoch, self.iteration
        rate = recipe.learning_rate(spec.recipe, self.schedule, self.iterations_per_epoch, self._num_done())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for i, part in enumerate(self.split.parts):
            batch = next(batches)
            self.metrics.unreadable += [error for error in batch.unreadable if error not in self.metrics.unreadable]
            drop_path.draw_masks(self.model, spec.seed, epoch, iteration, batch.positions)
            self.norm_groups.select(self.split.norm_groups(batch.positions))
            images, targets = self.augment(batch, epoch, iteration, self.split.batch_size)
            share = len(part) / self.split.batch_size  # of the global batch
            with nullcontext() if i + 1 == len(self.split.parts) else forward.without_averaging():
                with self.device_config.autocast():
                    logits = forward(images)
                loss = recipe.training_loss(logits, targets, spec.recipe) * share
                self.scaler.scale(loss * self.world.size).backward()  # DDP averages: the factor makes it the sum
            self.loss_sum += loss.detach()
            self.metrics.train_images += round(len(images) / self.split.share_of_process)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.norm_groups.update_running_statistics()
        if self.ema is not None:
            self.ema.update(self.model)
        is_first_bad = (self.first_bad_iteration == 0) & ~self.loss_sum.isfinite()
        self.first_bad_iteration = torch.where(is_first_bad, iteration + 1, self.first_bad_iteration)

    def _mean_loss(self) -> float:
        """Return the mean loss of this epoch so far, over all processes. Raises DivergedError."""
        mean = float(distributed.all_reduce_sum(self.loss_sum.clone())) / self.iteration
        if not math.isfinite(mean):
            first = min(filter(None, distributed.all_gather(int(self.first_bad_iteration))))
            raise DivergedError(f"the loss is {mean} at epoch {self.epoch + 1}, iteration {first}")
        return mean

    def _evaluate(self, stop: StopRequest) -> dict[str, float]:
        """Evaluate the network and its moving average, if there is one, and return the results for the curve."""
        evaluation = self._evaluate_one(self.model, stop)
        self.metrics.evaluation, self.metrics.ema_evaluation = evaluation, None
        row = {"test_top1": evaluation.top1, "test_loss": evaluation.loss}
        if self.ema is not None:
            try:
                self.metrics.ema_evaluation = average = self._evaluate_one(self.ema, stop)
                row["ema_top1"] = average.top1
            except DivergedError as error:  # the weights themselves have a result
                self._log(f"no result of the moving average: {error}")
        return row

    def _evaluate_one(self, model: nn.Module, stop: StopRequest) -> Evaluation:
        with self._position_in_error():
            result = evaluate(model, self.test_batches, self.augment, self.device_config, self.spec.data.on_error, stop)
        if result is None:
            self._stop(stop)
        return result

    @contextmanager
    def _checkpoints_in(self, folder: Path | None) -> Iterator[None]:
        """Let `save` write to `folder` inside the context. At its end, the last checkpoint is on the disk."""
        if folder is None:
            yield
            return
        interval, on_cpu = 60 * self.spec.checkpoint_minutes, self.device_config.device.type == "cpu"
        self.checkpoints = checkpoint.Writer(folder, run_name(self.spec), interval, on_cpu, self._log)
        try:
            yield
        finally:
            self.checkpoints.wait()
            self.checkpoints = None

    def _save_is_due(self) -> bool:
        return self.spec.checkpoint_steps is not None and self._num_done() % self.spec.checkpoint_steps == 0

    def _stop(self, stop: StopRequest) -> NoReturn:
        self.save()
        raise Stopped(f"stopped by {stop.reason or 'a signal to another process'} at {self._position()}")

    def _num_done(self) -> int:
        return self.epoch * self.iterations_per_epoch + self.iteration

    def _position(self) -> str:
        return f"epoch {self.epoch + 1}, iteration {self.iteration}"

    @contextmanager
    def _position_in_error(self) -> Iterator[None]:
        try:
            yield
        except DivergedError as error:
            raise DivergedError(f"{error} ({self._position()})") from None

    def _log(self, message: str) -> None:
        logger.info(f"{self.title or ' '} {message}")

    def save(self) -> None:
        """Start to write a checkpoint; all processes must call this. If it cannot be written, the training continues
        and the previous checkpoint is kept."""
        loss_sum = distributed.all_reduce_sum(self.loss_sum.clone())
        if self.checkpoints is not None:
            # The keys "step" and "loss" are older than the names of the attributes: they keep old checkpoints readable.
            state = {
                "epoch": self.epoch,
                "step": self.iteration,
                "loss": loss_sum,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "ema": self.ema.module.state_dict() if self.ema is not None else None,
                **self.metrics.state_dict(),
            }
            self.checkpoints.save(state, self._position())

    def resume(self, folder: Path) -> None:
        """Continue from the newest intact checkpoint in `folder`, if there is one; all processes from the same.

        Raises SpecError if another version of the code wrote it.
        """
        state = None
        if self.world.is_rank_zero:
            state = checkpoint.load(folder, run_name(self.spec), self._log)
        state = distributed.broadcast(state)
        if state is None:
            return
        try:
            self.epoch, self.iteration = state["epoch"], state["step"]
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"]:  # empty if the precision was not fp16
                self.scaler.load_state_dict(state["scaler"])
            if self.ema is not None:
                self.ema.module.load_state_dict(state["ema"])
            earlier = Metrics.from_state_dict(state)
            if self.world.is_rank_zero:  # the sum over all processes, which must count once
                self.loss_sum += state["loss"].to(self.loss_sum.device)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            message = "written by another version of this code; delete it to start the run again"
            raise SpecError(f"{folder / checkpoint.NAME}: {message}") from error
        self.metrics.continue_from(earlier)
        self._log(f"resuming from checkpoint at {self._position()}")
        before, now = earlier.hardware(), self.metrics.hardware()
        if before != now:
            self._log(f"checkpoint was written by {before}; now {now}: sums may differ in their last bits")
