"""The effective receptive field, on networks whose field is known, and on the page of a study."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import roadmap
from roadmap.evaluation.receptive_field import receptive_field
from roadmap.models.network import Network, build_network
from roadmap.records.record import run_folder
from roadmap.report import inside
from tests.helpers import call_main, make_spec, write_run


class OneConvolution(Network):
    """A network whose features are one convolution with constant weights."""

    def __init__(self, kernel_size: int) -> None:
        nn.Module.__init__(self)
        self.conv = nn.Conv2d(1, 2, kernel_size, padding=kernel_size // 2)
        nn.init.constant_(self.conv.weight, 0.5)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize(("kernel_size", "half_side"), [(1, 1), (3, 3), (7, 5), (11, 9)])
def test_the_field_of_a_convolution_is_its_kernel(kernel_size: int, half_side: int) -> None:
    found = receptive_field(OneConvolution(kernel_size), [torch.rand(3, 1, 33, 33), torch.rand(5, 1, 33, 33)])
    expected = np.zeros((33, 33), dtype=int)
    first = 16 - kernel_size // 2
    expected[first : first + kernel_size, first : first + kernel_size] = 255
    assert np.array_equal(found["map"], expected)
    assert found["half_side"] == half_side  # half of k * k pixels
    assert found["num_images"] == 8 and found["image_size"] == 33


def test_the_field_is_averaged_over_the_given_number_of_images() -> None:
    torch.manual_seed(0)
    model = roadmap.create_model("gelu", base="nano", num_classes=10, in_chans=1).eval()
    images = torch.randn(24, 1, 32, 32)
    found = receptive_field(model, images.split(10), num_images=20)
    assert found["num_images"] == 20
    whole = receptive_field(model, [images[:20]], num_images=20)
    assert np.abs(np.array(found["map"]) - np.array(whole["map"])).max() <= 1
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_large_field_is_stored_small_and_a_reference_network_has_one(tmp_path: Path) -> None:
    found = receptive_field(OneConvolution(3), [torch.rand(1, 1, 256, 256)])
    assert np.array(found["map"]).shape == (64, 64) and found["image_size"] == 256
    spec = make_spec(tmp_path, "+transform=swin", "data.image_size=32", "data.stem_stride=4")
    swin = build_network(spec.network, 32).eval()
    field = receptive_field(swin, [torch.randn(2, spec.network.in_chans, 32, 32)])
    assert np.array(field["map"]).shape == (32, 32) and np.max(field["map"]) == 255


def evaluation(**fields: Any) -> dict[str, Any]:
    field = np.zeros((4, 4), dtype=int)
    field[1, 2] = 255
    content = {"weights": "model.pt", "top1": 85.0, "classes": ["cat", "dog"]}
    receptive = {"map": field.tolist(), "half_side": 1, "image_size": 4, "num_images": 100}
    return content | {"receptive_field": receptive} | fields


def test_the_page_shows_the_mean_over_seeds(tmp_path: Path) -> None:
    for seed, matrix in enumerate([[[8, 2], [1, 9]], [[10, 0], [5, 5]]]):
        spec = write_run(tmp_path, 90.0, "+step=baseline", f"seed={seed}")
        (run_folder(spec) / "evaluation.json").write_text(json.dumps(evaluation(confusion_matrix=matrix)))
    write_run(tmp_path, 91.0, "+step=gelu")
    assert call_main("report", str(tmp_path / "runs"), "--to", str(tmp_path / "report")).code == 0
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert page.count('<figure class="field">') == 1 and page.count('<table class="matrix">') == 1
    text = "half of the gradient is within 1×1 of 4×4 pixels; mean over 2 seeds, 100 test images each."
    assert page.count(text) == 2  # as the text alternative and as the caption
    for cell in ("90.0", "10.0", "30.0", "70.0"):  # of 20 cats and 20 dogs
        assert f">{cell}</td>" in page
    source = page.split('<img src="data:image/png;base64,')[1].split('"')[0]
    picture = np.asarray(Image.open(BytesIO(base64.b64decode(source))))
    assert picture.shape == (4, 4, 3) and picture.sum(2).argmax() == 6


def test_many_classes_are_listed_by_their_largest_confusions() -> None:
    matrix = np.eye(30, dtype=int) * 10
    matrix[3, 7], matrix[5, 2] = 10, 30
    found = inside.confusions([{"evaluation": {"confusion_matrix": matrix.tolist(), "classes": []}}])
    assert found is not None and found.rows == []
    assert found.largest == [("class 5", "class 2", "75.0 %"), ("class 3", "class 7", "50.0 %")]


def test_runs_without_an_evaluation_show_nothing() -> None:
    assert inside.receptive_field([{"evaluation": None}, {}]) is None and inside.confusions([{}]) is None
