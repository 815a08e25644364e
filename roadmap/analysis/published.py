"""Numbers of the paper as data: Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, "A ConvNet for the 2020s", CVPR 2022,
arXiv:2201.03545v2, Tables 10 and 11. Imports neither torch nor Hydra.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class PaperRow:
    """One row of Table 10 or 11."""

    step: str  # name of the step in this package
    label: str  # name in the paper
    top1: float  # ImageNet-1K, percent
    top1_std: float | None  # standard deviation of three seeds, where the paper prints it
    gmacs: float  # multiply-adds / 1e9 at 224x224; the paper calls them FLOPs
    adopted: bool = True  # a step of the roadmap; False: a variant or a reference network


TABLE_10 = (
    PaperRow("baseline", "ResNet-50 (PyTorch)", 76.13, None, 4.09),
    PaperRow("training_recipe", "ResNet-50 (enhanced recipe)", 78.82, 0.07, 4.09),
    PaperRow("stage_ratio", "stage ratio", 79.36, 0.07, 4.53),
    PaperRow("patchify_stem", "“patchify” stem", 79.51, 0.18, 4.42),
    PaperRow("depthwise_conv", "depthwise conv", 78.28, 0.08, 2.35),
    PaperRow("increase_width", "increase width", 80.50, 0.02, 5.27),
    PaperRow("inverted_bottleneck", "inverting dimensions", 80.64, 0.03, 4.64),
    PaperRow("move_up_depthwise", "move up depthwise conv", 79.92, 0.08, 4.07),
    PaperRow("kernel_5", "kernel size → 5", 80.35, 0.08, 4.10, adopted=False),
    PaperRow("large_kernel", "kernel size → 7", 80.57, 0.14, 4.15),
    PaperRow("kernel_9", "kernel size → 9", 80.57, 0.06, 4.21, adopted=False),
    PaperRow("kernel_11", "kernel size → 11", 80.47, 0.11, 4.29, adopted=False),
    PaperRow("gelu", "ReLU → GELU", 80.62, 0.14, 4.15),
    PaperRow("fewer_activations", "fewer activations", 81.27, 0.06, 4.15),
    PaperRow("fewer_norms", "fewer norms", 81.41, 0.09, 4.15),
    PaperRow("layer_norm", "BN → LN", 81.47, 0.09, 4.46),
    PaperRow("separate_downsampling", "separate d.s. conv (ConvNeXt-T)", 81.97, 0.06, 4.49),
    PaperRow("swin", "Swin-T (reference)", 81.30, None, 4.50, adopted=False),
)

TABLE_11 = (
    PaperRow("baseline", "ResNet-200", 78.20, None, 15.01),
    PaperRow("training_recipe", "ResNet-200 (enhanced recipe)", 81.14, None, 15.01),
    PaperRow("stage_ratio", "stage ratio and increase width", 81.33, None, 14.52),
    PaperRow("patchify_stem", "“patchify” stem", 81.59, None, 14.38),
    PaperRow("depthwise_conv", "depthwise conv", 80.54, None, 7.23),
    PaperRow("increase_width", "increase width", 81.85, None, 16.76),
    PaperRow("inverted_bottleneck", "inverting dimensions", 82.64, None, 15.68),
    PaperRow("move_up_depthwise", "move up depthwise conv", 82.04, None, 14.63),
    PaperRow("kernel_5", "kernel size → 5", 82.32, None, 14.70, adopted=False),
    PaperRow("large_kernel", "kernel size → 7", 82.30, None, 14.81),
    PaperRow("kernel_9", "kernel size → 9", 82.27, None, 14.95, adopted=False),
    PaperRow("kernel_11", "kernel size → 11", 82.18, None, 15.13, adopted=False),
    PaperRow("gelu", "ReLU → GELU", 82.19, None, 14.81),
    PaperRow("fewer_activations", "fewer activations", 82.71, None, 14.81),
    PaperRow("fewer_norms", "fewer norms", 83.17, None, 14.81),
    PaperRow("layer_norm", "BN → LN", 83.35, None, 14.81),
    PaperRow("separate_downsampling", "separate d.s. conv (ConvNeXt-B)", 83.60, None, 15.35),
    PaperRow("swin", "Swin-B (reference)", 83.50, None, 15.43, adopted=False),
)

NUM_SEEDS = 3  # behind each printed standard deviation

TABLES = {"resnet50": TABLE_10, "resnet200": TABLE_11}  # by base
TABLES_BY_NUMBER = {10: TABLE_10, 11: TABLE_11}

# Table 10 prints 4.46 and 4.49 GMACs for its last two rows. Counted, they have 4.146 and 4.456: the increase is printed
# one row too early. Table 11 has no increase at BN → LN, and 4.456 is ConvNeXt-T's known count.
MISPRINTS = {("resnet50", "layer_norm"), ("resnet50", "separate_downsampling")}
MISPRINT_NOTE = (
    "Table 10 prints the additional GMACs of separate downsampling one row too early. Table 11 has no such increase in"
    " that row, and the GMACs of ConvNeXt-T are known. Counted and printed values are shown side by side; no value is"
    " adjusted to the printed one."
)


def published_rows(table: int) -> tuple[PaperRow, ...]:
    """Return the rows of Table 10 or 11."""
    return TABLES_BY_NUMBER[table]


def published_row(table: int | None, step: str) -> PaperRow | None:
    """Return the row of Table 10 or 11 for a step; None if the paper has no such row."""
    return next((row for row in TABLES_BY_NUMBER.get(table or 0, ()) if row.step == step), None)


def adopted_steps(table: int) -> list[str]:
    """Return the steps of the paper's roadmap, in order."""
    return [row.step for row in published_rows(table) if row.adopted]


def previous_steps(table: int) -> dict[str, str]:
    """Return the step before each step of the paper's roadmap."""
    return {after: before for before, after in pairwise(adopted_steps(table))}


def published_gains(table: int) -> dict[str, float]:
    """Return the gain of each step of the paper's roadmap over the step before it, in percentage points."""
    rows = [row for row in published_rows(table) if row.adopted]
    return {after.step: round(after.top1 - before.top1, 2) for before, after in pairwise(rows)}


def position(table: int | None, step: str) -> int:
    """Return the index of the step in the paper's table; the number of rows if the step is not in it."""
    rows = TABLES_BY_NUMBER.get(table or 10, TABLE_10)
    return next((i for i, row in enumerate(rows) if row.step == step), len(rows))
