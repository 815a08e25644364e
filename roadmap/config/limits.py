"""Limits of all numbers of a config. Larger numbers are refused before anything is allocated or trained."""

from __future__ import annotations

import dataclasses
from math import isfinite
from typing import Any

from roadmap.config.names import LABEL_RULE, is_label, printable
from roadmap.config.schema import SpecError

LONGEST_TEXT = 1000  # characters of a text field
MAX_SWEEP_RUNS = 10_000  # runs of one command
# Field -> largest value. Limits that depend on other values, such as the size of the dataset, are checked elsewhere.
LARGEST: dict[str, float] = {
    "network.depths": 1_000,
    "network.width": 2_048,
    "network.stem_stride": 4,
    "network.kernel_size": 255,
    "network.layer_scale": 1e6,
    "network.drop_path": 1,
    "network.init_std": 1,
    "network.squeeze_excitation": 1,
    "network.dropout": 1,
    "network.num_classes": 1_000_000,
    "network.in_chans": 3,
    "network.heads": 2_048,
    "recipe.epochs": 100_000,
    "recipe.warmup_epochs": 100_000,
    "recipe.batch_size": 1_000_000,
    "recipe.lr": 1e6,
    "recipe.momentum": 1,
    "recipe.betas": 1,
    "recipe.weight_decay": 1e6,
    "recipe.min_lr": 1e6,
    "recipe.decay_epochs": 100_000,
    "recipe.decay_rate": 1e6,
    "recipe.norm_batch_size": 1_000_000,
    "recipe.mix_batch_size": 1_000_000,
    "recipe.mixup": 1e6,
    "recipe.cutmix": 1e6,
    "recipe.random_erasing": 1,
    "recipe.label_smoothing": 1,
    "recipe.drop_path": 1,
    "recipe.ema_decay": 1,
    "recipe.layer_scale": 1e6,
    "recipe.test_crop": 1,
    "budget.epochs": 100_000,
    "budget.batch_size": 1_000_000,
    "budget.lr_multiplier.sgd": 1e6,
    "budget.lr_multiplier.adamw": 1e6,
    "budget.regularization": 1,
    "budget.train_images": 10_000_000_000,
    "budget.test_images": 10_000_000_000,
    "budget.evaluations": 100_000,
    "data.num_classes": 1_000_000,
    "data.in_chans": 3,
    "data.image_size": 4_096,
    "data.stem_stride": 4,
    "data.crop_padding": 4_096,
    "data.flip": 1,
    "data.mean": 1e6,
    "data.std": 1e6,
    "data.holdout": 10_000_000_000,
    "data.num_train": 10_000_000_000,
    "data.workers": 256,
    "data.quick_epochs": 100_000,
    "data.quick_batch_size": 1_000_000,
    "base.depths": 1_000,
    "base.width": 2_048,
    "base.swin_depths": 1_000,
    "base.swin_width": 2_048,
    "base.wide_width": 2_048,
    "base.start_width": 2_048,
    "base.drop_path": 1,
    "base.init_std": 1,
    "base.width_factor": 100,
    "base.depth_factor": 100,
    "base.reference_depths": 1_000,
    "base.reference_heads": 2_048,
    "base.paper_table": 11,
    "design.orders": 100,
    "design.order_seed": 2**63 - 1,
    "tune.trials": 10_000,
    "tune.seed": 2**63 - 1,
    "search.budget": MAX_SWEEP_RUNS,
    "search.max_macs": 1e15,
    "search.min_images_per_second": 1e9,
    "search.confirm_seeds": 100,
    "search.seed": 2**63 - 1,
    "seed": 2**63 - 1,
    "accumulate": 1_000_000,
    "processes": 1024,
    "parallel": 1_024,
    "checkpoint_minutes": 1e6,
    "checkpoint_steps": 1_000_000_000_000,
    "log_every": 1_000_000_000,
}


def check_limits(section: Any, prefix: str = "") -> None:
    """Raise SpecError for a number above its limit, a number that is not finite, and text that is not one line."""
    for field in dataclasses.fields(section):
        value, path = getattr(section, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            check_limits(value, f"{path}.")
        elif isinstance(value, str):
            _check_text(value, path)
        elif path in ("tune.space", "logger", "design.needs"):  # see search_space, trackers and designs
            continue
        elif path == "transforms":
            for name, info in value.items():
                _require(is_label(info.label), f"{path}.{name}.label={printable(info.label, 100)}: {LABEL_RULE}")
        else:
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int | float) and not isinstance(number, bool):
                    check_number(number, path, shown=value)


def check_number(number: float, path: str, shown: Any = None) -> None:
    """Raise SpecError if `number`, a value of the field `path`, is above its limit or not finite."""
    largest = LARGEST[path]
    shown = printable(str(number if shown is None else shown), 100)
    _require(isinstance(number, int) or isfinite(number), f"{path}={shown}: must be finite")
    _require(number <= largest, f"{path}={shown}: must be at most {format_limit(largest)}")


def format_limit(largest: float) -> str:
    """Return a limit as it is written in messages and in the documentation."""
    return "2^63 - 1" if largest == 2**63 - 1 else f"{int(largest)}"


def _check_text(text: str, path: str) -> None:
    _require(text.isprintable(), f"{path}={printable(text, 100)}: must not contain line breaks or control characters")
    _require(len(text) <= LONGEST_TEXT, f"{path}={printable(text, 100)}: must have at most {LONGEST_TEXT} characters")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise SpecError(message)
