"""The subcommand `roadmap predict`: classify images with the network of a run."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import PIL
from PIL import Image
from torch import Tensor

from roadmap.config.choices import Device
from roadmap.config.names import printable
from roadmap.config.schema import SpecError
from roadmap.data.images import UNREADABLE
from roadmap.inference import BATCH_SIZE, HUB, TrainedModel, load
from roadmap.runtime.exit_codes import EXIT_COMPLETED

DEFAULT_TOP = 3
DESCRIPTION = "Classify images with the trained network of a run."
EPILOG = """RUN is the folder of a run, the name of a run in OUT/runs, or hf-hub:OWNER/NAME.

examples:
  roadmap predict experiments/runs/NAME cat.jpg dog.png
  roadmap predict NAME --top 5 --json images/*.jpg
"""


def predict_command(arguments: list[str]) -> int:
    """Print the most probable classes of each image and return the exit code.

    Raises SpecError for a run that cannot be loaded and for an image that cannot be read.
    """
    options = _parse(arguments)
    for path in options.images:
        _check_image(path)
    trained = load(find_run(options.run, options.out), options.device)
    num_classes = trained.spec.network.num_classes or 0
    if options.top is not None and not 1 <= options.top <= num_classes:
        raise SpecError(f"--top={options.top}: must be from 1 to {num_classes}, the number of classes")
    top = options.top or min(DEFAULT_TOP, num_classes)
    lines = []
    for path, classes in _predictions(trained, options.images, top):
        if options.json:
            shown = [{"label": label, "class": name, "probability": p} for label, name, p in classes]
            lines.append(json.dumps({"image": str(path), "classes": shown}))
        else:
            print(
                f"{printable(str(path))}: "
                + ", ".join(f"{printable(name, 80)} {100 * p:.1f} %" for _, name, p in classes)
            )
    if options.json:
        print("[" + ",\n ".join(lines) + "]")
    return EXIT_COMPLETED


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="roadmap predict",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="the run whose network classifies the images")
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="image files")
    parser.add_argument("--top", type=int, metavar="K", help=f"number of classes to print; by default {DEFAULT_TOP}")
    parser.add_argument("--device", default="auto", choices=list(Device.__members__), help="by default auto")
    parser.add_argument("--out", type=Path, default=Path("experiments"), help="folder of runs; by default experiments")
    parser.add_argument("--json", action="store_true", help="print a JSON list, with one entry per image")
    return parser.parse_args(arguments)


def find_run(run: str, out: Path) -> str | Path:
    """Return what `roadmap.inference.load` reads: `run` itself, or the run of this name in `out`."""
    is_name = not run.startswith(HUB) and len(Path(run).parts) == 1 and run not in (".", "..")
    return out / "runs" / run if is_name and not os.path.lexists(run) else run


def _check_image(path: Path) -> None:
    """Raise SpecError unless `path` is a file with the header of an image."""
    try:
        if not path.exists():
            raise SpecError(f"{_shown(path)}: no such file")
        if not path.is_file():
            raise SpecError(f"{_shown(path)}: is not a file; give image files")
        with Image.open(path):
            pass
    except UNREADABLE as error:
        if isinstance(error, SpecError):
            raise
        raise _unreadable(path, error) from error


def _predictions(
    trained: TrainedModel, paths: list[Path], top: int
) -> Iterator[tuple[Path, list[tuple[int, str, float]]]]:
    """Yield each path with its most probable classes: label, name and probability."""
    for start in range(0, len(paths), BATCH_SIZE):
        chosen = paths[start : start + BATCH_SIZE]
        batch: list[Tensor] = []
        for path in chosen:
            try:
                with Image.open(path) as image:
                    batch.append(trained.preprocess(image))
            except UNREADABLE as error:
                raise _unreadable(path, error) from error
        best = trained.predict(batch).topk(top)
        for path, labels, probabilities in zip(chosen, best.indices.tolist(), best.values.tolist(), strict=True):
            names = [trained.class_names[i] if trained.class_names else f"class {i}" for i in labels]
            yield path, list(zip(labels, names, probabilities, strict=True))


def _unreadable(path: Path, error: Exception) -> SpecError:
    if isinstance(error, PIL.UnidentifiedImageError):
        reason = "is not an image that Pillow can read"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = f"cannot be read as an image ({printable(str(error), 200) or type(error).__name__})"
    return SpecError(f"{_shown(path)}: {reason}; repair it, or leave it out")


def _shown(path: Path) -> str:
    return printable(str(path), 200)
