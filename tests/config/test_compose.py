"""Composition: which spec a command line makes, and what the command line prints where it is invalid."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from roadmap.config.compose import compose
from roadmap.config.paths import CONF
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import SpecError
from tests.conftest import TINY, CommandLine


def test_a_step_a_transform_and_fields_compose() -> None:
    spec = compose("+step=gelu", "+transform=[layer_norm]", "network.width=40", "seed=7", "data=cifar10")
    assert list(spec.transforms) == [*load_roadmap().steps["gelu"].transforms, "layer_norm"]
    assert (spec.network.width, spec.seed, spec.data.name, spec.recipe.name) == (40, 7, "cifar10", "modern")
    assert spec.name.endswith("gelu+layer_norm")


def test_study_sets_the_name_of_the_study() -> None:
    assert compose("+step=gelu").study == "runs"
    assert compose("+step=gelu", "study=mine").study == "mine"
    assert compose("+step=gelu", "+study=roadmap").study == "roadmap"
    assert compose("+step=gelu", "+study=roadmap", "study=mine").study == "mine"


def test_the_recipe_of_a_step_can_be_replaced() -> None:
    spec = compose("+step=separate_downsampling", "recipe=baseline")
    assert (spec.recipe.name, spec.network.layer_scale, spec.network.init.value) == ("baseline", None, "kaiming")


def test_compose_restores_a_running_hydra_application() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        application = GlobalHydra.instance().hydra
        compose("+step=gelu")
        assert GlobalHydra.instance().hydra is application


UNKNOWN_OR_MISTYPED = [
    (("+step=gelo",), "step=gelo: unknown; did you mean gelu?"),
    (("+transform=[gelu,nothing]",), "transform=nothing: unknown; use one of deep_stem, depthwise_conv"),
    (("+study=nothing",), "study=nothing: unknown"),
    (("base=resnet51",), "base=resnet51: unknown; did you mean resnet50?"),
    (("data=mnist",), "data=mnist: unknown"),
    (("recipe=old",), "recipe=old: unknown"),
    (("budget=huge",), "budget=huge: unknown"),
    (("network.widht=3",), "network.widht: unknown field; did you mean network.width?"),
    (("+network.widht=3",), "network.widht: unknown field"),
    (
        ("+budget.lr_multiplier.lion=3",),
        "budget.lr_multiplier.lion: unknown field; did you mean budget.lr_multiplier.sgd?",
    ),
    (("nonsense=3",), "nonsense"),
    (("network.width=wide",), "network.width"),
    (("network.stem=conf",), "network.stem"),
    (("network.depths=3",), "network.depths"),
    (("seed=x",), "seed"),
    (("device=tpu",), "device"),
    (("=3",), "=3: is not a valid override; write field=value"),
    (("gelu",), "gelu"),
]


@pytest.mark.parametrize(
    ("overrides", "message"), UNKNOWN_OR_MISTYPED, ids=[" ".join(overrides) for overrides, _ in UNKNOWN_OR_MISTYPED]
)
def test_unknown_and_mistyped_settings_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        compose(*overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 450


INVALID_COMMAND_LINES = [
    ("network.widht=3",),
    ("-m", "+step=baseline", "network.width=8,-3"),
    ("-m", "+step=glob(nothing*)"),
    ("+study=roadmap", "recipe.lr=-1"),
    *(
        pytest.param(arguments, marks=pytest.mark.slow)
        for arguments in [
            ("+step=gelo",),
            ("network.width=-3",),
            ("+step=gelu", "data=cifar10", "data.image_size=8"),
            ("data=folder", "data.root=nowhere"),
            ("-m", "+step=baseline,gelo"),
            ("-m", "+step=baseline,gelu", "budget.batch_size=4096"),
            ("-m", "+step=baseline", "device=cuda"),
            ("+study=roadmap", "nonsense=1"),
        ]
    ),
]


@pytest.mark.parametrize("arguments", INVALID_COMMAND_LINES, ids=" ".join)
def test_an_invalid_command_line_prints_one_line_and_writes_nothing(
    arguments: tuple[str, ...], command_line: CommandLine, tmp_path: Path
) -> None:
    result = command_line(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_prints_the_resolved_config(command_line: CommandLine, tmp_path: Path) -> None:
    result = command_line("+step=large_kernel", "base=resnet200", "--cfg", "job")
    assert result.returncode == 0, result.stderr
    config = yaml.safe_load(result.stdout)
    assert {"network", "recipe", "budget", "data", "seed", "study", "device"} <= config.keys()
    assert config["network"]["width"] == 128 and config["network"]["depths"] == [3, 3, 27, 3]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_configs_dry_runs_and_finished_runs_do_not_import_torch(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing torch takes seconds; in this test it raises an error."""
    sweep = ("-m", "+step=baseline", *TINY)
    for name in ("torch", "torchvision", "timm"):
        (tmp_path / "without" / f"{name}.py").parent.mkdir(exist_ok=True)
        (tmp_path / "without" / f"{name}.py").write_text("raise RuntimeError('imported')")
    assert command_line(*sweep).returncode == 0
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))
    for arguments in (
        ("--help",),
        ("+step=gelu", "--cfg", "job"),
        ("+step=baseline", *TINY),
        (*sweep, "plan=true", "plan_device=none"),
    ):
        result = command_line(*arguments)
        assert result.returncode == 0, result.stderr
    assert command_line("+step=gelu", *TINY).returncode != 0  # the replaced torch does raise
