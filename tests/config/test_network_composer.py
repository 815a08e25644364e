"""Networks composed without Hydra are those that Hydra composes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from roadmap.config import paths
from roadmap.config.compose import compose, compose_config
from roadmap.config.network_composer import NetworkComposer
from roadmap.config.roadmaps import load_roadmap, roadmap_names
from roadmap.config.schema import SpecError
from tests.helpers import call_main


class Composer:
    """A NetworkComposer that counts how often Hydra composes."""

    def __init__(self, roadmap: str = "convnext") -> None:
        self.roadmap, self.calls = roadmap, 0
        self.composer = NetworkComposer(self._compose_config, load_roadmap(roadmap))

    def _compose_config(self, overrides: list[str]) -> DictConfig:
        self.calls += 1
        return compose_config(f"roadmap={self.roadmap}", *overrides)

    def assert_same(self, *overrides: str) -> None:
        assert self.composer.compose(overrides) == compose(f"roadmap={self.roadmap}", *overrides), overrides


@pytest.mark.parametrize("roadmap", roadmap_names())
def test_every_step_is_the_same(roadmap: str) -> None:
    composer = Composer(roadmap)
    for step in load_roadmap(roadmap).steps:
        composer.assert_same(f"+step={step}", "base=resnet200", "seed=3")
    assert composer.calls <= 2  # one for each recipe


def random_subsets(roadmap: str, count: int) -> list[list[str]]:
    loaded = load_roadmap(roadmap)
    names = sorted({name for step in loaded.steps.values() for name in step.transforms})
    generator = np.random.default_rng(0)
    subsets = [generator.permutation(names)[: generator.integers(1, len(names))].tolist() for _ in range(10 * count)]
    subsets = [loaded.without_unmet_needs(subset) for subset in subsets]
    kernels = ("large_kernel", "kernel_5", "kernel_9", "kernel_11")
    return [subset for subset in subsets if subset and sum(name in kernels for name in subset) < 2][:count]


@pytest.mark.parametrize("roadmap", roadmap_names())
@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_random_subsets_are_the_same(roadmap: str, count: int) -> None:
    composer, transforms = Composer(roadmap), load_roadmap(roadmap).transforms
    subsets = random_subsets(roadmap, count)
    assert len(subsets) == count
    for names in subsets:
        groups = {group: [n for n in names if transforms[n].group == group] for group in ("transform", "ingredient")}
        overrides = [f"+{group}=[{','.join(members)}]" for group, members in groups.items() if members]
        composer.assert_same(*overrides, "data=cifar10", "data.root=.", "data.num_classes=10", "plan=true")
    assert composer.calls <= 2


@pytest.mark.parametrize(
    ("overrides", "uses_hydra"),
    [
        (["+step=large_kernel", "network.kernel_size=5"], False),  # the override wins
        (["+step=training_recipe", "recipe=baseline"], False),
        (["+step=training_recipe", "recipe.mixup=0.3", "base.width_factor=2"], False),
        (["network.kernel_size=5", "+step=large_kernel", "+transform=[grn]"], False),
        (["+step=gelu", "+preset=fashion_mnist"], False),
        (["+step=gelu", "+study=roadmap"], False),
        (["+transform=gelu"], False),
        (["+transform@network=gelu"], True),
        (["+step=gelu", "~seed"], True),
        (["+step=gelo"], True),
        (["+step=gelu", "+transform=[gelu]"], True),
        (["+transform=[gelu,swin]"], True),
    ],
)
def test_overrides_are_merged_as_hydra_merges_them(overrides: list[str], uses_hydra: bool) -> None:
    def outcome(function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            return type(error), str(error) if isinstance(error, SpecError) else ""

    composer = Composer()
    found, expected = outcome(composer.composer.compose, overrides), outcome(compose, *overrides)
    if isinstance(expected, tuple):
        assert isinstance(found, tuple)
    else:
        assert found == expected
    assert composer.calls == (1 if not uses_hydra else composer.calls)


def test_a_mistyped_field_of_a_transform_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "transform").mkdir(parents=True)
    path = tmp_path / "conf" / "transform" / "typo.yaml"
    path.write_text("# @package _global_\ntransforms:\n  typo: {label: x}\nnetwork: {kernal_size: 5}\n")
    result = call_main("--config-dir=conf", "-m", "+transform=[typo],[gelu]", "seed=0", "plan=true")
    paths.use_folders(())
    assert result.code == 2 and "conf/transform/typo.yaml: network.kernal_size: unknown field" in result.err
