"""Inference with trained networks: load a run, preprocess images as its evaluation did, and predict classes."""

from __future__ import annotations

import difflib
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from roadmap.config.choices import Device, Precision
from roadmap.config.datasets import class_names
from roadmap.config.limits import check_limits
from roadmap.config.names import printable
from roadmap.config.schema import RunSpec, SpecError
from roadmap.data.datasets import fit_size
from roadmap.data.transforms import channel_stats, pil_mode, test_transform
from roadmap.models import cpu_kernels
from roadmap.models.network import build_network
from roadmap.records.record import COMPLETED, InvalidRecordError, load_record
from roadmap.training.device import DeviceConfig, choose_device

EXPORTED = "model.safetensors"  # the weights as `roadmap export` writes them
HUB = "hf-hub:"  # prefix of a repository on the Hugging Face hub, hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION
BATCH_SIZE = 64  # images that `predict` computes at once
# What torch.load and load_state_dict raise for files that are damaged, or that contain more than tensors.
DAMAGED = (
    OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, MemoryError,
    OverflowError, AssertionError, pickle.UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class TrainedModel:
    """The network of a run with its trained weights, spec, record and class names."""

    model: nn.Module  # in eval mode: normalized images (N,C,H,W) on its device -> logits (N,K)
    spec: RunSpec
    record: dict[str, Any]
    class_names: list[str] | None  # in the order of the labels; None: unknown
    device_config: DeviceConfig
    folder: Path | None = None  # of the run's files on this machine
    is_ema: bool = False  # the weights are the moving average

    @cached_property
    def _transform(self) -> Any:
        return test_transform(self.spec.data, self.spec.recipe)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return a PIL image preprocessed as in the run's evaluation: resized, cropped, normalized; float32 (C,H,W)."""
        data = self.spec.data
        pixels: Tensor = self._transform(fit_size(data, image.convert(pil_mode(data))))
        mean, std = channel_stats(data)
        return pixels.float().sub_(mean).div_(std)

    @torch.no_grad()
    def predict(self, images: Image.Image | Tensor | Sequence[Image.Image | Tensor]) -> Tensor:
        """Return the probability of each class, float32 (N,K) on the CPU. The sum of each row is 1.

        `images` is one image or several: PIL images, or results of `preprocess`, (C,H,W) or together (N,C,H,W). The
        arithmetic is that of the run's evaluation.
        """
        if isinstance(images, Image.Image) or (isinstance(images, Tensor) and images.ndim == 3):
            images = [images]
        self.model.eval()
        parts = []
        with evaluation_settings(self.spec.fast_kernels):
            for start in range(0, len(images), BATCH_SIZE):
                chosen = images[start : start + BATCH_SIZE]
                batch = torch.stack([x if isinstance(x, Tensor) else self.preprocess(x) for x in chosen])
                batch = batch.to(self.device_config.device).contiguous(memory_format=torch.channels_last)
                with self.device_config.autocast():
                    logits = self.model(batch)
                parts.append(logits.float().softmax(1).cpu())
        return torch.cat(parts) if parts else torch.empty(0, self.spec.network.num_classes or 0)


@contextmanager
def evaluation_settings(fast_kernels: bool) -> Iterator[None]:
    """Set kernels and precision as in the evaluation of a run, and restore the earlier settings at the end."""
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    fast = cpu_kernels.enable(fast_kernels)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32
        cpu_kernels.enable(fast)


def load(source: str | Path, device: str = "auto", ema: bool = False) -> TrainedModel:
    """Return the trained network of a run, with `ema` with the moving average of its weights.

    `source` is the folder of a run (`experiments/runs/NAME`), another folder with its record.json and model.pt or
    model.safetensors (as `roadmap export` writes them), or `hf-hub:OWNER/NAME` (`hf-hub:OWNER/NAME@REVISION`): a
    repository on the Hugging Face hub with these two files.
    `device` is `auto`, `cpu`, `cuda` or `mps`. The precision is that of the run.

    Raises SpecError if the run is not completed or if one of its files is missing or damaged.
    """
    if device not in Device.__members__:
        raise SpecError(f"device={printable(device, 100)}: unknown; use one of {', '.join(Device.__members__)}")
    name = printable(str(source), 200)
    weights = "model_ema.pt" if ema else "model.pt"
    folder = _download(str(source), weights) if str(source).startswith(HUB) else _find_folder(Path(source))
    record = _read_record(folder, name)
    spec = spec_of_record(record, name)
    device_config = choose_device(Device[device], _precision(record))
    path = folder / weights
    if not ema and not path.exists() and (folder / EXPORTED).exists():
        path = folder / EXPORTED
    model = _read_model(spec, path, name)
    model = model.to(device_config.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return TrainedModel(model, spec, record, _class_names(record, spec), device_config, folder, ema)


def spec_of_record(record: dict[str, Any], name: str) -> RunSpec:
    """Return the spec of the run that a record describes. Raises SpecError, with `name`, if it is invalid."""
    try:
        config = OmegaConf.merge(OmegaConf.structured(RunSpec), OmegaConf.create(record["config"]))
        spec = OmegaConf.to_object(config)
        assert isinstance(spec, RunSpec)
        spec.name, spec.label = str(record["name"]), str(record["label"])
        check_limits(spec)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise SpecError(f"{name}: record.json has an invalid config ({_first_line(error)}); {_ADVICE}") from error
    return spec


_ADVICE = "give the folder of an intact run"


def _find_folder(path: Path) -> Path:
    """Return the folder of a run; `path` may also be one of its files. Raises SpecError if there is none."""
    name = printable(str(path), 200)
    if os.path.isdir(path):  # noqa: PTH112, as Path.is_dir raises OSError for a long name
        return path
    if os.path.isfile(path) and path.name in ("record.json", "model.pt"):  # noqa: PTH113
        return path.parent
    if os.path.lexists(path):
        raise SpecError(f"{name}: is not the folder of a run; give the folder that contains record.json and model.pt")
    hint = "give the folder of a run, as experiments/runs/NAME, or hf-hub:OWNER/NAME"
    if os.path.isdir(path.parent):  # noqa: PTH112
        names = [entry.name for entry in os.scandir(path.parent) if entry.is_dir()]
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else hint
    raise SpecError(f"{name}: no such folder; {hint}")


def _download(source: str, weights: str) -> Path:
    """Return the local copy of a repository on the Hugging Face hub. Raises SpecError if there is none."""
    from huggingface_hub import snapshot_download

    repository, _, revision = source.removeprefix(HUB).partition("@")
    try:
        names = ["record.json", weights, EXPORTED]
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=names))
    except Exception as error:  # the errors of the HTTP client differ between versions of huggingface_hub
        reason = f"could not be downloaded ({_first_line(error)})"
        raise SpecError(f"{printable(source, 200)}: {reason}; check the name and the connection") from error


def _read_record(folder: Path, name: str) -> dict[str, Any]:
    try:
        record = load_record(folder)
    except InvalidRecordError as error:
        raise SpecError(f"{name}: record.json {error}; {_ADVICE}") from error
    if record is None:
        raise SpecError(f"{name}: has no record.json; give the folder of a completed run, as experiments/runs/NAME")
    if record["status"] != COMPLETED:
        reason = printable(str(record["error"]), 200)
        raise SpecError(f"{name}: the run {record['status']} ({reason}); give the folder of a completed run")
    return record


def _read_model(spec: RunSpec, path: Path, name: str) -> nn.Module:
    """Return the network of `spec` with the weights in `path`; PyTorch's random state is not changed."""
    if not path.is_file():
        advice = "train the run again with save_weights=true force=true"
        if path.name != "model.pt" and spec.recipe.ema_decay is None:
            advice = "the run has no moving average of its weights"
        raise SpecError(f"{name}: has no {path.name}; {advice}")
    try:
        is_pickled = path.suffix == ".pt"
        weights = torch.load(path, map_location="cpu", weights_only=True) if is_pickled else load_file(path)
    except (*DAMAGED, SafetensorError) as error:
        raise SpecError(f"{name}: {path.name} is damaged, or contains more than weights; {_ADVICE}") from error
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        try:
            with torch.device("meta"):
                expected = build_network(spec.network, spec.data.image_size).state_dict()
        except (SpecError, RuntimeError, ArithmeticError, AssertionError) as error:
            raise SpecError(
                f"{name}: record.json has an impossible network ({_first_line(error)}); {_ADVICE}"
            ) from error
        if not isinstance(weights, dict) or _shapes(weights) != _shapes(expected):
            raise SpecError(f"{name}: {path.name} does not fit the network in record.json; {_ADVICE}")
        model = build_network(spec.network, spec.data.image_size)
    model.load_state_dict(weights)
    return model


def _shapes(weights: dict[Any, Any]) -> dict[Any, Any]:
    return {key: getattr(value, "shape", None) for key, value in weights.items()}


def _precision(record: dict[str, Any]) -> Precision:
    """Return the precision of the run, or the default of the device if the record does not name it."""
    return Precision.__members__.get(record["device"]["precision"], Precision.auto)


def _class_names(record: dict[str, Any], spec: RunSpec) -> list[str] | None:
    """Return the class names in the record, else those of the dataset; None if their number is not `num_classes`."""
    names: Any = record.get("classes")
    if names is None:
        try:
            names = class_names(spec.data)
        except SpecError:  # the folder of the images is not on this machine
            return None
    if not isinstance(names, list) or len(names) != spec.network.num_classes:
        return None
    return [str(name) for name in names]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0], 200)
