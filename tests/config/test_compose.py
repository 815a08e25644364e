"""Configs: files and stations agree, what composes, and what is refused in one line before anything is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import roadmap
from roadmap.analysis import published
from roadmap.config.compose import compose
from roadmap.config.paths import CONF
from roadmap.config.schema import SpecError
from roadmap.config.steps import Step, all_steps, all_transforms, name_of_transforms, ordered_steps, sort_transforms
from roadmap.models.network import Network
from roadmap.training import run
from tests.conftest import TINY, CommandLine
from tests.helpers import make_image_folder

BEYOND = ["grn"]


def test_stations_in_order() -> None:
    assert roadmap.steps() == [
        "baseline", "training_recipe", "stage_ratio", "patchify_stem", "depthwise_conv", "increase_width",
        "inverted_bottleneck", "move_up_depthwise", "large_kernel", "gelu", "fewer_activations", "fewer_norms",
        "layer_norm", "separate_downsampling", "grn",
    ]  # fmt: skip


def test_files_and_stations_agree() -> None:
    files = {path.stem for path in (CONF / "step").glob("*.yaml")}
    variants = {name for name, info in all_transforms().items() if info.variant}
    assert files == {*roadmap.steps(), *variants, "resnextify"}
    assert {path.stem for path in (CONF / "transform").glob("*.yaml")} == {*roadmap.steps()[1:], *variants, "swin"}
    for table in published.TABLES.values():
        assert {row.step for row in table} == files - {"resnextify", *BEYOND} | {"swin"}
        assert [row.step for row in table if row.adopted] == [step.name for step in ordered_steps(beyond_paper=False)]
    for name, info in all_transforms().items():
        assert info.label and (info.section.startswith("2.") or info.reference) is (name not in BEYOND), name


@pytest.mark.parametrize("group", ["base", "data"])
def test_presets_never_write_what_a_transform_writes(group: str) -> None:
    written = {path for info in all_transforms().values() for path in info.sets}
    for path in (CONF / group).glob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert not {f"{group}.{key}" for key in content} & written, path


def test_step_and_transform_and_field() -> None:
    spec = compose("+step=gelu", "+transform=[layer_norm]", "network.width=40", "seed=7", "data=cifar10")
    assert list(spec.transforms) == [*all_steps()["gelu"].transforms, "layer_norm"]
    assert (spec.network.width, spec.seed, spec.data.name, spec.recipe.name) == (40, 7, "cifar10", "modern")
    assert name_of_transforms(list(spec.transforms)).endswith("gelu+layer_norm")


def test_a_study_can_be_named() -> None:
    assert compose("+step=gelu").study == "runs"
    assert compose("+step=gelu", "study=mine").study == "mine"
    assert compose("+step=gelu", "+study=roadmap").study == "roadmap"
    assert compose("+step=gelu", "+study=roadmap", "study=mine").study == "mine"


def test_the_recipe_can_be_taken_back() -> None:
    spec = compose("+step=separate_downsampling", "recipe=baseline")
    assert (spec.recipe.name, spec.network.layer_scale, spec.network.init.value) == ("baseline", None, "kaiming")


def test_another_file_with_a_known_change_does_not_move_the_road(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of one's own that takes a transform out of its order leaves all names and orders as they are."""
    before = [(name, sort_transforms(list(step.transforms)), name_of_transforms(list(step.transforms)))
              for name, step in all_steps().items()]  # fmt: skip
    own = {**all_steps(), "vanilla_gelu": Step("vanilla_gelu", "baseline", ("gelu",))}
    monkeypatch.setattr("roadmap.config.steps.all_steps", lambda: own)
    ordered_steps.cache_clear()
    for name, ordered, called in before:
        assert (sort_transforms(ordered[::-1]), name_of_transforms(ordered)) == (ordered, called), name
    assert name_of_transforms(["gelu"]) == "vanilla_gelu"
    ordered_steps.cache_clear()


def test_resnextify_is_increase_width() -> None:
    one, other = compose("+step=resnextify", "base=resnet200"), compose("+step=increase_width", "base=resnet200")
    assert one == other
    assert name_of_transforms(list(one.transforms)) == "increase_width"


REFUSED = [
    (("+step=gelo",), "step=gelo: unknown; did you mean gelu?"),
    (("+transform=[gelu,nothing]",), "transform=nothing: unknown"),
    (("+study=nothing",), "study=nothing: unknown"),
    (("base=resnet51",), "base=resnet51: unknown; did you mean resnet50?"),
    (("data=mnist",), "data=mnist: unknown"),
    (("recipe=old",), "recipe=old: unknown"),
    (("budget=huge",), "budget=huge: unknown"),
    (("network.widht=3",), "network.widht: unknown field; did you mean network.width?"),
    (("+network.widht=3",), "network.widht: unknown field"),
    (("nonsense=3",), "nonsense"),
    (("network.width=wide",), "network.width"),
    (("network.stem=conf",), "network.stem"),
    (("network.depths=3",), "network.depths"),
    (("seed=x",), "seed"),
    (("device=tpu",), "device"),
    (("network.width=-3",), "network.width=-3: must be a positive"),
    (("network.kernel_size=4",), "network.kernel_size=4: must be a positive odd number"),
    (("+step=gelu", "network.stem_stride=4"), "data.image_size=8: the last map would be below 1x1"),
    (("data=cifar10", "data.image_size=8"), "data.image_size=8: the last map would be below 1x1"),
    (("recipe.lr=-1",), "recipe.lr=-1.0: must be positive"),
    (("recipe.lr=nan",), "recipe.lr=nan"),
    (("recipe.min_lr=1",), "recipe.min_lr=1.0: must be below recipe.lr=0.1"),
    (("budget.batch_size=0",), "budget.batch_size=0: must be positive"),
    (("+step=gelu", "budget.batch_size=33"), "budget.batch_size=33: Mixup and CutMix pair"),
    (("budget.epochs=-2",), "budget.epochs=-2.0: must be positive"),
    (("network.num_classes=7",), "network.num_classes=7: data=digits has 10 classes"),
    (("network.in_chans=3",), "network.in_chans=3: the images have 1"),
    (("+transform=[kernel_5,large_kernel]",), "both set network.kernel_size"),
    (("+transform=[move_up_depthwise]",), "move_up_depthwise needs depthwise_conv"),
    (("data=folder",), "data.root=null: give the folder"),
    (("data=folder", "data.root=nowhere"), "data.root=nowhere: is not there"),
    (("data=imagenet", "data.root=nowhere"), "data.root=nowhere: is not there"),
    (("data=timm",), "data.name"),
    (("data.num_classes=7",), "data.num_classes=7: digits has 10 classes"),
    (("weights=none.pt",), "weights=none.pt: no such file"),
    (("out=/etc/passwd/runs",), "out=/etc/passwd/runs: /etc/passwd is not a folder"),
    (("data.mean=[]",), "data.mean=[]"),
    (("data=timm", "data.name=hfds/a/b"), "data.num_classes=null: give the number of classes"),
    (("data.name=letters",), "data.name=letters: unknown"),
    (("data=cifar10", "data.download=false"), "data.root=data/cifar10: cifar10 is not there"),
    (("new_head=true",), "new_head=True: goes with weights"),
    (("recipe.rand_augment=strong",), "recipe.rand_augment=strong: write it as timm does"),
    (("parallel=0",), "parallel=0"),
    (("=3",), "must be a string"),
    (("gelu",), "gelu"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_refused_in_one_line(words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        compose(*words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


AT_THE_COMMAND_LINE = [
    ("+step=gelo",),
    ("network.widht=3",),
    ("network.width=-3",),
    ("+step=gelu", "data=cifar10", "data.image_size=8"),
    ("data=folder", "data.root=nowhere"),
    ("-m", "+step=baseline,gelo"),
    ("-m", "+step=baseline", "network.width=8,-3"),
    ("+study=roadmap", "recipe.lr=-1"),
    ("+study=roadmap", "nonsense=1"),
    pytest.param(("-m", "+step=baseline,gelu", "budget.batch_size=4096"), marks=pytest.mark.slow),
    pytest.param(("-m", "+step=baseline", "device=cuda"), marks=pytest.mark.slow),
    ("-m", "+step=glob(nothing*)"),
]


@pytest.mark.parametrize("words", AT_THE_COMMAND_LINE, ids=str)
def test_the_command_line_says_one_line_and_writes_nothing(
    words: tuple[str, ...], command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


LATER = [
    ("budget.batch_size=4096", "budget.batch_size=4096: there are only 128 training images"),
    ("budget.train_images=99999", "budget.train_images=99999: there are only 1437"),
    ("weights=other.pt", "weights=other.pt: has 7 classes, data=digits has 10"),
    ("device=mps", "device=mps: PyTorch finds no such device here"),
]


@pytest.fixture
def other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """other.pt in the working folder: weights of seven classes. What the folder holds."""
    monkeypatch.chdir(tmp_path)
    weights = Network(compose("+step=baseline", *TINY).network).state_dict()
    torch.save(weights | {"head.weight": torch.zeros(7, 128), "head.bias": torch.zeros(7)}, "other.pt")
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize(("word", "said"), LATER)
@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an MPS device here")
def test_refused_once_data_and_weights_are_open(
    word: str, said: str, other_weights: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        run.run(compose("+step=baseline", *TINY, word))
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == other_weights


@pytest.mark.slow
def test_the_command_line_refuses_weights_of_another_number_of_classes(
    other_weights: list[Path], command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line("+step=baseline", *TINY, "weights=other.pt")
    assert done.returncode == 2
    assert done.stderr.startswith("error: weights=other.pt: has 7 classes") and done.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == other_weights


def test_cfg_job_shows_the_resolved_config(command_line: CommandLine, tmp_path: Path) -> None:
    done = command_line("+step=large_kernel", "base=resnet200", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert {"network", "recipe", "budget", "data", "seed", "study", "device"} <= shown.keys()
    assert shown["network"]["width"] == 128 and shown["network"]["depths"] == [3, 3, 27, 3]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_tells_its_classes(tmp_path: Path) -> None:
    make_image_folder(tmp_path, {"cat": 1, "dog": 1, "owl": 1})
    spec = compose("data=folder", f"data.root={tmp_path}")
    assert spec.network.num_classes == 3
    with pytest.raises(SpecError, match="data.num_classes=4: .* has 3 class folders"):
        compose("data=folder", f"data.root={tmp_path}", "data.num_classes=4")
    (tmp_path / "val" / "owl" / "0.png").unlink()
    (tmp_path / "val" / "owl").rmdir()
    with pytest.raises(SpecError, match="different class folders"):
        compose("data=folder", f"data.root={tmp_path}")


def test_compose_inside_a_hydra_application_gives_it_back() -> None:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(CONF), version_base="1.3"):
        mine = GlobalHydra.instance().hydra
        compose("+step=gelu")
        assert GlobalHydra.instance().hydra is mine


@pytest.mark.slow
def test_help_configs_finished_studies_and_reports_do_without_torch(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing torch takes seconds; here it fails."""
    words = ("-m", "+step=baseline", *TINY)
    for name in ("torch", "torchvision", "timm"):
        (tmp_path / "without" / f"{name}.py").parent.mkdir(exist_ok=True)
        (tmp_path / "without" / f"{name}.py").write_text("raise RuntimeError('imported')")
    assert command_line(*words).returncode == 0
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))
    for asked in (("--help",), ("+step=gelu", "--cfg", "job"), ("+step=baseline", *TINY), words):
        done = command_line(*asked)
        assert done.returncode == 0, done.stderr
    report = [sys.executable, "-m", "roadmap.report", "experiments/runs"]
    assert subprocess.run(report, cwd=tmp_path, capture_output=True, check=True)
    assert command_line("+step=gelu", *TINY).returncode != 0  # the trap works
