"""Check for fields of the data that have no effect on the dataset. They would change the hash of the run."""

from __future__ import annotations

from dataclasses import fields

from roadmap.config.datasets import KNOWN_DATASETS, Source
from roadmap.config.schema import DataSpec
from roadmap.config.validation import require

ARRAYS = ("digits", "fashion_mnist", "cifar10", "cifar100")  # datasets that are read as one array, without image files


def check_effects(data: DataSpec) -> None:
    """Raise SpecError for a field that is set although the reader of this dataset does not use it."""
    known = KNOWN_DATASETS.get(data.name)
    reader = data.name.split("/")[0].lower() if known is None else known.source.value
    without_effect: list[str] = []
    if known is not None and known.source is not Source.folder:
        without_effect += ["train_split", "test_split"]
    if reader != "hfds":
        without_effect += ["input_key", "target_key"]
    if reader not in ("wds", "hfids", "tfds"):
        without_effect += ["num_train"]
    if data.name in ARRAYS:
        without_effect += ["on_error"]
    defaults = {field.name: field.default for field in fields(DataSpec)}
    for name in without_effect:
        value = getattr(data, name)
        message = f"has no effect with data.name={data.name}; leave it out"
        require(value == defaults[name], f"data.{name}", value, message)
