"""One run, from its spec to its record: locked, resumable, and recorded also if it fails."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import threading
import time
import traceback
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from roadmap.config.datasets import class_names
from roadmap.config.names import one_line
from roadmap.config.schedule import make_schedule
from roadmap.config.schema import RunSpec, SpecError
from roadmap.data import datasets
from roadmap.data.images import BadImageError
from roadmap.data.loaders import train_loader
from roadmap.data.sampling import BatchSplit
from roadmap.models import weights
from roadmap.models.batch_norm import check_batch_norms
from roadmap.models.complexity import check_user_classes, measure_cost
from roadmap.models.network import build_network
from roadmap.records.record import (
    COMPLETED,
    DIVERGED,
    FAILED,
    FINISHED,
    finished_record,
    keep_previous_record,
    new_record,
    remove_leftovers,
    run_folder,
    write_record,
)
from roadmap.records.scores import SCORES_NAME, pack_correct
from roadmap.runtime import distributed, lock
from roadmap.runtime.files import write_atomically
from roadmap.runtime.logs import also_log_to, logger, write_line
from roadmap.runtime.signals import Stopped
from roadmap.runtime.system import Resources, whole_machine
from roadmap.runtime.world import current_world, is_rank_zero, name_of_group
from roadmap.training import checkpoint
from roadmap.training.device import choose_device
from roadmap.training.evaluation import DivergedError
from roadmap.training.metrics import Metrics
from roadmap.training.trainer import Trainer

MAX_CLASSES = 1000  # a record of more classes does not contain their names


def run(
    spec: RunSpec,
    command: str = "",
    title: str = "",
    wait: bool = False,
    group: str = "",
    resources: Resources | None = None,
) -> dict[str, Any]:
    """Train `spec`, write its record and return it; `title` is the start of each message. Without a title the messages
    also go to log.txt in the run's folder; with a title the caller has sent all output of this process there.
    `resources` are those of the whole machine by default.

    Resumes from the run's checkpoint if there is one. If another process has finished the same run in the meantime, its
    record is returned. A run that fails or diverges does not raise: its record contains the reason.

    Under torchrun every process calls this function. `group` distinguishes the attempts at one run: all processes of an
    attempt pass the same value, and each attempt within one torchrun passes another.

    Raises SpecError for a setting that turns out to be impossible, LockedError if another process has locked this run
    (unless `wait`), Stopped after a signal, with a checkpoint, and OSError if the record cannot be written. Then no
    record is written, and the checkpoint is kept.
    """
    folder = run_folder(spec)
    group_name = name_of_group(folder.name, group)
    has_result = threading.Event()

    def record_failure(reason: str) -> None:
        """Write the record while this process waits for one that has failed."""
        logger.info(f"{title or ' '} {reason}")
        if is_rank_zero() and not has_result.is_set():
            keep_previous_record(folder)
            write_record(folder, new_record(spec, command) | {"error": reason, "top1": None, "curve": []})

    distributed.connect()
    with ExitStack() as stack:
        answer: dict[str, Any] | None = None  # not None: there is nothing to train here
        if is_rank_zero():
            try:
                stack.enter_context(lock.hold(folder, wait))
                answer = None if spec.force else finished_record(spec)
            except lock.LockedError as error:
                answer = {"locked": str(error)}
        answer = json.loads(distributed.broadcast_before_group(f"start {group_name}", json.dumps(answer), group_name))
        if answer is not None:
            if "locked" in answer:
                raise lock.LockedError(answer["locked"])
            return answer
        try:
            if is_rank_zero():
                remove_leftovers(folder)
            with distributed.process_group(group_name, spec.device, record_failure):
                return _train_and_record(spec, command, title, group_name, has_result, stack, resources)
        except BaseException:
            if is_rank_zero():
                lock.remove_empty(folder)
            raise


def _train_and_record(
    spec: RunSpec,
    command: str,
    title: str,
    group_name: str,
    has_result: threading.Event,
    stack: ExitStack,
    resources: Resources | None,
) -> dict[str, Any]:
    """Train and write the record; set `has_result` when that is certain; `stack` closes the log."""
    record = new_record(spec, command) | {"num_classes": spec.network.num_classes, "num_train": None}
    record["started_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    metrics, folder = Metrics(), run_folder(spec)
    trainer: Trainer | None = None
    log: TextIO | None = None
    is_new_log = False
    try:
        device_config = choose_device(spec.device, spec.precision)
        record |= dataclasses.asdict(measure_cost(spec.network, spec.data.image_size))
        # The order of sums, and so the last bits of the result, depend on the number of parts of a batch.
        parts = 1 if spec.force else checkpoint.accumulate_of(folder, current_world().size)
        resources = dataclasses.replace(resources or whole_machine(), min_accumulate=parts)
        trainer = Trainer(spec, device_config, metrics, title, resources)
        record |= {"plan": dataclasses.asdict(trainer.schedule), "num_train": trainer.train_batches.num_images}
        record |= {"classes": recorded_classes(spec)}
        # Only now: nothing is written or renamed if the device or the data do not fit the spec.
        if is_rank_zero() and keep_previous_record(folder):  # force=true: start again
            checkpoint.remove(folder)
        if not title:
            is_new_log = not (folder / "log.txt").exists()
            log = stack.enter_context(also_log_to(folder / "log.txt"))
            write_line(log, f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} {command}\n  on {device_config}")
        trainer.resume(folder)
        trainer.train(folder)
        record["status"] = COMPLETED
    except SpecError as error:
        distributed.publish_failure(group_name, str(error))  # other processes may wait for this one
        if log is not None and is_new_log:
            with suppress(OSError):
                (folder / "log.txt").unlink()
        raise
    except (KeyboardInterrupt, Stopped):
        raise
    except DivergedError as error:
        record |= {"status": DIVERGED, "error": str(error)}
        if trainer is not None and len(metrics.curve) < trainer.schedule.epochs:
            metrics.evaluation = metrics.ema_evaluation = None  # of an earlier epoch: the run has no result
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        if _is_out_of_memory(error) and trainer is not None:
            reason += f" with accumulate={metrics.accumulate}; use a larger one, which needs less memory"
        record |= {"status": FAILED, "error": reason, "traceback": traceback.format_exc()}
        if title or not is_expected(error):  # with a title, standard error is the log
            print(record["traceback"], file=sys.stderr)
        write_line(log, record["traceback"])
        if is_rank_zero():
            record["error"] = distributed.published_failure(group_name) or reason
        distributed.publish_failure(group_name, reason)
        metrics.evaluation = metrics.ema_evaluation = None
    record |= metrics.record_fields(record.get("gmacs")) | {"wall_seconds": metrics.wall_seconds}
    has_result.set()
    if is_rank_zero():
        keep_previous_record(folder)  # for a repeated run that failed before its start
        results: dict[str, np.ndarray | dict[str, Any]] = {}
        if trainer is not None and metrics.evaluation is not None:
            results[SCORES_NAME] = pack_correct(metrics.evaluation.correct)
            if spec.save_weights:
                results["model.pt"] = trainer.model.state_dict()
                if trainer.ema is not None:
                    results["model_ema.pt"] = trainer.ema.module.state_dict()
        _record_with_results(folder, record, results, spec.keep_checkpoint)
        if "missing" in record:
            logger.info(f"{title or ' '} not written: {', '.join(record['missing'])}; the record is complete")
    return record


def is_expected(error: Exception) -> bool:
    """Return whether the data or the machine caused the error, such as too little memory: it is not a bug."""
    return isinstance(error, BadImageError) or _is_out_of_memory(error)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # PyTorch on a processor


def _record_with_results(
    folder: Path, record: dict[str, Any], results: dict[str, np.ndarray | dict[str, Any]], keep_checkpoint: bool
) -> None:
    """Write the results, then the record, and remove the checkpoints. `record["missing"]` states what does not fit on
    the disk. Raises OSError if the record cannot be written."""
    if missing := _write_results(folder, results):
        record["missing"] = list(missing.values())
    _write_record_last(folder, record)
    if record["status"] not in FINISHED or keep_checkpoint:
        return
    checkpoint.remove(folder)
    if missing:  # the checkpoints may have taken the space
        again = _write_results(folder, {name: results[name] for name in missing})
        complete = record | {"missing": list(again.values())}
        if not again:
            del complete["missing"]
        with suppress(OSError):  # otherwise the record stays as it is
            write_record(folder, complete)
            record.clear()
            record.update(complete)


def recorded_classes(spec: RunSpec) -> list[str] | None:
    """Return the names of the classes for the record; None if they are unknown or too many."""
    names = class_names(spec.data)
    fits = names is not None and len(names) == spec.network.num_classes and len(names) <= MAX_CLASSES
    return names if fits else None


def _write_results(folder: Path, results: dict[str, np.ndarray | dict[str, Any]]) -> dict[str, str]:
    """Write the files. Return the reason for each that could not be written, as `model.pt: No space left on device`."""
    missing = {}
    for name, value in results.items():
        try:
            write_atomically(folder / name, _to_bytes(value))
        except OSError as error:
            missing[name] = f"{name}: {error.strerror}"
            with suppress(OSError):  # a file of an earlier attempt would not belong to this record
                (folder / name).unlink(missing_ok=True)
    return missing


def _write_record_last(folder: Path, record: dict[str, Any]) -> None:
    """Write the record after all other files, so that these are complete if there is a record. Raises OSError."""
    try:
        write_record(folder, record)
    except OSError as error:
        error.strerror = f"{error.strerror}; the same command runs it again, from its checkpoint if any"
        raise


def check(spec: RunSpec) -> None:
    """Raise SpecError if the device, the data or the weights do not fit the spec. Nothing is trained or written."""
    choose_device(spec.device, spec.precision)
    check_user_classes(spec.network, spec.data.image_size)
    splits = datasets.load(spec.data, spec.budget)
    schedule = make_schedule(spec.recipe, spec.budget, len(splits.train))  # type: ignore[arg-type]
    split = BatchSplit.of(spec, schedule.batch_size, current_world(), spec.accumulate or 1)
    train_loader(splits.train, spec, split, 0, torch.device("cpu"))
    if spec.network.user_classes:
        with torch.device("meta"):
            model = build_network(spec.network, spec.data.image_size)
        check_batch_norms(model, spec.network, split.num_norm_groups, split.num_parts)
    if spec.weights is not None:
        weights.load_into(build_network(spec.network, spec.data.image_size), spec)


def _to_bytes(value: np.ndarray | dict[str, Any]) -> bytes:
    """Return an array as .npy, a state dict as PyTorch's file (readable with weights_only=True)."""
    buffer = io.BytesIO()
    if isinstance(value, np.ndarray):
        np.save(buffer, value)
    else:
        torch.save(value, buffer)
    return buffer.getvalue()
