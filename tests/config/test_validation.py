"""Validation: impossible settings are refused with one line that names the field."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from roadmap.config.choices import Device
from roadmap.config.compose import compose
from roadmap.config.schema import SpecError
from roadmap.config.validation import require
from roadmap.models.network import Network
from roadmap.training import run
from tests.conftest import TINY, CommandLine

IMPOSSIBLE = [
    (("network.width=-3",), "network.width=-3: must be a positive number of channels"),
    (("network.kernel_size=4",), "network.kernel_size=4: must be a positive odd number"),
    (("network.depths=[1,1]",), "network.depths=[1, 1]: must be 4 numbers"),
    (("network.spatial_first=true",), "network.spatial_first=true: needs a depthwise convolution; set network.depth"),
    (("+step=gelu", "network.stem_stride=4"), "data.image_size=8: the last feature map would be below 1x1; use 32"),
    (("data=cifar10", "data.image_size=8"), "data.image_size=8: the last feature map would be below 1x1; use 16"),
    (("recipe.lr=-1",), "recipe.lr=-1.0: must be positive"),
    (("recipe.lr=nan",), "recipe.lr=nan: must be finite"),
    (("recipe.min_lr=1",), "recipe.min_lr=1.0: must be below recipe.lr=0.1"),
    (("recipe.warmup_epochs=90",), "recipe.warmup_epochs=90.0: must be from 0 to below recipe.epochs=90.0"),
    (("recipe.rand_augment=strong",), "recipe.rand_augment=strong: is not in timm's notation; write it as rand-m9"),
    (("budget.batch_size=0",), "budget.batch_size=0: must be positive"),
    (("+step=gelu", "budget.batch_size=33"), "budget.batch_size=33: must be even, because Mixup and CutMix pair"),
    (("budget.epochs=-2",), "budget.epochs=-2.0: must be at least 1"),
    (("budget.evaluations=0",), "budget.evaluations=0: must be at least 1"),
    (("network.num_classes=7",), "network.num_classes=7: data=digits has 10 classes; leave network.num_classes out"),
    (("network.in_chans=3",), "network.in_chans=3: the images have 1 channel(s); set data.in_chans instead"),
    (("data.mean=[]",), "data.mean=[]: must be 1 number"),
    (("data.holdout=0",), "data.holdout=0: must be positive, or null"),
    (("+transform=[kernel_5,large_kernel]",), "both set network.kernel_size; leave one of them out"),
    (("+transform=[move_up_depthwise]",), "transform=move_up_depthwise: move_up_depthwise needs depthwise_conv; add"),
    (("weights=none.pt",), "weights=none.pt: no such file"),
    (("new_head=true",), "new_head=true: has no effect without weights; set weights"),
    (("out=/etc/passwd/runs",), "out=/etc/passwd/runs: /etc/passwd is not a writable folder; use another"),
    (("out=''",), "out='': must not be empty"),
    (("parallel=0",), "parallel=0: must be positive, or null"),
    (("recipe.mix_batch_size=3",), "recipe.mix_batch_size=3: must be positive and even, or null for the whole batch"),
    (("recipe.norm_batch_size=0",), "recipe.norm_batch_size=0: must be positive and even, or null for the whole batch"),
    (("accumulate=100",), "accumulate=100: must be from 1 to the batch size (64)"),
]


@pytest.mark.parametrize(("overrides", "message"), IMPOSSIBLE, ids=[" ".join(overrides) for overrides, _ in IMPOSSIBLE])
def test_impossible_settings_are_refused(
    overrides: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        compose(*overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(("value", "shown"), [(None, "null"), (True, "true"), (Device.cuda, "cuda"), (1.5, "1.5")])
def test_values_are_shown_as_they_are_typed(value: object, shown: str) -> None:
    with pytest.raises(SpecError, match=f"^field={shown}: is wrong$"):
        require(False, "field", value, "is wrong")


REFUSED_WHEN_OPENED = [
    ("budget.batch_size=4096", "budget.batch_size=4096: there are only 128 training images; use 128 or less"),
    ("budget.train_images=99999", "budget.train_images=99999: there are only 1437 images; use 1437 or less"),
    ("weights=other.pt", "weights=other.pt: has 7 classes, data=digits has 10"),
    ("device=mps", "device=mps: PyTorch finds no such device here"),
]


@pytest.fixture
def files_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Write other.pt, weights of seven classes, to the working folder; return the files of that folder."""
    monkeypatch.chdir(tmp_path)
    weights = Network(compose("+step=baseline", *TINY).network).state_dict()
    torch.save(weights | {"head.weight": torch.zeros(7, 128), "head.bias": torch.zeros(7)}, "other.pt")
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize(("override", "message"), REFUSED_WHEN_OPENED)
@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an MPS device here")
def test_settings_that_do_not_fit_data_weights_or_device_are_refused(
    override: str, message: str, files_with_weights: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        run.run(compose("+step=baseline", *TINY, override))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == files_with_weights


@pytest.mark.slow
def test_the_command_line_refuses_weights_of_another_number_of_classes(
    files_with_weights: list[Path], command_line: CommandLine, tmp_path: Path
) -> None:
    result = command_line("+step=baseline", *TINY, "weights=other.pt")
    assert result.returncode == 2
    assert result.stderr.startswith("error: weights=other.pt: has 7 classes") and result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == files_with_weights
