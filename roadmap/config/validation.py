"""Validation of a composed run. Each error names the field, states what is wrong and says what to do."""

from __future__ import annotations

import os
import re
from enum import Enum
from math import isfinite
from pathlib import Path

from roadmap.config.choices import ACTIVATIONS, NORMS, Stem
from roadmap.config.names import STUDY_RULE, is_study_name, printable
from roadmap.config.schema import BaseSpec, DataSpec, DesignSpec, NetworkSpec, RecipeSpec, RunSpec, SpecError
from roadmap.config.trackers import check_trackers
from roadmap.config.user_classes import import_class, is_class_path


def require(holds: bool, field_name: str, value: object, message: str) -> None:
    """Raise SpecError `field_name=value: message` unless `holds`. The value is shown as the user would type it."""
    if holds:
        return
    if isinstance(value, Enum):
        value = value.value
    elif value is None or isinstance(value, bool):
        value = "null" if value is None else str(value).lower()
    raise SpecError(f"{field_name}={printable(str(value), 100)}: {message}")


LONGEST_NAME = 255  # bytes of the name of a file or folder: the limit of usual file systems


def check_positive(value: float, name: str, *, zero: bool = False) -> None:
    """Raise SpecError unless `value` is finite and positive, or 0 where `zero` allows it."""
    require(isfinite(value), name, value, "must be finite")
    holds = value > 0 or (zero and value == 0)
    require(holds, name, value, "must not be negative" if zero else "must be positive")


def check_fraction(value: float, name: str, *, one: bool = False) -> None:
    """Raise SpecError unless 0 <= `value` < 1, or = 1 where `one` allows it."""
    holds = 0 <= value < 1 or (one and value == 1)
    require(holds, name, value, "must be from 0 to 1" if one else "must be from 0 to below 1")


def check_writable(name: str, folder: str | Path, below: str = "") -> None:
    """Raise SpecError, naming the field or option `name`, unless `folder` can be created or is a writable folder.

    With `below`, the same must hold for this subfolder.
    """
    try:
        path = (Path(folder) / below).absolute()
    except FileNotFoundError as error:
        raise SpecError(f"{name}={folder}: the working folder does not exist; change to another folder") from error
    too_long = any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts)
    require(not too_long, name, folder, f"a name has more than {LONGEST_NAME} bytes; use another folder")
    parent = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    dangling = parent.is_symlink() and not parent.exists()
    problem = "is a link to nothing, or to itself" if dangling else "is not a writable folder"
    writable = parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
    require(writable, name, folder, f"{parent} {problem}; use another folder")


def validate_sizes(spec: NetworkSpec) -> None:
    """Raise SpecError unless the depths and the width are possible; called before and after they are scaled."""
    check_depths(spec.depths, "network.depths")
    require(spec.width >= 1, "network.width", spec.width, "must be a positive number of channels")


def check_depths(depths: list[int], name: str) -> None:
    """Raise SpecError unless `depths` are four positive numbers of blocks."""
    require(len(depths) == 4, name, depths, "must be 4 numbers, the blocks of each stage")
    require(min(depths) >= 1, name, depths, "must be at least 1 in every stage")


def validate_network(spec: NetworkSpec) -> None:
    """Raise SpecError if no network can be built from `spec`."""
    validate_sizes(spec)
    positive = spec.heads is None or spec.heads >= 1
    require(positive, "network.heads", spec.heads, "must be positive, or null")
    heads = spec.reference is None or (spec.heads is not None and spec.width % spec.heads == 0)
    require(heads, "network.heads", spec.heads, f"must divide network.width={spec.width}")
    require(spec.stem_stride in (1, 2, 4), "network.stem_stride", spec.stem_stride, "must be 1, 2 or 4")
    odd = spec.kernel_size >= 1 and spec.kernel_size % 2 == 1
    require(odd, "network.kernel_size", spec.kernel_size, "must be a positive odd number")
    possible = not spec.spatial_first or spec.depthwise
    require(possible, "network.spatial_first", True, "needs a depthwise convolution; set network.depthwise=true")
    for name in ("drop_path", "dropout"):
        check_fraction(getattr(spec, name), f"network.{name}")
    if spec.init_std is not None:
        check_positive(spec.init_std, "network.init_std")
    if spec.layer_scale is not None:
        check_positive(spec.layer_scale, "network.layer_scale")
    if spec.squeeze_excitation is not None:
        check_positive(spec.squeeze_excitation, "network.squeeze_excitation")
    message = "there is no strided shortcut with separate_downsampling; leave one of the two out"
    require(not (spec.pool_shortcut and spec.separate_downsampling), "network.pool_shortcut", True, message)
    message = f"the deep stem has half of its channels inside; network.width={spec.width} must be even"
    require(spec.stem is not Stem.deep or spec.width % 2 == 0, "network.stem", spec.stem, message)
    _validate_classes(spec)
    has_classes = spec.num_classes is not None and spec.num_classes >= 1
    require(has_classes, "network.num_classes", spec.num_classes, "must be a positive number of classes")
    require(spec.in_chans >= 1, "network.in_chans", spec.in_chans, "must be a positive number of channels")


def _validate_classes(spec: NetworkSpec) -> None:
    """Raise SpecError for an unknown norm or activation, and for a class of the user that cannot be imported."""
    for name, known in (("norm", NORMS), ("activation", ACTIVATIONS)):
        value = getattr(spec, name)
        message = f"must be one of {', '.join(known)}, or the path of a class, as mypackage.layers.MyLayer"
        require(value in known or is_class_path(value), f"network.{name}", value, message)
        if value not in known:
            import_class(value, f"network.{name}")
    for name in ("conv", "block"):
        if (path := getattr(spec, name)) is not None:
            import_class(path, f"network.{name}")


def validate_base(spec: BaseSpec) -> None:
    """Raise SpecError unless the depths and widths of the base are possible and its factors are positive."""
    for name in ("depths", "swin_depths", "reference_depths"):
        check_depths(getattr(spec, name), f"base.{name}")
    for name in ("width", "swin_width", "wide_width", "start_width", "reference_heads"):
        require(getattr(spec, name) >= 1, f"base.{name}", getattr(spec, name), "must be positive")
    for name in ("width_factor", "depth_factor"):
        check_positive(getattr(spec, name), f"base.{name}")
    check_fraction(spec.drop_path, "base.drop_path")
    if spec.init_std is not None:
        check_positive(spec.init_std, "base.init_std")
    require(spec.paper_table in (None, 10, 11), "base.paper_table", spec.paper_table, "must be 10, 11 or null")


def validate(spec: RunSpec) -> None:
    """Raise SpecError if the run is impossible or contradicts itself. Nothing has been built or written before."""
    _validate_transforms(spec)
    _validate_defaults(spec.data)
    _validate_recipe(spec.recipe)
    validate_network(spec.network)
    _validate_budget(spec)
    _validate_data(spec.data, spec.network)
    validate_design(spec.design)
    require(spec.seed >= 0, "seed", spec.seed, "must not be negative")
    for name in ("parallel", "processes", "checkpoint_steps"):
        value = getattr(spec, name)
        require(value is None or value >= 1, name, value, "must be positive, or null")
    check_positive(spec.checkpoint_minutes, "checkpoint_minutes", zero=True)
    require(spec.log_every >= 1, "log_every", spec.log_every, "must be a positive number of iterations")
    spec.logger = check_trackers(spec.logger)
    batch_size = spec.budget.batch_size or spec.recipe.batch_size
    splits = spec.accumulate is None or 1 <= spec.accumulate <= batch_size
    require(splits, "accumulate", spec.accumulate, f"must be from 1 to the batch size ({batch_size})")
    _validate_files(spec)


def _validate_files(spec: RunSpec) -> None:
    require(is_study_name(spec.study), "study", spec.study, STUDY_RULE)
    for name, folder, written in (("out", spec.out, ("runs", spec.study)), ("reports", spec.reports, (spec.study,))):
        require(bool(folder.strip()), name, repr(folder), "must not be empty")
        if not spec.plan:  # a dry run writes nothing
            for below in written:
                check_writable(name, folder, below)
    if spec.weights is not None and not spec.weights.startswith("timm/"):
        is_file = os.path.isfile(spec.weights)  # noqa: PTH113, as Path.is_file raises OSError for a long name
        require(is_file, "weights", spec.weights, "no such file; give the path of a file, or timm/NAME")
    used = spec.weights is not None or not spec.new_head
    require(used, "new_head", True, "has no effect without weights; set weights=..., or leave new_head out")


def _validate_transforms(spec: RunSpec) -> None:
    for name, info in spec.transforms.items():
        for needed in info.needs:
            message = f"{name} needs {needed}; add it, or leave {name} out"
            require(needed in spec.transforms, "transform", name, message)
    others = [name for name, info in spec.transforms.items() if not info.reference]
    for name, info in spec.transforms.items():
        message = f"is a complete network; leave {', '.join(others)} out"
        require(not (info.reference and others), "transform", name, message)


def validate_design(design: DesignSpec) -> None:
    """Raise SpecError if the numbers of the design are impossible."""
    even = design.orders >= 2 and design.orders % 2 == 0
    message = "must be a positive even number, because each order is followed by its reverse"
    require(even, "design.orders", design.orders, message)
    require(design.order_seed >= 0, "design.order_seed", design.order_seed, "must not be negative")
    for name, needed in design.needs.items():
        named = isinstance(needed, list) and all(isinstance(other, str) and other != name for other in needed)
        valid = named and len(needed) > 0
        require(valid, f"design.needs.{name}", needed, "must be a list of the names of other transforms, as [gelu]")


def _validate_recipe(recipe: RecipeSpec) -> None:
    require(recipe.epochs >= 1, "recipe.epochs", recipe.epochs, "must be at least 1")
    for name in ("lr", "decay_epochs", "decay_rate"):
        check_positive(getattr(recipe, name), f"recipe.{name}")
    if recipe.layer_scale is not None:
        check_positive(recipe.layer_scale, "recipe.layer_scale")
    for name in ("weight_decay", "mixup", "cutmix", "min_lr"):
        check_positive(getattr(recipe, name), f"recipe.{name}", zero=True)
    for name in ("momentum", "random_erasing", "label_smoothing", "drop_path"):
        check_fraction(getattr(recipe, name), f"recipe.{name}")
    if recipe.ema_decay is not None:
        check_fraction(recipe.ema_decay, "recipe.ema_decay")
    require(0 < recipe.test_crop <= 1, "recipe.test_crop", recipe.test_crop, "must be above 0 and at most 1")
    require(recipe.batch_size >= 1, "recipe.batch_size", recipe.batch_size, "must be positive")
    for name in ("mix_batch_size", "norm_batch_size"):
        size = getattr(recipe, name)
        valid = size is None or (size >= 2 and size % 2 == 0)
        require(valid, f"recipe.{name}", size, "must be positive and even, or null for the whole batch")
    betas = len(recipe.betas) == 2 and all(0 <= beta < 1 for beta in recipe.betas)
    require(betas, "recipe.betas", recipe.betas, "must be two numbers from 0 to below 1")
    shorter = 0 <= recipe.warmup_epochs < recipe.epochs
    message = f"must be from 0 to below recipe.epochs={recipe.epochs}"
    require(shorter, "recipe.warmup_epochs", recipe.warmup_epochs, message)
    require(recipe.min_lr < recipe.lr, "recipe.min_lr", recipe.min_lr, f"must be below recipe.lr={recipe.lr}")
    known = recipe.interpolation in ("nearest", "bilinear", "bicubic")
    require(known, "recipe.interpolation", recipe.interpolation, "must be nearest, bilinear or bicubic")
    if recipe.rand_augment is not None:
        rand_augment_settings(recipe.rand_augment)


def rand_augment_settings(notation: str) -> dict[str, float]:
    """Return the settings of RandAugment in timm's notation, such as {"m": 9.0} for rand-m9.

    Raises SpecError for another notation. timm also has settings (p, t, w) that this project does not use.
    """
    start, *settings = notation.split("-")
    patterns = {"m": "[0-9]{1,3}", "n": "[1-9][0-9]?", "mmax": "[1-9][0-9]{,2}", "inc": "[01]"}
    patterns["mstd"] = r"[0-9]{1,4}(\.[0-9]+)?"
    message = "is not in timm's notation; write it as rand-m9-mstd0.5-inc1, or null"
    require(start == "rand", "recipe.rand_augment", notation, message)
    values: dict[str, float] = {}
    for setting in settings:
        name = setting.rstrip("0123456789.")
        valid = name in patterns and re.fullmatch(patterns[name], setting.removeprefix(name)) is not None
        message = f"{setting!r} is invalid; write a number after m, n, mstd, mmax or inc"
        require(valid and name not in values, "recipe.rand_augment", notation, message)
        values[name] = float(setting.removeprefix(name))
    limit = values.get("mmax", 10.0)
    message = f"the magnitude m must be at most {limit:g}, or at most the number after mmax"
    require(values.get("m", 0.0) <= limit <= 100, "recipe.rand_augment", notation, message)
    return values


def _validate_budget(spec: RunSpec) -> None:
    budget, recipe = spec.budget, spec.recipe
    if budget.epochs is not None:
        require(budget.epochs >= 1, "budget.epochs", budget.epochs, "must be at least 1")
    batch_size = recipe.batch_size if budget.batch_size is None else budget.batch_size
    require(batch_size >= 1, "budget.batch_size", batch_size, "must be positive")
    pairs = batch_size % 2 == 0 or not (recipe.mixup or recipe.cutmix)
    message = "must be even, because Mixup and CutMix pair the images of a batch"
    require(pairs, "budget.batch_size", batch_size, message)
    check_fraction(budget.regularization, "budget.regularization", one=True)
    for name in ("train_images", "test_images"):
        value = getattr(budget, name)
        require(value is None or value >= 1, f"budget.{name}", value, "must be positive, or null for all images")
    message = "must be at least 1, because the last epoch is always evaluated"
    require(budget.evaluations >= 1, "budget.evaluations", budget.evaluations, message)
    for name, factor in vars(budget.lr_multiplier).items():
        if factor is not None:
            check_positive(factor, f"budget.lr_multiplier.{name}")


def _validate_defaults(data: DataSpec) -> None:
    """Raise SpecError for an impossible value of the data's fields that are defaults of other sections."""
    require(data.in_chans in (1, 3), "data.in_chans", data.in_chans, "must be 1 (grey) or 3 (colour)")
    require(data.stem_stride in (1, 2, 4), "data.stem_stride", data.stem_stride, "must be 1, 2 or 4")
    has_classes = data.num_classes is None or data.num_classes >= 1
    require(has_classes, "data.num_classes", data.num_classes, "must be a positive number of classes")
    require(
        data.num_train is None or data.num_train >= 1, "data.num_train", data.num_train, "must be positive, or null"
    )
    require(data.quick_epochs >= 1, "data.quick_epochs", data.quick_epochs, "must be at least 1")
    require(data.quick_batch_size >= 1, "data.quick_batch_size", data.quick_batch_size, "must be positive")


def _validate_data(data: DataSpec, network: NetworkSpec) -> None:
    require(data.image_size >= 1, "data.image_size", data.image_size, "must be a positive number of pixels")
    smallest = 8 * network.stem_stride
    message = f"the last feature map would be below 1x1; use {smallest} or more, or a smaller network.stem_stride"
    require(data.image_size >= smallest, "data.image_size", data.image_size, message)
    message = f"the images have {data.in_chans} channel(s); set data.in_chans instead"
    require(network.in_chans == data.in_chans, "network.in_chans", network.in_chans, message)
    fits = data.num_classes is None or network.num_classes == data.num_classes
    message = f"data={data.name} has {data.num_classes} classes; leave network.num_classes out"
    require(fits, "network.num_classes", network.num_classes, message)
    message = f"must be from 0 to data.image_size={data.image_size}"
    require(0 <= data.crop_padding <= data.image_size, "data.crop_padding", data.crop_padding, message)
    check_fraction(data.flip, "data.flip", one=True)
    for name in ("mean", "std"):
        values = getattr(data, name)
        # With data.in_chans=1, a preset of colour images keeps its three numbers, and their mean is used.
        count = len(values) in (1, data.in_chans) or (data.in_chans == 1 and len(values) > 0)
        require(count, f"data.{name}", values, f"must be 1 number, or {data.in_chans}, one per channel")
    require(min(data.std) > 0, "data.std", data.std, "must be positive")
    holdout = data.holdout is None or data.holdout >= 1
    require(holdout, "data.holdout", data.holdout, "must be positive, or null to evaluate on the test set")
    require(data.workers is None or data.workers >= 0, "data.workers", data.workers, "must not be negative")
