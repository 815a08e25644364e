"""The subcommand `roadmap evaluate`: evaluate a trained network on any test set, clean and corrupted."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from roadmap.commands.predict import find_run
from roadmap.commands.report import study_folder
from roadmap.config.choices import Device
from roadmap.config.compose import compose
from roadmap.config.datasets import class_names, complete_data_spec
from roadmap.config.files import config_names, read_yaml
from roadmap.config.limits import check_limits
from roadmap.config.messages import CONFIG_ERRORS, one_line_message
from roadmap.config.names import is_file_name, printable, suggest
from roadmap.config.paths import find_config
from roadmap.config.schema import DataSpec, SpecError
from roadmap.config.selection import choose_folders
from roadmap.config.validation import check_writable
from roadmap.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from roadmap.evaluation.evaluate import Evaluator, measure_latency, spec_with_data
from roadmap.inference import HUB, TrainedModel, load
from roadmap.models import weights
from roadmap.models.network import build_network
from roadmap.records.evaluation import read_evaluation
from roadmap.records.manifest import MANIFEST_NAME, read_manifest
from roadmap.records.record import COMPLETED, RUNS_FOLDER, read_record
from roadmap.records.scores import read_correct
from roadmap.runtime.files import write_atomically
from roadmap.training.device import choose_device

# Fields that say where the test images are. `data=NAME` takes them from NAME; size, channels, normalization and crop
# stay those of the run.
PLACE = ("name", "root", "download", "num_classes", "train_split", "test_split", "holdout", "input_key", "target_key")
EPILOG = """RUN is the folder of a run, the name of a run in OUT/runs, hf-hub:OWNER/NAME, or a study: all of its runs.
WEIGHTS is a file of weights or timm/NAME; overrides such as `+step=baseline base=resnet50` then describe the network.

examples:
  roadmap evaluate experiments/runs/NAME
  roadmap evaluate experiments/STUDY corruptions=all
  roadmap evaluate experiments/runs/NAME data=folder data.root=/my/images
  roadmap evaluate timm/convnext_tiny.fb_in1k +step=separate_downsampling base=resnet50 data=imagenet
"""


def evaluate_command(arguments: list[str]) -> int:
    """Evaluate a network, or those of a study, print and write the results, and return the exit code.

    Raises SpecError for bad input.
    """
    options = _parse(choose_folders(arguments))
    _check_installed()
    chosen, overrides = _own_settings(options.overrides)
    if options.ema and any(override.startswith(("+step=", "+transform=")) for override in overrides):
        raise SpecError("--ema: is for runs; give the file of the averaged weights")
    for source in _sources(options):
        options.source = source
        _evaluate_one(options, chosen, overrides)
    return 0


def _sources(options: argparse.Namespace) -> list[str]:
    """Return the runs to evaluate: the given one, or the completed runs of a study that have their weights."""
    folder = study_folder(options.source)
    if not (folder / MANIFEST_NAME).is_file():
        return [options.source]
    manifest = read_manifest(folder)
    weights = "model_ema.pt" if options.ema else "model.pt"
    runs = [folder.parent / RUNS_FOLDER / name for name in (manifest.runs if manifest is not None else [])]
    found = [str(run) for run in runs if (run / weights).is_file() and _is_completed(run)]
    if not found:
        raise SpecError(f"{printable(options.source, 200)}: has no completed run with its {weights}; train it first")
    if options.to is not None:
        raise SpecError(f"--to={printable(str(options.to), 200)}: is for one run; leave it out for a study")
    return found


def _is_completed(run: Path) -> bool:
    record = read_record(run)
    return record is not None and record["status"] == COMPLETED


def _evaluate_one(options: argparse.Namespace, chosen: dict[str, list[Any]], overrides: list[str]) -> None:
    """Evaluate one network."""
    is_weights = any(override.startswith(("+step=", "+transform=")) for override in overrides)
    trained = _from_weights(options, overrides) if is_weights else _from_run(options)
    data = trained.spec.data if is_weights else _data(trained.spec.data, overrides)
    is_other = not is_weights and data != trained.spec.data
    path = _path(options, trained, data, is_other)
    _check_classes(trained, data)
    evaluator = Evaluator(trained, spec_with_data(trained.spec, data, is_other))
    evaluation, result = evaluator.clean()
    result = _identity(options, trained, data) | result
    if is_weights:
        result["weights"] = options.source
    elif not is_other and not options.ema and trained.folder is not None:
        result["differs_from_run"] = _num_different(trained, evaluation.correct)
    if not options.no_receptive_field:
        result["receptive_field"] = evaluator.receptive_field()
    if chosen["corruptions"]:
        corrupted = evaluator.corrupted(chosen["corruptions"], chosen["severities"])
        values = [value for by_severity in corrupted.values() for value in by_severity.values()]
        result |= {"corruptions": corrupted, "corrupted_top1": float(np.mean(values))}
    _write(path, result)  # before the latency, for which a large batch may need too much memory
    if not options.no_latency:
        result["latency"] = measure_latency(trained, options.batch_size)
        _write(path, result)
    _print(result)
    if path is not None:
        print(f"written: {path}")


def _identity(options: argparse.Namespace, trained: TrainedModel, data: DataSpec) -> dict[str, Any]:
    """Return which weights and images an evaluation is of."""
    weights = "model_ema.pt" if options.ema else "model.pt"
    images = {"data": data.name, "root": data.root, "split": data.test_split, "holdout": data.holdout}
    return {"weights": weights, "run": trained.record.get("started_at"), **images}


def _write(path: Path | None, result: dict[str, Any]) -> None:
    """Write the results; keep those of an earlier evaluation of the same weights and images that are not measured."""
    if path is None:
        return
    earlier = read_evaluation(path.parent, path.name) or {}
    is_same = all(earlier.get(name) == result[name] for name in ("weights", "run", "data", "root", "split", "holdout"))
    text = json.dumps((earlier if is_same else {}) | result, indent=1, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode() + b"\n")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="roadmap evaluate",
        description="Evaluate a trained network on a test set, clean and corrupted.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="RUN|WEIGHTS", help="the run, or the weights")
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="data=..., corruptions=..., severities=...")
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="JSON file; by default evaluation.json in the run's folder"
    )
    parser.add_argument("--ema", action="store_true", help="evaluate the moving average of the weights")
    parser.add_argument("--batch-size", type=int, help="of the throughput; by default 64 on a CPU, 256 on a GPU")
    parser.add_argument("--no-receptive-field", action="store_true", help="do not compute the receptive field")
    parser.add_argument("--no-latency", action="store_true", help="do not measure latency and throughput")
    parser.add_argument("--device", default="auto", choices=list(Device.__members__), help="by default auto")
    parser.add_argument("--out", type=Path, default=Path("experiments"), help="folder of runs; by default experiments")
    parser.add_argument("--config-dir", metavar="DIR", help="folder with configs of your own")
    options = parser.parse_intermixed_args(arguments)
    if options.batch_size is not None and options.batch_size < 1:
        raise SpecError(f"--batch-size={options.batch_size}: must be positive")
    return options


def _check_installed() -> None:
    try:
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise SpecError("evaluate: needs torchmetrics; pip install 'roadmap[evaluate]'") from error


def _own_settings(words: list[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the corruptions and the severities, and the other overrides."""
    chosen: dict[str, list[Any]] = {"corruptions": [], "severities": list(SEVERITIES)}
    rest = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise SpecError(f"{printable(word, 100)}: is not an override; write FIELD=VALUE")
        values = [part.strip() for part in value.strip("[]").split(",") if part.strip()]
        if name == "corruptions":
            chosen[name] = list(CORRUPTIONS) if values == ["all"] else [] if values == ["none"] else values
            for part in chosen[name]:
                if part not in CORRUPTIONS:
                    raise SpecError(
                        f"corruptions={printable(part, 100)}: unknown; {suggest(part, [*CORRUPTIONS, 'all'])}"
                    )
        elif name == "severities":
            if not values or any(part not in map(str, SEVERITIES) for part in values):
                raise SpecError(f"severities={printable(value, 100)}: must be numbers from 1 to 5, as severities=1,3,5")
            chosen[name] = [int(part) for part in values]
        else:
            rest.append(word)
    return chosen, rest


def _from_weights(options: argparse.Namespace, overrides: list[str]) -> TrainedModel:
    spec = compose(*overrides, f"weights={options.source}")
    model = build_network(spec.network, spec.data.image_size)
    weights.load_into(model, spec)
    device_config = choose_device(Device[options.device], spec.precision)
    return TrainedModel(model.to(device_config.device).eval(), spec, {}, class_names(spec.data), device_config)


def _from_run(options: argparse.Namespace) -> TrainedModel:
    return load(find_run(options.source, options.out), options.device, options.ema)


def _data(own: DataSpec, overrides: list[str]) -> DataSpec:
    """Return the data of the evaluation: those of the run, changed by `data=NAME` and `data.FIELD=VALUE`."""
    config = OmegaConf.structured(own)
    fields = [override for override in overrides if override.startswith("data.")]
    names = [override.removeprefix("data=") for override in overrides if override.startswith("data=")]
    if unknown := [override for override in overrides if override not in fields and not override.startswith("data=")]:
        raise SpecError(f"{printable(unknown[0], 100)}: has no effect here; set data=NAME or data.FIELD=VALUE")
    try:
        if names:
            path = find_config("data", names[-1]) if is_file_name(names[-1]) else None
            if path is None:
                hint = suggest(names[-1], config_names("data"))
                raise SpecError(f"data={printable(names[-1], 100)}: unknown; {hint}")
            preset: Any = OmegaConf.merge(OmegaConf.structured(DataSpec), read_yaml(path))
            known = [name for name in PLACE if not OmegaConf.is_missing(preset, name)]
            config = OmegaConf.merge(config, {name: preset[name] for name in known})
        given = OmegaConf.from_dotlist([field.removeprefix("data.") for field in fields])
        data = OmegaConf.to_object(OmegaConf.merge(config, given))
    except CONFIG_ERRORS as error:
        raise SpecError(one_line_message(error)) from error
    assert isinstance(data, DataSpec)
    if not overrides:
        return own
    check_limits(data, "data.")
    return complete_data_spec(dataclasses.replace(data), dry_run=False)


def _check_classes(trained: TrainedModel, data: DataSpec) -> None:
    """Raise SpecError if the folders of the images are other classes than those of the network, in their order."""
    names = class_names(data) if data.name == trained.spec.data.name else None
    if names is not None and trained.class_names is not None and list(names) != trained.class_names:
        ours, theirs = (printable(", ".join(x[:5]), 100) for x in (trained.class_names, list(names)))
        raise SpecError(f"data.root={data.root}: has the classes {theirs}, the network {ours}; rename the folders")


def _path(options: argparse.Namespace, trained: TrainedModel, data: DataSpec, is_other: bool) -> Path | None:
    """Return the file of the results; None for weights without --to."""
    path: Path | None = options.to
    if path is None and trained.folder is not None and not options.source.startswith(HUB):  # not into the hub's cache
        name = data.name.replace("/", "-")
        suffix = "-ema" if options.ema else ""
        path = trained.folder / (f"evaluation-{name}{suffix}.json" if is_other else f"evaluation{suffix}.json")
    if path is not None:
        check_writable("--to", path.parent)
        if path.is_dir():
            raise SpecError(f"--to={path}: is a folder; give the name of a file")
    return path


def _num_different(trained: TrainedModel, correct: np.ndarray) -> int | None:
    """Return on how many test images the result differs from that of the run's own evaluation."""
    assert trained.folder is not None
    try:
        recorded = read_correct(trained.folder, trained.record.get("num_test"))
    except ValueError:
        return None
    return None if recorded.shape != correct.shape else int((recorded != correct).sum())


def _print(result: dict[str, Any]) -> None:
    print(
        f"{result['data']}, {result['num_images']:,} images: top-1 {result['top1']:.2f} %, "
        f"top-5 {result['top5']:.2f} %, loss {result['loss']:.4f}, "
        f"expected calibration error {result['calibration_error']:.2f} %"
    )
    if result.get("differs_from_run") is not None:
        count = result["differs_from_run"]
        print("the same images as in the run are correct" if count == 0 else f"{count} images differ from the run")
    of_class = zip(result["classes"], result["top1_of_class"], strict=True)
    shown = [f"{printable(name, 40)} {value:.1f} %" for name, value in of_class if value is not None]
    print(f"top-1 of each class: {', '.join(shown[:20])}{', ...' if len(shown) > 20 else ''}")
    for name, by_severity in result.get("corruptions", {}).items():
        print(f"{name}: " + ", ".join(f"{value:.1f} %" for value in by_severity.values()))
    if "corrupted_top1" in result:
        print(f"mean over corruptions and severities: {result['corrupted_top1']:.2f} %")
    if field := result.get("receptive_field"):
        side, size = field["half_side"], field["image_size"]
        print(f"effective receptive field: half of the gradient within {side} x {side} of {size} x {size} pixels")
    if latency := result.get("latency"):
        print(
            f"{latency['device']}, {latency['precision']}: {latency['batch_1_ms']:.3g} ms for one image, "
            f"{latency['images_per_second']:,.0f} images/s with batches of {latency['batch_size']}"
        )
