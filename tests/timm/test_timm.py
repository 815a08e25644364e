"""Every step as a model of timm: the properties that timm's own tests ask of each model."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import roadmap
import roadmap.timm
from roadmap.config import paths
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import SpecError
from tests.conf_files import forget_files
from tests.conftest import ROOT

NAMES = timm.list_models("roadmap_*")
SMALL: dict[str, Any] = {"base": "nano", "num_classes": 5}
FIELDS: dict[str, Any] = {"depths": [1, 1, 2, 1], "width": 16, "num_classes": 5}  # of `roadmap_network`


def create(name: str, **arguments: Any) -> Any:
    """Return a small network: that of the base nano."""
    return copy.deepcopy(_create(name, tuple(arguments.items())))


@cache  # composing a network takes 0.2 s
def _create(name: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    small = FIELDS if name == "roadmap_network" else SMALL
    torch.manual_seed(0)
    return timm.create_model(name, **(small | dict(arguments)))


def images(batch_size: int = 2, channels: int = 3, side: int = 64) -> torch.Tensor:
    return torch.randn(batch_size, channels, side, side, generator=torch.Generator().manual_seed(1))


def test_every_step_and_variant_of_every_roadmap_is_registered() -> None:
    steps = {step for name in ("convnext", "resnet_rs") for step in load_roadmap(name).steps}
    assert {f"roadmap_{step}" for step in steps} | {"roadmap_network"} == set(NAMES)
    assert timm.list_models("roadmap_kernel_*") == ["roadmap_kernel_5", "roadmap_kernel_9", "roadmap_kernel_11"]
    assert all(timm.is_model(name) for name in NAMES) and timm.list_models("roadmap_*", pretrained=True) == []


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward(name: str) -> None:
    model = create(name)
    assert model.training
    logits = model(images())
    assert logits.shape == (2, 5) and not logits.isnan().any()
    logits.mean().backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert create(name).eval()(images(1)).shape == (1, 5)


@pytest.mark.parametrize("name", NAMES)
def test_the_default_cfg_is_true(name: str) -> None:
    model = create(name).eval()
    cfg = model.default_cfg
    assert cfg["architecture"] == name and model.pretrained_cfg is cfg
    assert {f"{cfg['classifier']}.weight", f"{cfg['first_conv']}.weight"} <= model.state_dict().keys()
    assert model.get_submodule(cfg["first_conv"]).in_channels == 3
    assert timm.get_pretrained_cfg_value(name, "input_size") == cfg["input_size"] == (3, 224, 224)
    x = images(1, side=224)
    assert model.forward_features(x).shape == (1, model.num_features, *cfg["pool_size"])


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_can_be_replaced_and_removed(name: str) -> None:
    model, x = create(name).eval(), images(1)
    logits, features = model(x), model.forward_features(x)
    assert torch.equal(model.forward_head(features), logits)
    assert torch.equal(model.get_classifier()(model.forward_head(features, pre_logits=True)), logits)
    model.reset_classifier(7)
    assert model(x).shape == (1, 7) and model.num_classes == 7
    model.reset_classifier(0)
    assert model(x).shape == (1, model.num_features) and isinstance(model.get_classifier(), nn.Identity)
    model.reset_classifier(0, "")
    assert model(x).shape == features.shape
    assert create(name, num_classes=0, global_pool="").eval()(x).shape == features.shape
    assert create(name, num_classes=0).eval()(x).shape == (1, model.num_features)


@pytest.mark.parametrize("name", NAMES)
def test_feature_maps_have_the_channels_and_strides_that_feature_info_says(name: str) -> None:
    whole, x = create(name).eval(), images(1, side=96)
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [4, 8, 16, 32]),
        ({"feature_cls": "getter"}, [4, 8, 16, 32]),
        ({"feature_cls": "hook"}, [4, 8, 16, 32]),
        ({"out_indices": (1, 3)}, [8, 32]),
    ]
    for options, strides in cases:
        model = create(name, features_only=True, **options).eval()
        maps, info = model(x), model.feature_info
        assert info.reduction() == strides
        for features, channels, stride in zip(maps, info.channels(), strides, strict=True):
            assert features.shape == (1, channels, 96 // stride, 96 // stride)
        assert torch.equal(maps[-1], whole.forward_features(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_intermediate_features_are_those_of_the_stages(name: str) -> None:
    model, x = create(name).eval(), images(1)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, maps[-1]) and torch.equal(last, model.forward_features(x)) and len(maps) == 4
    (second,) = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
    assert torch.equal(second, maps[1])
    assert model.prune_intermediate_layers([1]) == [1] and len(model.stages) == 2
    assert torch.equal(model.forward_features(x), maps[1]) and model.num_features == maps[1].shape[1]
    assert model(x).shape == maps[1].shape


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_gives_the_same_gradients(name: str) -> None:
    gradients = []
    for enable in (False, True):
        model = create(name, drop_path_rate=0.2)
        model.set_grad_checkpointing(enable)
        torch.manual_seed(3)
        model(images(4)).square().mean().backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_network_can_be_exported(name: str) -> None:
    model, x = create(name).eval(), images(2)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(exported(images(3)), model(images(3)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_grouped_by_depth(name: str) -> None:
    model = create(name)
    groups: dict[Any, list[str]] = timm.models.group_parameters(model, model.group_matcher())  # type: ignore[assignment]
    assert sorted(key for names in groups.values() for key in names) == sorted(dict(model.named_parameters()))
    assert len(groups) >= 2 + sum(FIELDS["depths"])


def test_the_weights_and_logits_are_those_of_the_package() -> None:
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("gelu", {}),
        ("resnet_d", {"roadmap": "resnet_rs"}),
        ("kernel_9", {"kernel_size": 5}),
    )
    for step, arguments in cases:
        ours = roadmap.create_model(step, base="nano", num_classes=5, **arguments).eval()
        theirs = create(f"roadmap_{step}", **arguments).eval()
        theirs.load_state_dict(ours.state_dict())
        assert torch.equal(theirs(images()), ours(images()))


def test_arguments_of_timm_and_of_the_network() -> None:
    model = create("roadmap_gelu", in_chans=1, drop_rate=0.3, drop_path_rate=0.2, dtype=torch.float64, stem_stride=1)
    assert model.spec.dropout == 0.3 and model.spec.drop_path == 0.2
    assert model(images(2, channels=1, side=16).double()).dtype == torch.float64
    assert create("roadmap_baseline", roadmap="resnet_rs").spec == create("roadmap_baseline").spec
    assert create("roadmap_network", kernel_size=5).spec.kernel_size == 5
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"kernel": 5}, "kernel"),
        ({"base": "nanu"}, "base=nanu: unknown"),
        ({"global_pool": "max"}, "global_pool=max: must be avg"),
        ({"global_pool": ""}, "the classifier needs pooled features"),
        ({"roadmap": "resnet_rs"}, "gelu"),
    )
    for arguments, message in refused:
        with pytest.raises(SpecError, match=message):
            create("roadmap_gelu", **arguments)
    with pytest.raises(ValueError, match="output_fmt=NLC: must be NCHW"):
        create("roadmap_gelu").forward_intermediates(images(), output_fmt="NLC")


def test_steps_of_a_roadmap_of_your_own_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    example = ROOT / "docs" / "example"
    monkeypatch.syspath_prepend(str(example))
    try:
        registered = roadmap.timm.register("preact", example / "conf")
        assert registered[-1] == "roadmap_gelu" and {"roadmap_preactivation", "roadmap_silu"} <= set(registered)
        model = create("roadmap_silu").eval()
    finally:
        paths.use_folders(())
        forget_files()
    assert type(model.stages[0].blocks[0]).__name__ == "PreactivationBlock" and model(images()).shape == (2, 5)


SCRIPT = """
import sys, timm
model = timm.create_model(sys.argv[1], pretrained=False, in_chans=3, num_classes=5, drop_rate=0.0, drop_path_rate=None,
                          drop_block_rate=None, global_pool=None, bn_momentum=None, bn_eps=None, scriptable=False,
                          checkpoint_path="", base="nano")
print(sys.argv, __name__, timm.data.resolve_data_config({}, model=model)["input_size"])
"""


def test_a_script_can_use_the_names(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "roadmap.timm", str(tmp_path / "train.py"), "roadmap_gelu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"['{tmp_path / 'train.py'}', 'roadmap_gelu'] __main__ (3, 224, 224)\n"
    done = subprocess.run([*command[:3], "absent.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: absent.py: no such file; use ")


def test_nothing_is_registered_twice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert roadmap.timm.register("convnext") == [f"roadmap_{step}" for step in load_roadmap().steps]
