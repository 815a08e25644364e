"""How a budget scales a recipe: epochs, warm-up, batch size and, linearly, the learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from roadmap.config.schema import BudgetSpec, RecipeSpec

REFERENCE_EPOCHS = 300.0  # of the enhanced recipe; `budget.epochs` speaks of a recipe of this length


@dataclass(frozen=True)
class Schedule:
    """What one run really gets."""

    epochs: int
    batch_size: int  # images per step
    lr: float  # peak
    warmup_share: float  # of all steps
    decay_share: float  # of all steps, between two decays of a step schedule


def make_schedule(recipe: RecipeSpec, budget: BudgetSpec) -> Schedule:
    """Scale `recipe` to `budget`.

    Epochs keep the recipes' own ratio (90 to 300) unless `budget.equal_epochs`; warm-up and decay stay the same shares
    of the run. The learning rate follows the batch size linearly (Goyal et al. 2017), times `lr_multiplier`.
    """
    epochs = recipe.epochs
    if budget.epochs is not None:
        epochs = budget.epochs if budget.equal_epochs else recipe.epochs * budget.epochs / REFERENCE_EPOCHS
    batch_size = recipe.batch_size if budget.batch_size is None else budget.batch_size
    factor = getattr(budget.lr_multiplier, recipe.optimizer.value)
    return Schedule(
        epochs=max(1, round(epochs)),
        batch_size=batch_size,
        lr=recipe.lr * batch_size / recipe.batch_size * factor,
        warmup_share=recipe.warmup_epochs / recipe.epochs,
        decay_share=recipe.decay_epochs / recipe.epochs,
    )
