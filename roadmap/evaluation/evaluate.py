"""Evaluation of a trained network on a test set: accuracy per class, calibration, corruptions, latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roadmap.config.names import one_line
from roadmap.config.schema import RunSpec, SpecError
from roadmap.data import datasets
from roadmap.data.images import BadImageError, Batch
from roadmap.data.loaders import eval_loader, num_workers
from roadmap.evaluation.corruptions import SEVERITIES, corrupt
from roadmap.evaluation.receptive_field import receptive_field
from roadmap.inference import TrainedModel, evaluation_settings
from roadmap.runtime.system import num_cores
from roadmap.training.device import DeviceConfig
from roadmap.training.evaluation import DivergedError, Evaluation, evaluate
from roadmap.training.recipe import BatchAugment

CALIBRATION_BINS = 15
LARGE_BATCH = {"cpu": 64, "cuda": 256, "mps": 128}
LATENCY_SECONDS = 1.0  # of each measurement
CHUNK = 32  # images that are corrupted at once: large ones need about 15 MiB each
WARM_UP = 3  # forward passes before it


class Evaluator:
    """Evaluates a network on the test set of a spec, which may be another one than that of its run."""

    def __init__(self, trained: TrainedModel, spec: RunSpec) -> None:
        """Load the test set. Raises SpecError if it does not fit the network."""
        classes, known = trained.spec.network.num_classes, spec.data.num_classes
        if known is not None and known != classes:
            message = f"has {known} classes, the network {classes}; use a dataset with the network's classes"
            raise SpecError(f"data={spec.data.name}: {message}")
        self.trained, self.spec, self.num_classes = trained, spec, int(classes or 0)
        splits = datasets.load(spec.data, spec.budget)
        device = trained.device_config.device
        workers = num_workers(spec.data, device.type, num_cores())
        batch_size = min(2 * (trained.record.get("plan") or {}).get("batch_size", 128), 512)  # as in the run
        self.batches: Any = eval_loader(splits.test, spec, batch_size, workers, device)
        self.augment = BatchAugment(spec, device)

    def clean(self) -> tuple[Evaluation, dict[str, Any]]:
        """Return the evaluation as a run does it, and further results: see docs/integrations.md."""
        from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix

        matrix = MulticlassConfusionMatrix(self.num_classes)
        calibration = MulticlassCalibrationError(self.num_classes, n_bins=CALIBRATION_BINS, norm="l1")

        def collect(logits: Tensor, labels: Tensor) -> None:
            probabilities, targets = logits.softmax(1).cpu(), labels.cpu()
            matrix.update(probabilities, targets)
            calibration.update(probabilities, targets)

        evaluation = self._evaluate(self.batches, collect)
        counts = matrix.compute().numpy()
        with np.errstate(invalid="ignore"):
            of_class = 100 * np.diag(counts) / counts.sum(1)
        names = self.trained.class_names or [f"class {i}" for i in range(self.num_classes)]
        return evaluation, {
            "num_images": len(evaluation.correct),
            "top1": evaluation.top1,
            "top5": evaluation.top5,
            "loss": evaluation.loss,
            "calibration_error": 100 * float(calibration.compute()),
            "classes": names,
            "top1_of_class": [None if np.isnan(x) else float(x) for x in of_class],
            "confusion_matrix": counts.tolist(),
            "unreadable": evaluation.unreadable,
        }

    def receptive_field(self) -> dict[str, Any]:
        """Return the effective receptive field on the first test images; see `roadmap.evaluation.receptive_field`."""
        with evaluation_settings(self.trained.spec.fast_kernels):
            self.trained.model.eval()
            return receptive_field(self.trained.model, (self.augment.normalize(batch.images) for batch in self.batches))

    def corrupted(self, names: Sequence[str], severities: Sequence[int] = SEVERITIES) -> dict[str, dict[str, float]]:
        """Return the top-1 on corrupted test images, by corruption and severity."""
        return {
            name: {str(severity): self._evaluate(self._corrupted(name, severity)).top1 for severity in severities}
            for name in names
        }

    def _corrupted(self, name: str, severity: int) -> Iterator[Batch]:
        for batch in self.batches:
            chunks = zip(batch.images.cpu().split(CHUNK), batch.indices.split(CHUNK), strict=True)
            images = torch.cat([corrupt(images, name, severity, indices) for images, indices in chunks])
            yield batch._replace(images=images.to(batch.images.device))

    def _evaluate(self, batches: Any, collect: Any = None) -> Evaluation:
        trained = self.trained
        with evaluation_settings(trained.spec.fast_kernels):
            try:
                evaluation = evaluate(
                    trained.model,
                    batches,
                    self.augment,
                    trained.device_config,
                    self.spec.data.on_error,
                    collect=collect,
                )
            except BadImageError as error:
                raise SpecError(f"{error}; repair the image, or set data.on_error=skip") from error
            except DivergedError as error:
                raise SpecError(f"data={self.spec.data.name}: {error}; the network cannot be evaluated") from error
        assert evaluation is not None
        return evaluation


def measure_latency(trained: TrainedModel, batch_size: int | None = None) -> dict[str, Any]:
    """Return the median time of a forward pass of one image and of a large batch, in ms, and images/s of the latter.

    Measured with `torch.utils.benchmark` after a warm-up, in the precision and with the kernels of the evaluation.
    """
    device_config: DeviceConfig = trained.device_config
    large = batch_size or LARGE_BATCH.get(device_config.device.type, 64)
    result: dict[str, Any] = {"device": device_config.name(), "precision": device_config.precision.value}
    result |= {"threads": torch.get_num_threads(), "batch_size": large}
    with evaluation_settings(trained.spec.fast_kernels), torch.no_grad(), device_config.autocast():
        for name, size in (("batch_1_ms", 1), ("batch_ms", large)):
            try:
                result[name] = _milliseconds(trained, size)
            except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                message = f"a forward pass of {size} images failed ({one_line(error)[:150]}); use a smaller one"
                raise SpecError(f"--batch-size={size}: {message}") from error
    return result | {"images_per_second": 1000 * large / result["batch_ms"]}


def _milliseconds(trained: TrainedModel, batch_size: int) -> float:
    """Return the median time of a forward pass."""
    from torch.utils.benchmark import Timer  # its import looks for a CUDA compiler

    size = trained.spec.data.image_size
    shape = (batch_size, trained.spec.network.in_chans, size, size)
    images = torch.randn(shape, device=trained.device_config.device).contiguous(memory_format=torch.channels_last)
    for _ in range(WARM_UP):
        trained.model(images)
    variables = {"model": trained.model, "images": images}
    timer = Timer("model(images)", globals=variables, num_threads=torch.get_num_threads())
    return 1000 * timer.blocked_autorange(min_run_time=LATENCY_SECONDS).median


def spec_with_data(spec: RunSpec, data: Any, is_other: bool) -> RunSpec:
    """Return the spec of an evaluation: that of the run with `data`, and with all test images if `is_other`."""
    budget = dataclasses.replace(spec.budget, test_images=None) if is_other else spec.budget
    return dataclasses.replace(spec, data=data, budget=budget)
