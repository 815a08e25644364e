"""Specs of the networks that the tests of this package build. Composing takes 0.1 to 0.2 s, so each step is composed
once per process."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from roadmap.config.compose import compose
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import NetworkSpec, RunSpec

STEPS = [*load_roadmap().file.steps, *load_roadmap().file.variants]
TINY: dict[str, Any] = {"depths": [1, 2, 1, 1], "width": 8, "num_classes": 5}


@cache
def run_spec(step: str, base: str = "resnet50") -> RunSpec:
    return compose(f"+step={step}", f"base={base}", "data.image_size=32", "data.stem_stride=4")


def network_spec(step: str, base: str = "resnet50", **fields: Any) -> NetworkSpec:
    """The network of a step for colour images and 1000 classes, with other values for `fields`."""
    usual: dict[str, Any] = {"num_classes": 1000, "in_chans": 3}
    return replace(run_spec(step, base).network, **usual | fields)
