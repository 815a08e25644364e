"""A trained network as ONNX, with any batch size, compared with ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import torch
from torch import nn

from roadmap.config.schema import SpecError
from roadmap.inference import TrainedModel, evaluation_settings

FILE_NAME = "model.onnx"
TOLERANCE = 1e-4  # on the logits, relative to the largest of them if that is above 1
CHECKED_BATCHES = (1, 7)


def write_onnx(trained: TrainedModel, folder: Path) -> float:
    """Write model.onnx: normalized images (N, C, H, W) -> logits (N, K).

    Return the largest difference of its logits in ONNX Runtime from those of the network.

    Raises SpecError if the extra `onnx` is not installed, and if the difference is above TOLERANCE.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise SpecError(f"--onnx: needs {error.name}; pip install 'roadmap[onnx]'") from error
    model = trained.model.cpu().float().eval()
    path = folder / FILE_NAME
    with evaluation_settings(fast_kernels=False), torch.no_grad():
        _export(model, _random_images(2, trained), path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        largest = 0.0
        for size in CHECKED_BATCHES:
            images = _random_images(size, trained)
            expected = model(images)
            (logits,) = session.run(None, {"images": images.numpy()})
            difference = (torch.from_numpy(logits) - expected).abs().max() / expected.abs().max().clamp(min=1)
            largest = max(largest, float(difference))
    if not largest <= TOLERANCE:
        raise SpecError(f"--onnx: the logits differ by {largest:.1e} from those of the network; leave --onnx out")
    return largest


def _random_images(batch_size: int, trained: TrainedModel) -> torch.Tensor:
    data, generator = trained.spec.data, torch.Generator().manual_seed(batch_size)
    return torch.randn(batch_size, data.in_chans, data.image_size, data.image_size, generator=generator)


def _export(model: nn.Module, images: torch.Tensor, path: Path) -> None:
    options = {"input_names": ["images"], "output_names": ["logits"], "external_data": False, "verbose": False}
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # its progress
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (images,), path, dynamo=True, dynamic_shapes=({0: batch},), **options)
