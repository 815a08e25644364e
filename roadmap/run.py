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

from roadmap import checkpoint, distributed, lock, record, weights
from roadmap import device as devices
from roadmap.budget import plan
from roadmap.cost import measure
from roadmap.data import datasets
from roadmap.data.loading import Split, train_loader
from roadmap.evaluate import DivergedError
from roadmap.network import build
from roadmap.spec import RunSpec, SpecError
from roadmap.stop import Stopped
from roadmap.train import Outcome, Training


def run(spec: RunSpec, command: str = "", title: str = "", wait: bool = False) -> dict[str, Any]:
    """Run `spec`, write its record and return it; `title` stands before its lines of progress.

    Goes on from the run's checkpoint if there is one; if another process finished the same run meanwhile, that record
    is the answer. A run that raises or diverges leaves a record that says so; it does not raise. What raises: SpecError
    for a setting that turns out to be impossible, lock.Busy where another process has this run (unless `wait`), and
    Stopped after a signal, with a checkpoint; then no record is written. Under torchrun every process calls it.
    """
    folder = record.run_folder(spec)
    with distributed.joined(folder.name, spec.device) as world:
        if not world.leads:
            verdict = distributed.from_leader(None)
            return _run(spec, command, title, folder) if verdict is None else _answer(verdict)
        with ExitStack() as stack:
            verdict = None  # a finished record, or why not to run
            try:
                stack.enter_context(lock.hold(folder, wait))
                verdict = None if spec.force else record.finished(spec)
            except lock.Busy as busy:
                verdict = busy
            distributed.from_leader(verdict)
            if verdict is not None:
                return _answer(verdict)
            record.remove_leftovers(folder)
            if (record.read(folder) or {}).get("status") in record.FINISHED:  # force=true: begin anew
                checkpoint.remove(folder)
                record.set_aside(folder)
            try:
                return _run(spec, command, title, folder)
            except BaseException:
                lock.remove_empty(folder)
                raise


def _answer(verdict: dict[str, Any] | lock.Busy) -> dict[str, Any]:
    if isinstance(verdict, lock.Busy):
        raise verdict
    return verdict


def _run(spec: RunSpec, command: str, title: str, folder: Path) -> dict[str, Any]:
    content = record.start(spec, command)
    content["started_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    outcome = Outcome()
    training: Training | None = None
    try:
        place = devices.choose(spec.device, spec.precision)
        content |= asdict(measure(spec.network, spec.data.image_size))
        content |= {"plan": asdict(plan(spec.recipe, spec.budget))}
        training = Training(spec, place, outcome, title)
        training.resume(folder)
        training.train(folder)
        content["status"] = record.COMPLETED
    except (SpecError, KeyboardInterrupt, Stopped):
        raise
    except DivergedError as error:
        content |= {"status": record.DIVERGED, "error": str(error)}
        if training is not None and len(outcome.curve) < training.plan.epochs:
            outcome.evaluation = None  # of an earlier epoch: the run has no result
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        content |= {"status": record.FAILED, "error": reason, "traceback": traceback.format_exc()}
        print(content["traceback"], file=sys.stderr)
        if distributed.world().leads:
            content["error"] = distributed.told_failure() or reason
        else:
            distributed.tell_failure(reason)
        outcome.evaluation = None
    content |= outcome.measured() | {"wall_seconds": outcome.wall_seconds}
    if distributed.world().leads:
        if training is not None and outcome.evaluation is not None:
            record.write_bytes(folder / "correct.npy", _bytes(outcome.evaluation.correct))
            if spec.save_weights:
                record.write_bytes(folder / "model.pt", _bytes(training.model.state_dict()))
        record.write(folder, content)  # last: where it is, all is
        if content["status"] in record.FINISHED and not spec.keep_checkpoint:
            checkpoint.remove(folder)
    return content


def check(spec: RunSpec) -> None:
    """Raise SpecError where the device, the data or the weights do not fit the spec; nothing is trained or written."""
    devices.choose(spec.device, spec.precision)
    splits = datasets.load(spec.data, spec.budget)
    split = Split(plan(spec.recipe, spec.budget).batch_size, distributed.world(), spec.accumulate)
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
