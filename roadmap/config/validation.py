"""Validation of a composed run: each error names the field and says what to do."""

from __future__ import annotations

import os
from enum import Enum
from math import isfinite
from pathlib import Path

from roadmap.config.schema import BaseSpec, DesignSpec, NetworkSpec, RecipeSpec, RunSpec, SpecError


def require(holds: bool, field_name: str, value: object, what: str) -> None:
    """Raise SpecError unless `holds`."""
    if not holds:
        shown = value.value if isinstance(value, Enum) else value
        raise SpecError(f"{field_name}={shown}: {what}")


def validate_network(spec: NetworkSpec) -> None:
    """Raise SpecError where the network has no meaning."""
    require(len(spec.depths) == 4, "network.depths", spec.depths, "give the blocks of the four stages")
    require(min(spec.depths) >= 1, "network.depths", spec.depths, "every stage needs a block")
    require(spec.width >= 1, "network.width", spec.width, "must be a positive number of channels")
    heads = spec.reference is None or (spec.heads is not None and spec.heads >= 1 and spec.width % spec.heads == 0)
    require(heads, "network.heads", spec.heads, f"must divide network.width={spec.width}")
    require(spec.stem_stride in (1, 2, 4), "network.stem_stride", spec.stem_stride, "must be 1, 2 or 4")
    odd = spec.kernel_size >= 1 and spec.kernel_size % 2 == 1
    require(odd, "network.kernel_size", spec.kernel_size, "must be a positive odd number")
    moved = not spec.spatial_first or spec.depthwise
    require(moved, "network.spatial_first", True, "only a depthwise convolution moves up: set network.depthwise=true")
    check_fraction(spec.drop_path, "network.drop_path")
    if spec.layer_scale is not None:
        check_positive(spec.layer_scale, "network.layer_scale")
    classes = spec.num_classes is not None and spec.num_classes >= 1
    require(classes, "network.num_classes", spec.num_classes, "must be a positive number of classes")
    require(spec.in_chans >= 1, "network.in_chans", spec.in_chans, "must be a positive number of channels")


def validate_base(spec: BaseSpec) -> None:
    """Raise SpecError where its factors are no factors."""
    for name in ("width_factor", "depth_factor"):
        check_positive(getattr(spec, name), f"base.{name}")


def validate(spec: RunSpec) -> None:
    """Raise SpecError, before anything is built or written, where the run is impossible or contradicts itself."""
    _validate_transforms(spec)
    validate_network(spec.network)
    _validate_recipe(spec.recipe)
    _validate_budget(spec)
    _validate_data(spec)
    _validate_design(spec.design)
    require(spec.seed >= 0, "seed", spec.seed, "must not be negative")
    for name in ("study", "out", "reports"):
        require(bool(getattr(spec, name).strip()), name, repr(getattr(spec, name)), "must not be empty")
    for name in ("parallel", "checkpoint_steps"):
        value = getattr(spec, name)
        require(value is None or value >= 1, name, value, "must be positive, or null")
    check_positive(spec.checkpoint_minutes, "checkpoint_minutes", zero=True)
    parts = 1 <= spec.accumulate <= (spec.budget.batch_size or spec.recipe.batch_size)
    require(parts, "accumulate", spec.accumulate, "must be from 1 to the batch size")
    for name in ("out", "reports"):
        folder = Path(getattr(spec, name)).absolute()
        parent = next(path for path in (folder, *folder.parents) if path.exists())
        writable = parent.is_dir() and os.access(parent, os.W_OK)
        require(writable, name, getattr(spec, name), f"{parent} is not a folder that can be written to")
    if spec.weights is not None and not spec.weights.startswith("timm/"):
        require(Path(spec.weights).is_file(), "weights", spec.weights, "no such file; give one, or timm/NAME")
    require(spec.weights is not None or not spec.new_head, "new_head", True, "goes with weights=...")


def _validate_transforms(spec: RunSpec) -> None:
    for name, info in spec.transforms.items():
        for needed in info.needs:
            if needed not in spec.transforms:
                raise SpecError(f"transform={name}: {name} needs {needed}; add it, or leave {name} out")

    others = [name for name, info in spec.transforms.items() if not info.reference]
    for name, info in spec.transforms.items():
        require(not (info.reference and others), "transform", name, f"is a network of its own; leave {others} out")


def _validate_design(design: DesignSpec) -> None:
    even = design.orders >= 2 and design.orders % 2 == 0
    require(even, "design.orders", design.orders, "must be a positive even number: each order comes with its opposite")
    require(design.order_seed >= 0, "design.order_seed", design.order_seed, "must not be negative")


def _validate_recipe(recipe: RecipeSpec) -> None:
    for name in ("epochs", "lr", "decay_epochs", "decay_rate"):
        check_positive(getattr(recipe, name), f"recipe.{name}")
    for name in ("weight_decay", "mixup", "cutmix", "min_lr"):
        check_positive(getattr(recipe, name), f"recipe.{name}", zero=True)
    for name in ("momentum", "random_erasing", "label_smoothing", "drop_path"):
        check_fraction(getattr(recipe, name), f"recipe.{name}")
    require(0 < recipe.test_crop <= 1, "recipe.test_crop", recipe.test_crop, "must be above 0 and at most 1")
    require(recipe.batch_size >= 1, "recipe.batch_size", recipe.batch_size, "must be positive")
    betas = len(recipe.betas) == 2 and all(0 <= beta < 1 for beta in recipe.betas)
    require(betas, "recipe.betas", recipe.betas, "must be two numbers from 0 to below 1")
    warm = 0 <= recipe.warmup_epochs < recipe.epochs
    require(
        warm, "recipe.warmup_epochs", recipe.warmup_epochs, f"must be from 0 to below recipe.epochs={recipe.epochs}"
    )
    require(recipe.min_lr < recipe.lr, "recipe.min_lr", recipe.min_lr, f"must be below recipe.lr={recipe.lr}")
    known = recipe.interpolation in ("nearest", "bilinear", "bicubic")
    require(known, "recipe.interpolation", recipe.interpolation, "must be nearest, bilinear or bicubic")
    augment = recipe.rand_augment is None or recipe.rand_augment.startswith("rand-")
    require(augment, "recipe.rand_augment", recipe.rand_augment, "write it as timm does: rand-m9-mstd0.5-inc1, or null")


def _validate_budget(spec: RunSpec) -> None:
    budget, recipe = spec.budget, spec.recipe
    if budget.epochs is not None:
        check_positive(budget.epochs, "budget.epochs")
    batch_size = recipe.batch_size if budget.batch_size is None else budget.batch_size
    require(batch_size >= 1, "budget.batch_size", batch_size, "must be positive")
    pairs = batch_size % 2 == 0 or not (recipe.mixup or recipe.cutmix)
    require(pairs, "budget.batch_size", batch_size, "Mixup and CutMix pair the images of a batch: make it even")
    check_fraction(budget.regularization, "budget.regularization", one=True)
    for name in ("train_images", "test_images"):
        value = getattr(budget, name)
        require(value is None or value >= 1, f"budget.{name}", value, "must be positive, or null for all")
    require(
        budget.evaluations >= 1, "budget.evaluations", budget.evaluations, "the last epoch is evaluated: at least 1"
    )
    for name, factor in vars(budget.lr_multiplier).items():
        check_positive(factor, f"budget.lr_multiplier.{name}")


def _validate_data(spec: RunSpec) -> None:
    data, network = spec.data, spec.network
    require(data.image_size >= 1, "data.image_size", data.image_size, "must be a positive number of pixels")
    smallest = 8 * network.stem_stride
    what = f"the last map would be below 1x1; use {smallest} or more, or a smaller network.stem_stride"
    what += f" than {network.stem_stride}"
    require(data.image_size >= smallest, "data.image_size", data.image_size, what)
    require(data.in_chans in (1, 3), "data.in_chans", data.in_chans, "must be 1 (grey) or 3 (colour)")
    same = f"the images have {data.in_chans}; set data.in_chans instead"
    require(network.in_chans == data.in_chans, "network.in_chans", network.in_chans, same)
    fits = data.num_classes is None or network.num_classes == data.num_classes
    require(fits, "network.num_classes", network.num_classes, f"data={data.name} has {data.num_classes} classes")
    require(data.crop_padding >= 0, "data.crop_padding", data.crop_padding, "must not be negative")
    check_fraction(data.flip, "data.flip", one=True)
    for name in ("mean", "std"):
        values = getattr(data, name)
        # A colour preset read as grey (data.in_chans=1) keeps its three numbers: their mean serves.
        counts = len(values) in (1, data.in_chans) or (data.in_chans == 1 and len(values) > 0)
        require(counts, f"data.{name}", values, f"give 1 or {data.in_chans} numbers, one per channel")
    require(min(data.std) > 0, "data.std", data.std, "must be positive")
    held = data.holdout is None or data.holdout >= 1
    require(held, "data.holdout", data.holdout, "must be positive, or null for the test set")
    require(data.workers is None or data.workers >= 0, "data.workers", data.workers, "must not be negative")


def check_positive(value: float, name: str, *, zero: bool = False) -> None:
    holds = isfinite(value) and (value > 0 or (zero and value == 0))
    require(holds, name, value, "must not be negative" if zero else "must be positive")


def check_fraction(value: float, name: str, *, one: bool = False) -> None:
    holds = 0 <= value < 1 or (one and value == 1)
    require(holds, name, value, "must be from 0 to 1" if one else "must be from 0 to below 1")
