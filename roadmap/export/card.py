"""The model card of a run: a README.md with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData
from scipy.stats import binomtest

from roadmap.analysis.statistics import t_interval
from roadmap.inference import TrainedModel
from roadmap.records.record import COMPLETED, read_record
from roadmap.records.scores import read_scores

RECIPE = (  # field of the recipe, and its name in the card
    ("optimizer", "optimizer"), ("schedule", "schedule of the learning rate"), ("weight_decay", "weight decay"),
    ("rand_augment", "RandAugment"), ("mixup", "Mixup (alpha)"), ("cutmix", "CutMix (alpha)"),
    ("random_erasing", "random erasing (probability)"), ("label_smoothing", "label smoothing"),
    ("drop_path", "stochastic depth (rate)"), ("ema_decay", "decay of the average of the weights"),
)  # fmt: skip
CITATION = """```bibtex
@inproceedings{liu2022convnet,
  title     = {A ConvNet for the 2020s},
  author    = {Liu, Zhuang and Mao, Hanzi and Wu, Chao-Yuan and Feichtenhofer, Christoph and Darrell, Trevor and
               Xie, Saining},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2022},
}
```"""


def model_card(trained: TrainedModel, usage: list[str], license_name: str) -> str:
    """Return the text of the card; `usage` are its Python examples."""
    record, spec = trained.record, trained.spec
    title = f"{spec.label or spec.name} on {record['data']}"
    parts = [
        f"# {title}",
        f"The network `{spec.name}` of the roadmap `{spec.roadmap}`, base `{record['base']}`, trained on "
        f"`{record['data']}` with seed {record['seed']}. {record['params']:,} parameters, {record['gmacs']:.4g} GMACs "
        f"for an image of {spec.data.image_size} pixels.",
        "## Usage",
        *(f"```python\n{example}\n```" for example in usage),
        "## Data",
        _data(trained),
        "## Recipe",
        _recipe(record),
        "## Results",
        _results(trained),
        "## Reproduction",
        _reproduction(record),
        "## Citation",
        CITATION,
    ]
    return f"---\n{_metadata(trained, license_name)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _scores(record: dict[str, Any], is_ema: bool) -> dict[str, Any]:
    return record["ema"] if is_ema else record  # type: ignore[no-any-return]


def _metadata(trained: TrainedModel, license_name: str) -> str:
    record = trained.record
    scores = _scores(record, trained.is_ema)
    split = "test" if trained.spec.data.holdout is None else "validation"
    common = {"task_type": "image-classification", "dataset_type": record["data"], "dataset_name": record["data"]}
    results = [
        EvalResult(**common, dataset_split=split, metric_type=kind, metric_name=name, metric_value=scores[key])  # type: ignore[arg-type]
        for kind, name, key in (("accuracy", "top-1 (%)", "top1"), ("accuracy", "top-5 (%)", "top5"))
        if key in scores
    ]
    data = ModelCardData(
        model_name=f"{record['name']}-{record['config_hash']}-seed{record['seed']}",
        eval_results=results,
        license=license_name,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "roadmap", "ablation-study"],
        datasets=[record["data"]],
        metrics=["accuracy"],
    )
    return str(data.to_yaml())


def _data(trained: TrainedModel) -> str:
    data, record = trained.spec.data, trained.record
    size = f"{data.image_size} x {data.image_size} pixels, {data.in_chans} channel{'s' * (data.in_chans > 1)}"
    crop = "no crop" if data.small_images else f"centre crop of {trained.spec.recipe.test_crop:g} of the side"
    lines = [
        f"- Dataset: `{record['data']}`, {_number(record, 'num_train')} training images, "
        f"{_number(record, 'num_test')} {'held-out training' if data.holdout else 'test'} images, "
        f"{trained.spec.network.num_classes} classes.",
        f"- Input: {size}; {trained.spec.recipe.interpolation} interpolation, {crop}; mean {list(data.mean)}, standard "
        f"deviation {list(data.std)} per channel.",
    ]
    if trained.class_names is not None:
        lines.append(f"- Classes, in order: {', '.join(trained.class_names)}.")
    return "\n".join(lines)


def _number(record: dict[str, Any], name: str) -> str:
    """Return a number of images; records of streamed datasets do not have it."""
    return "unknown number of" if record.get(name) is None else f"{record[name]:,}"


def _recipe(record: dict[str, Any]) -> str:
    schedule, recipe = record.get("plan") or {}, record["config"]["recipe"]
    names = (("epochs", "epochs"), ("batch_size", "batch size"), ("lr", "peak learning rate"))
    rows = [(title, schedule[name]) for name, title in names if name in schedule]
    rows += [(title, recipe[name]) for name, title in RECIPE if recipe.get(name) not in (None, 0.0)]
    rows += [("precision", record["device"]["precision"]), ("device", record["device"]["name"])]
    cells = [
        f"| {title} | {value:g} |" if isinstance(value, float) else f"| {title} | {value} |" for title, value in rows
    ]
    return "\n".join(["| setting | value |", "| :--- | :--- |", *cells])


def _results(trained: TrainedModel) -> str:
    record, folder = trained.record, trained.folder
    scores = _scores(record, trained.is_ema)
    of_weights = " of the average of the weights" if trained.is_ema else ""
    interval = _interval_over_images(record, folder) if not trained.is_ema and folder is not None else ""
    lines = [
        f"- Top-1{of_weights}: {scores['top1']:.2f} %{interval}.",
        f"- Top-5{of_weights}: {scores['top5']:.2f} %." if "top5" in scores else "",
    ]
    if folder is not None:
        of_seeds = [_scores(other, trained.is_ema)["top1"] for other in _same_config(record, folder)]
        if len(of_seeds) > 1:
            low, high = t_interval(of_seeds)
            mean, std = float(np.mean(of_seeds)), float(np.std(of_seeds, ddof=1))
            lines.append(
                f"- Top-1 over {len(of_seeds)} seeds of this setting: {mean:.2f} ± {std:.2f} %, 95 % interval of the "
                f"mean {low:.2f} to {high:.2f} %."
            )
    return "\n".join(line for line in lines if line)


def _interval_over_images(record: dict[str, Any], folder: Path) -> str:
    scores = read_scores(folder, record)
    if scores.problem is not None:
        return ""
    correct = scores.values > 0
    interval = binomtest(int(correct.sum()), len(correct)).proportion_ci()
    return f" (95 % interval over the {len(correct)} images: {100 * interval.low:.2f} to {100 * interval.high:.2f} %)"


def _same_config(record: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Return the records of all completed seeds of this setting, beside the run."""
    found = [read_record(path) for path in sorted(folder.resolve().parent.glob(f"*-{record['config_hash']}-seed*"))]
    return [other for other in found if other is not None and other["status"] == COMPLETED] or [record]


def _reproduction(record: dict[str, Any]) -> str:
    versions, git = record["versions"], record["git"]
    commit = f", commit {git['commit']}" if git.get("commit") else ""
    names = ("torch", "torchvision", "timm")
    libraries = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    command = shlex.join(["roadmap", *shlex.split(record["command"])[2:]])
    made_with = f"roadmap {versions.get('roadmap', '')}{commit}; {libraries}; Python {versions['python']}."
    return f"```bash\n{command}\n```\n\n{made_with}"
