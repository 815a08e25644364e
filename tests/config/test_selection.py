"""Folders of configs outside the package, and the choice of a roadmap."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from roadmap.analysis.table import read_study
from roadmap.config import paths, user_classes
from roadmap.config.compose import compose
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import SpecError
from roadmap.config.selection import choose_folders
from roadmap.records.record import config_hash
from tests.conf_files import forget_files
from tests.conftest import ROOT, TINY
from tests.helpers import call_main

EXAMPLE = ROOT / "docs" / "example"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder of configs, `conf` in the working folder, whose classes can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    shutil.copytree(EXAMPLE / "conf", tmp_path / "conf")
    yield tmp_path / "conf"
    paths.use_folders(())
    forget_files()


def test_configs_of_the_user_are_used_beside_the_packaged_ones(own: Path) -> None:
    (own / "base").mkdir()
    shutil.copy(paths.CONF / "base" / "nano.yaml", own / "base" / "mine.yaml")
    spec = compose("roadmap=preact", "+step=silu", "base=mine", "hydra.searchpath=[conf]")
    assert (spec.roadmap, spec.name, spec.label) == ("preact", "silu", "ReLU → SiLU")
    assert list(spec.transforms) == ["training_recipe", "preactivation", "silu"]
    assert (spec.network.block, spec.network.activation) == ("preact.layers.PreactivationBlock", "torch.nn.SiLU")
    assert compose("roadmap=preact", "+step=gelu").transforms["gelu"].variant
    assert compose("+step=gelu").name == "gelu" and not compose("+step=gelu").transforms["gelu"].variant


def test_a_changed_file_changes_the_hash(own: Path) -> None:
    before = config_hash(compose("hydra.searchpath=[conf]", "roadmap=preact", "+step=silu"))
    assert config_hash(compose("roadmap=preact", "+step=silu")) == before
    path = own / "transform" / "silu.yaml"
    path.write_text(path.read_text().replace("torch.nn.SiLU", "torch.nn.Mish"))
    forget_files()
    assert config_hash(compose("roadmap=preact", "+step=silu")) != before


def test_the_roadmap_does_not_change_the_hash_of_the_same_network(own: Path) -> None:
    one = compose("hydra.searchpath=[conf]", "roadmap=preact", "+step=training_recipe")
    other = compose("+step=training_recipe")
    assert config_hash(one) == config_hash(other) and one.name == other.name


def test_a_study_of_the_user_can_choose_the_roadmap(own: Path) -> None:
    (own / "study").mkdir()
    study = "# @package _global_\nroadmap: preact\nstudy: mine\n"
    (own / "study" / "mine.yaml").write_text(study)
    spec = compose("hydra.searchpath=[conf]", "+study=mine", "+step=silu")
    assert (spec.roadmap, spec.study, spec.name) == ("preact", "mine", "silu")


def test_folders_that_do_not_exist_or_have_no_effect_are_refused(own: Path) -> None:
    for override in (
        "hydra.searchpath=[nowhere]",
        "hydra.searchpath=[pkg://nowhere]",
        "hydra.searchpath=[https://conf]",
    ):
        with pytest.raises(SpecError, match=r"hydra\.searchpath=.*: no such folder; give a folder of configs"):
            compose(override)
    shutil.copy(paths.CONF / "transform" / "gelu.yaml", own / "transform")
    with pytest.raises(SpecError, match="conf/transform/gelu.yaml: transform=gelu is a packaged config; rename"):
        choose_folders(["--config-dir", "conf"])
    (own / "transform" / "gelu.yaml").unlink()
    (own / "step").mkdir()
    with pytest.raises(SpecError, match="conf/step: steps are entries of conf/roadmap/NAME.yaml; move them there"):
        choose_folders(["--config-dir=conf"])


def test_the_packaged_folder_and_a_package_can_be_named(own: Path) -> None:
    assert choose_folders([f"--config-dir={paths.CONF}", "seed=1"]) == ["seed=1"]
    assert paths.own_folders() == ()
    choose_folders(["hydra.searchpath=[pkg://tests, file://conf]"])
    assert paths.own_folders() == (ROOT / "tests", Path.cwd() / "conf")


@pytest.mark.parametrize("arguments", [("--config-dir", "conf"), ("-cd=conf",), ("hydra.searchpath=[conf]",)])
def test_the_command_line_finds_the_folder(arguments: tuple[str, ...], own: Path) -> None:
    result = call_main(*arguments, "roadmap=preact", "+step=group_norm", "--cfg", "job")
    assert result.code == 0 and "norm: preact.layers.GroupNorm" in result.out, result
    result = call_main(*arguments, "roadmap=preact", "-m", "+step=glob(*)", "seed=0,1", "plan=true", "plan_device=none")
    assert result.code == 0 and "12 runs" in result.out, result


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("roadmap +step=", "+step=gelu"),
        ("roadmap roadmap=resnet_rs +step=", "+step=dropout"),
        ("roadmap --config-dir conf roadmap=preact +step=", "+step=silu"),
        ("roadmap --config-dir conf roadmap=", "roadmap=preact"),
        ("roadmap +transform=", "+transform=grn"),
    ],
)
def test_tab_completion_has_the_names_of_the_roadmap(
    line: str, expected: str, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    result = call_main("-sc", "query=bash")
    assert result.code == 0 and expected in result.out.split(), result


BAD_CLASSES = {
    "preact.layers.Nothing": "preact.layers has no class Nothing; correct the name",
    "nowhere.layers.Block": "nowhere.layers cannot be imported (ModuleNotFoundError: No module named 'nowhere')",
    "Block": "is not the path of a class; write it as mypackage.module.MyClass",
    "preact.layers.__doc__": "preact.layers has no class __doc__",
    "os._exit": "os has no class _exit; correct the name",
    "fractions.Fraction": "is no layer; name a subclass of torch.nn.Module",
}


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("path", BAD_CLASSES)
def test_a_class_that_cannot_be_imported_is_refused(path: str) -> None:
    for field in ("block", "conv"):
        with pytest.raises(SpecError) as caught:
            compose(f"network.{field}={path}")
        assert str(caught.value).startswith(f"network.{field}={path}: {BAD_CLASSES[path]}")
    with pytest.raises(SpecError, match="network.norm=layernorm: must be one of batch_norm, layer_norm, or the path"):
        compose("network.norm=layernorm")


def test_a_module_that_raises_is_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own.parent / "broken.py").write_text("raise RuntimeError('two\\nlines')")
    monkeypatch.syspath_prepend(str(own.parent))
    with pytest.raises(SpecError, match=r"broken cannot be imported \(RuntimeError: two lines\)"):
        user_classes.import_class("broken.Block", "network.block")


def test_a_roadmap_can_be_read_from_the_files_that_it_had(own: Path) -> None:
    choose_folders(["--config-dir", "conf"])
    loaded = load_roadmap("preact")
    files = dict(loaded.own_files)
    assert sorted(files) == [
        "roadmap/preact.yaml", "transform/group_norm.yaml", "transform/preactivation.yaml", "transform/silu.yaml",
    ]  # fmt: skip
    shutil.rmtree(own)
    paths.use_folders(())
    forget_files()
    with pytest.raises(SpecError, match="roadmap=preact: unknown"):
        load_roadmap("preact")
    again = load_roadmap("preact", files)
    assert again.file == loaded.file and again.transforms == loaded.transforms


def test_a_study_and_the_command_line_must_agree_on_the_roadmap(own: Path) -> None:
    (own / "study").mkdir()
    (own / "study" / "mine.yaml").write_text("# @package _global_\nroadmap: preact\nstudy: mine\n")
    (own / "study" / "sub.yaml").write_text("# @package _global_\ndefaults: [mine, _self_]\nstudy: sub\n")
    assert compose("hydra.searchpath=[conf]", "+study=sub", "+step=silu").roadmap == "preact"
    with pytest.raises(SpecError, match="roadmap=preact: a study or preset sets it, the command uses roadmap=convnext"):
        compose("roadmap=convnext", "+study=mine", "+step=depthwise_conv")


def test_transforms_and_ingredients_have_different_names(own: Path) -> None:
    (own / "ingredient").mkdir()
    for name in ("gelu", "silu"):
        path = own / "ingredient" / f"{name}.yaml"
        path.write_text(f"# @package _global_\ntransforms:\n  {name}: {{label: x}}\nrecipe: {{momentum: 0.5}}\n")
        with pytest.raises(SpecError, match=f"conf/ingredient/{name}.yaml: transform={name} has this name; rename"):
            choose_folders(["--config-dir", "conf"])
        path.unlink()


def test_a_damaged_file_of_a_later_step_does_not_end_the_report_of_earlier_ones(own: Path) -> None:
    (own / "transform" / "group_norm.yaml").write_text("# @package _global_\ntransforms: {group_norm: {}}\n")
    choose_folders(["--config-dir", "conf"])
    loaded = load_roadmap("preact")
    assert loaded.step_names == ["baseline", "training_recipe", "preactivation", "silu"]
    again = load_roadmap("preact", dict(loaded.own_files))
    assert again.file.steps == loaded.file.steps and again.errors.keys() == {"group_norm"}


def test_an_unknown_base_is_named_with_the_file(own: Path) -> None:
    path = own / "roadmap" / "preact.yaml"
    path.write_text(path.read_text().replace("base: nano", "base: nanu"))
    with pytest.raises(
        SpecError, match=r"conf/roadmap/preact.yaml: base: nanu is no file in conf/base; did you mean nano"
    ):
        compose("hydra.searchpath=[conf]", "roadmap=preact")


def test_a_run_that_two_roadmaps_share_is_described_by_that_of_the_study(own: Path, tmp_path: Path) -> None:
    """`training_recipe` has a section in one roadmap, and none in the other."""
    for arguments in (
        ("roadmap=preact", "study=b", "+step=baseline,training_recipe,silu"),
        ("+study=a", "study=a"),
    ):
        (own / "study").mkdir(exist_ok=True)
        (own / "study" / "a.yaml").write_text(
            "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {+step: 'baseline,training_recipe'}}}\n"
        )
        sweep = () if "+study=a" in arguments else ("-m",)
        result = call_main("--config-dir=conf", *sweep, *arguments, *TINY, "seed=0")
        assert result.code == 0, result
    table = read_study(tmp_path / "experiments" / "a").table
    assert table["section"].tolist() == ["2", "2.1"]
    assert read_study(tmp_path / "experiments" / "b").table["section"].tolist() == ["", "", ""]
    (silu,) = tmp_path.glob("experiments/runs/silu-*/record.json")
    command = json.loads(silu.read_text())["command"]
    assert "--config-dir=conf roadmap=preact" in command
    refused = call_main("roadmap=resnet_rs", "-m", "+step=baseline,ema", "study=b", *TINY)
    assert refused.code == 2 and "study=b: has runs of roadmap=preact; choose another name" in refused.err


def test_the_command_of_a_record_repeats_it_with_the_fields_of_the_study(own: Path, tmp_path: Path) -> None:
    (own / "study").mkdir()
    (own / "study" / "mine.yaml").write_text(
        "# @package _global_\nrecipe: {label_smoothing: 0.3}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {+step: 'baseline,training_recipe'}}}\n"
    )
    result = call_main("--config-dir=conf", "+study=mine", "study=other", *TINY, "seed=0")
    assert result.code == 0, result
    records = sorted(tmp_path.glob("experiments/runs/*/record.json"))
    command = shlex.split(json.loads(records[0].read_text())["command"])
    assert command.index("study=other") == command.index("+study=mine") + 1
    again = call_main(*command[2:])
    assert again.code == 0 and "1 of them already finished" in again.out, again
    assert sorted(tmp_path.glob("experiments/runs/*/record.json")) == records


def test_a_network_of_the_user_can_be_tuned_and_evaluated(own: Path, tmp_path: Path) -> None:
    (own / "data").mkdir()
    text = (paths.CONF / "data" / "digits.yaml").read_text(encoding="utf-8")
    (own / "data" / "mine.yaml").write_text(f"{text}\nholdout: 33\n")
    options = ("roadmap=preact", "+study=tune", "step=silu", "tune.trials=2", "tune.pruner=none", "data.holdout=40")
    result = call_main("--config-dir=conf", *options, *TINY, "budget.allow_chance=true")
    assert result.code == 0 and "silu: 2 complete" in result.out, result
    best = shlex.split(result.out.split("best held-out top-1")[1].split(": ", 1)[1].splitlines()[0])
    assert {"--config-dir=conf", "roadmap=preact", "+step=silu"} <= set(best)
    assert call_main(*best[2:], *TINY, "budget.allow_chance=true").code == 0
    (run,) = [
        path.parent
        for path in tmp_path.glob("experiments/runs/silu-*/record.json")
        if json.loads(path.read_text())["config"]["data"]["holdout"] is None
    ]
    result = call_main("evaluate", "--config-dir=conf", str(run), "data=mine", "--no-latency", "--to=mine.json")
    assert result.code == 0, result
    evaluated = json.loads(Path("mine.json").read_text("utf-8"))
    assert evaluated["num_images"] == 33 and evaluated["receptive_field"]["half_side"] > 0


def test_a_batch_norm_of_the_user_is_refused_where_it_would_not_follow_the_groups(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "norms.py").write_text("from torch import nn\nclass MyNorm(nn.BatchNorm2d): pass\n")
    options = ("+step=baseline", "network.norm=norms.MyNorm", *TINY)
    refused = call_main(*options, "recipe.norm_batch_size=8")
    reason = "its MyNorm cannot normalize over groups or parts of a batch"
    assert refused.code == 2 and f"network.norm=norms.MyNorm: {reason}; use " in refused.err
    refused = call_main(*options, "recipe.norm_batch_size=null", "accumulate=2")
    assert refused.code == 2 and reason in refused.err and not (tmp_path / "experiments").exists()
    assert call_main(*options, "recipe.norm_batch_size=null").code == 0
