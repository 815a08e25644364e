"""The subcommand `roadmap export`: the network of a run in the formats of other libraries."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from roadmap.commands.predict import find_run
from roadmap.config.names import one_line, printable
from roadmap.config.schema import SpecError
from roadmap.config.validation import check_writable
from roadmap.export.card import model_card
from roadmap.export.onnx import write_onnx
from roadmap.export.timm_files import write_native, write_registered
from roadmap.export.transformers_files import write_transformers
from roadmap.inference import TrainedModel, load
from roadmap.records.record import write_record

TIMM_FOLDER, TRANSFORMERS_FOLDER, CARD_NAME = "timm", "transformers", "README.md"
EPILOG = """RUN is the folder of a run, the name of a run in OUT/runs, or hf-hub:OWNER/NAME.

Writes model.safetensors and config.json, for timm.create_model("local-dir:DIR", pretrained=True) after `import
roadmap.timm`. A ResNet or a ConvNeXt is also written to DIR/timm, with timm's own name, and to DIR/transformers.

example:
  roadmap export experiments/runs/NAME --to exported --onnx --card
"""


def export_command(arguments: list[str]) -> int:
    """Write the network of a run to a new folder, upload it if asked for, and return the exit code.

    Raises SpecError for a run that cannot be loaded, a folder that is not empty, and an upload that is refused.
    """
    options = _parse(arguments)
    _check_folder(options.to)
    trained = load(find_run(options.run, options.out), "cpu", options.ema)
    with tempfile.TemporaryDirectory() as temporary:
        lines = _write(trained, Path(temporary), options)
        options.to.mkdir(parents=True, exist_ok=True)
        for path in Path(temporary).iterdir():
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, options.to / path.name)
    for line in lines:
        print(line)
    if options.push is not None:
        print(_push(options.to, options.push))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="roadmap export",
        description="Write the network of a run for timm, transformers and ONNX.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="the run whose network is exported")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="new or empty folder")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx and compare it with the network")
    parser.add_argument("--card", action="store_true", help="also write a model card, README.md")
    parser.add_argument("--license", default="mit", metavar="NAME", help="license in the model card; by default mit")
    parser.add_argument("--ema", action="store_true", help="export the moving average of the weights")
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="upload the folder to this repository on the Hugging Face hub"
    )
    parser.add_argument("--out", type=Path, default=Path("experiments"), help="folder of runs; by default experiments")
    return parser.parse_args(arguments)


def _check_folder(folder: Path) -> None:
    shown = f"--to={printable(str(folder), 200)}"
    check_writable("--to", folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise SpecError(f"{shown}: is not empty; give a new folder")


def _write(trained: TrainedModel, folder: Path, options: argparse.Namespace) -> list[str]:
    """Write the files to `folder` and return a line for each part."""
    to, source = str(options.to), f"hf-hub:{options.push}" if options.push else f"local-dir:{options.to}"
    name = write_registered(trained, folder)
    record = trained.record | (trained.record["ema"] if trained.is_ema else {})
    write_record(folder, record)  # so that roadmap.load reads the folder, too
    needed = "" if trained.spec.network.reference is not None else "import roadmap.timm\n"
    size = trained.spec.data.image_size
    shape = f"1, {trained.spec.data.in_chans}, {size}, {size}"
    usage = [f'import timm\n{needed}\nmodel = timm.create_model("{source}", pretrained=True)']
    lines = [f"{to}: {name}, for timm.create_model"]
    if native := write_native(trained, folder / TIMM_FOLDER):
        usage.append(f'import timm\n\nmodel = timm.create_model("local-dir:{to}/{TIMM_FOLDER}", pretrained=True)')
        lines.append(f"{options.to / TIMM_FOLDER}: {native}, timm's own network")
    if theirs := write_transformers(trained, folder / TRANSFORMERS_FOLDER):
        path = (
            f'"{options.push}", subfolder="{TRANSFORMERS_FOLDER}"' if options.push else f'"{to}/{TRANSFORMERS_FOLDER}"'
        )
        usage.append(f"from transformers import {theirs}\n\nmodel = {theirs}.from_pretrained({path})")
        lines.append(f"{options.to / TRANSFORMERS_FOLDER}: {theirs} of transformers")
    if options.onnx:
        difference = write_onnx(trained, folder)
        usage.append(
            f'import numpy, onnxruntime\n\nsession = onnxruntime.InferenceSession("{to}/model.onnx")\n'
            f'logits, = session.run(None, {{"images": numpy.zeros(({shape}), numpy.float32)}})'
        )
        lines.append(f"{options.to / 'model.onnx'}: largest difference of the logits in ONNX Runtime {difference:.1e}")
    if options.card:
        (folder / CARD_NAME).write_text(model_card(trained, usage, options.license), encoding="utf-8")
        lines.append(f"{options.to / CARD_NAME}: model card")
    return lines


def _push(folder: Path, repository: str) -> str:
    """Upload the folder to a repository of the Hugging Face hub, which is created if needed; return its address."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # the errors of the HTTP client differ between versions of huggingface_hub
        reason = one_line(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)[:200]
        advice = "check the name, the connection and `hf auth login`"
        raise SpecError(
            f"--push={printable(repository, 100)}: could not be uploaded ({reason}); {advice}; {folder} is kept"
        ) from error
    return f"uploaded to {address}"
