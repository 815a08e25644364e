"""One run, from its spec to its record: locked, resumable, and whatever happens, told."""

from __future__ import annotations

import io
import sys
import time
import traceback
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roadmap.config.schedule import make_schedule
from roadmap.config.schema import RunSpec, SpecError
from roadmap.data import datasets
from roadmap.data.loaders import train_loader
from roadmap.data.sampling import BatchSplit
from roadmap.models import weights
from roadmap.models.complexity import measure
from roadmap.models.network import build
from roadmap.records.record import (
    COMPLETED,
    DIVERGED,
    FAILED,
    FINISHED,
    finished_record,
    keep_previous_record,
    new_record,
    read_record,
    remove_leftovers,
    run_folder,
    write_record,
)
from roadmap.runtime import distributed, lock
from roadmap.runtime.files import write_atomically
from roadmap.runtime.signals import Stopped
from roadmap.runtime.world import current_world
from roadmap.training import checkpoint
from roadmap.training import device as devices
from roadmap.training.evaluation import DivergedError
from roadmap.training.metrics import Metrics
from roadmap.training.trainer import Trainer


def run(spec: RunSpec, command: str = "", title: str = "", wait: bool = False) -> dict[str, Any]:
    """Run `spec`, write its record and return it; `title` stands before its lines of progress.

    Goes on from the run's checkpoint if there is one; if another process finished the same run meanwhile, that record
    is the answer. A run that raises or diverges leaves a record that says so; it does not raise. What raises: SpecError
    for a setting that turns out to be impossible, lock.Busy where another process has this run (unless `wait`), and
    Stopped after a signal, with a checkpoint; then no record is written. Under torchrun every process calls it.
    """
    folder = run_folder(spec)
    with distributed.process_group(folder.name, spec.device) as world:
        if not world.leads:
            verdict = distributed.broadcast(None)
            return _run(spec, command, title, folder) if verdict is None else _answer(verdict)
        with ExitStack() as stack:
            verdict = None  # a finished record, or why not to run
            try:
                stack.enter_context(lock.hold(folder, wait))
                verdict = None if spec.force else finished_record(spec)
            except lock.LockedError as busy:
                verdict = busy
            distributed.broadcast(verdict)
            if verdict is not None:
                return _answer(verdict)
            remove_leftovers(folder)
            if (read_record(folder) or {}).get("status") in FINISHED:  # force=true: begin anew
                checkpoint.remove(folder)
                keep_previous_record(folder)
            try:
                return _run(spec, command, title, folder)
            except BaseException:
                lock.remove_empty(folder)
                raise


def _answer(verdict: dict[str, Any] | lock.LockedError) -> dict[str, Any]:
    if isinstance(verdict, lock.LockedError):
        raise verdict
    return verdict


def _run(spec: RunSpec, command: str, title: str, folder: Path) -> dict[str, Any]:
    content = new_record(spec, command)
    content["started_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    outcome = Metrics()
    training: Trainer | None = None
    try:
        place = devices.choose_device(spec.device, spec.precision)
        content |= asdict(measure(spec.network, spec.data.image_size))
        content |= {"plan": asdict(make_schedule(spec.recipe, spec.budget))}
        training = Trainer(spec, place, outcome, title)
        training.resume(folder)
        training.train(folder)
        content["status"] = COMPLETED
    except (SpecError, KeyboardInterrupt, Stopped):
        raise
    except DivergedError as error:
        content |= {"status": DIVERGED, "error": str(error)}
        if training is not None and len(outcome.curve) < training.plan.epochs:
            outcome.evaluation = None  # of an earlier epoch: the run has no result
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        content |= {"status": FAILED, "error": reason, "traceback": traceback.format_exc()}
        print(content["traceback"], file=sys.stderr)
        if current_world().leads:
            content["error"] = distributed.published_failure() or reason
        else:
            distributed.publish_failure(reason)
        outcome.evaluation = None
    content |= outcome.measured() | {"wall_seconds": outcome.wall_seconds}
    if current_world().leads:
        if training is not None and outcome.evaluation is not None:
            write_atomically(folder / "correct.npy", _bytes(outcome.evaluation.correct))
            if spec.save_weights:
                write_atomically(folder / "model.pt", _bytes(training.model.state_dict()))
        write_record(folder, content)  # last: where it is, all is
        if content["status"] in FINISHED and not spec.keep_checkpoint:
            checkpoint.remove(folder)
    return content


def check(spec: RunSpec) -> None:
    """Raise SpecError where the device, the data or the weights do not fit the spec; nothing is trained or written."""
    devices.choose_device(spec.device, spec.precision)
    splits = datasets.load(spec.data, spec.budget)
    split = BatchSplit(make_schedule(spec.recipe, spec.budget).batch_size, current_world(), spec.accumulate)
    train_loader(splits.train, spec, split, 0, torch.device("cpu"))
    if spec.weights is not None:
        weights.load_into(build(spec.network, spec.data.image_size), spec)


def _bytes(content: Any) -> bytes:
    """An array as .npy, a state dict as PyTorch's file (readable with weights_only=True)."""
    buffer = io.BytesIO()
    if isinstance(content, np.ndarray):
        np.save(buffer, content)
    else:
        torch.save(content, buffer)
    return buffer.getvalue()
