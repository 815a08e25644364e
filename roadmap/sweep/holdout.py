"""The held-out training images on which searches evaluate."""

from __future__ import annotations

from omegaconf import DictConfig, open_dict

from roadmap.config.datasets import KNOWN_DATASETS
from roadmap.config.schema import SpecError

HOLDOUT_SHARE = 0.2  # of the training images, if data.holdout is not set


def set_holdout(config: DictConfig) -> None:
    """Hold out a share of the training images if `data.holdout` is not set.

    Raises SpecError if the number of training images is unknown.
    """
    if config.data.holdout is not None:
        return
    known = KNOWN_DATASETS.get(config.data.name)
    if known is None or known.sizes is None:
        message = "a search needs held-out training images; set their number"
        raise SpecError(f"data.holdout=null: {message}, as data.holdout=1000")
    with open_dict(config):
        config.data.holdout = round(HOLDOUT_SHARE * known.sizes[0])
