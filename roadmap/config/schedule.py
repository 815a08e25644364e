"""Schedule of a run: epochs, warm-up, batch size and learning rate of a recipe, scaled to a budget."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from roadmap.config import paths
from roadmap.config.files import read_yaml
from roadmap.config.schema import BudgetSpec, RecipeSpec

REFERENCE_EPOCHS = 300.0  # epochs of the enhanced recipe; `budget.epochs` refers to a recipe of this length
PAPER_ITERATIONS = 300 * (1_281_167 // 4096)  # of the enhanced recipe on ImageNet-1K (paper, Table 5)
LARGEST_SHORT_RUN_FACTOR = 128.0  # measured; see docs/recipes.md


@dataclass(frozen=True)
class Schedule:
    """Epochs, batch size and learning rate of one run after the budget is applied."""

    epochs: int
    batch_size: int  # images per iteration
    lr: float  # highest learning rate
    lr_multiplier: float  # the factor in it that the budget sets, or that follows from the number of iterations
    warmup_share: float  # fraction of all iterations
    decay_share: float  # fraction of all iterations between two decays of a `step` schedule


def scaled_epochs(recipe: RecipeSpec, budget: BudgetSpec) -> int:
    """Return the number of epochs of `recipe` with `budget`.

    The epochs of the recipes keep their ratio (90 to 300) unless `budget.equal_epochs` is set.
    """
    epochs = recipe.epochs
    if budget.epochs is not None:
        epochs = budget.epochs if budget.equal_epochs else recipe.epochs * budget.epochs / REFERENCE_EPOCHS
    return max(1, round(epochs))


def short_run_factor(iterations: float) -> float:
    """Return the factor on AdamW's learning rate in a run of this number of iterations.

    It is (93,600 / iterations) ** 1.5, but at least 1 and at most 128. It is 1 for runs that have at least as many
    iterations as the paper's. The measurement behind it is in docs/recipes.md, "Learning rate of short runs". Another
    formula needs a new `roadmap.records.record.FORMAT`, because the hash of a run does not contain the factor.
    """
    return min(max((PAPER_ITERATIONS / max(iterations, 1)) ** 1.5, 1.0), LARGEST_SHORT_RUN_FACTOR)


def make_schedule(recipe: RecipeSpec, budget: BudgetSpec, num_train: int) -> Schedule:
    """Return `recipe` scaled to `budget`, for a training set of `num_train` images.

    Warm-up and decay keep their fractions of the run. The learning rate is proportional to the batch size (Goyal et al.
    2017), times `lr_multiplier`. The batch of budget=smoke is reduced to at most `num_train` images.
    """
    epochs = scaled_epochs(recipe, budget)
    batch_size = recipe.batch_size if budget.batch_size is None else budget.batch_size
    if num_train >= 2:
        # even, because Mixup and CutMix pair the images of a batch
        batch_size = fit_to_dataset(budget, "batch_size", num_train - num_train % 2) or batch_size
    factor = getattr(budget.lr_multiplier, recipe.optimizer.value)
    if factor is None:
        factor = short_run_factor(epochs * (num_train // batch_size))
    return Schedule(
        epochs=epochs,
        batch_size=batch_size,
        lr=recipe.lr * batch_size / recipe.batch_size * factor,
        lr_multiplier=factor,
        warmup_share=recipe.warmup_epochs / recipe.epochs,
        decay_share=recipe.decay_epochs / recipe.epochs,
    )


def fit_to_dataset(budget: BudgetSpec, name: str, available: int) -> int | None:
    """Return the field `name` of the budget: train_images, test_images or batch_size. The number of budget=smoke is
    reduced to `available`, so that smoke works with every dataset. Numbers that the user set are not changed."""
    value: int | None = getattr(budget, name)
    is_of_smoke = budget.name == "smoke" and value is not None and value == _smoke_budget().get(name)
    return min(value, available) if is_of_smoke and value is not None else value


@cache
def _smoke_budget() -> dict[str, Any]:
    return read_yaml(paths.CONF / "budget" / "smoke.yaml")
