"""Peaks of GPUs, and the share of them that a training uses."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from roadmap.models.complexity import measure_module
from roadmap.runtime import gpus
from roadmap.runtime.gpus import GPUS, find_gpu, model_flops_utilization, peak_flops, relative_training_cost
from roadmap.training.metrics import Metrics


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756.5),
        ("NVIDIA A100-SXM4-40GB", "fp32", 156),
        ("NVIDIA A10G", "bf16", 70),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA L4", "bf16", 121),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-PCIE-16GB", "fp16", 112),
        ("Tesla T4", "fp16", 65),
        ("NVIDIA H100 NVL", "bf16", 835),
        ("NVIDIA GeForce GTX 1080", "fp32", None),
        ("NVIDIA GeForce RTX 3090 Ti", "bf16", None),  # other products
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("AMD EPYC 7B13", "bf16", None),
    ],
)
def test_the_peak_of_a_gpu_is_found_by_its_name(name: str, precision: str, teraflops: float | None) -> None:
    assert peak_flops(name, precision) == (None if teraflops is None else pytest.approx(1e12 * teraflops))


def test_bf16_is_faster_than_fp32() -> None:
    assert all(peak.bf16 > 1.9 * peak.fp32 for _, peak in GPUS)


def test_the_utilization_counts_forward_and_backward_pass() -> None:
    """ResNet-50 has 4.09 GMACs: 1,000 images/s are 24.5 TFLOP/s, of an A100's 312."""
    assert model_flops_utilization(1000, 4.09, "NVIDIA A100-SXM4-80GB", "bf16") == pytest.approx(24.54 / 312)
    assert model_flops_utilization(1000, 4.09, "a processor", "fp32") is None


def test_the_record_of_a_run_on_two_gpus_has_the_throughput_and_the_utilization_of_one() -> None:
    metrics = Metrics(device="NVIDIA A100-SXM4-80GB", precision="bf16", processes=2)
    metrics.train_images, metrics.train_seconds = 20_000, 10.0
    fields = metrics.record_fields(gmacs=4.09)
    assert (fields["images_per_second"], fields["images_per_second_per_device"]) == (2000, 1000)
    assert fields["model_flops_utilization"] == pytest.approx(24.54 / 312)
    assert metrics.record_fields()["model_flops_utilization"] is None  # a run that failed before its cost was counted


# Training images/s on an RTX 3090, mixed precision, channels last, 224 pixels: results/
# benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv of huggingface/pytorch-image-models, commit aa4b5850.
RTX_3090 = {
    "resnet26": 1962.0,
    "resnet50": 1218.01,
    "resnet101": 747.89,
    "resnet152": 501.44,
    "resnet200": 357.55,
    "convnext_nano": 1249.89,
    "convnext_tiny": 819.24,
    "convnext_small": 487.15,
    "convnext_base": 338.68,
}


def test_the_relative_cost_is_a_fit_to_published_measurements() -> None:
    counts = np.array([counts_of(name) for name in RTX_3090])
    seconds = 1 / np.array(list(RTX_3090.values()))
    ratios = np.array([relative_training_cost(*row) for row in counts]) / seconds
    assert np.abs(ratios / np.mean(ratios) - 1).max() < 0.08
    assert relative_training_cost(*counts[1]) == pytest.approx(1, abs=0.001)  # the unit is the cost of ResNet-50
    in_millions = counts * [1, 1e-6, 1e-6]
    fit = np.linalg.lstsq(in_millions / seconds[:, None], np.ones(len(seconds)))[0]
    fit /= in_millions[1] @ fit
    own = [gpus.COST_PER_GMAC, gpus.COST_PER_MILLION_ACTIVATIONS, gpus.COST_PER_MILLION_DEPTHWISE]
    assert own == pytest.approx(fit, rel=0.002)


def counts_of(name: str) -> tuple[float, float, float]:
    """Return the GMACs, activations and activations of depthwise convolutions of a network of timm for one image."""
    depthwise: list[int] = []

    def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        depthwise.append(output.numel())

    with torch.device("meta"):
        model, image = timm.create_model(name).eval(), torch.empty(1, 3, 224, 224)
    cost = measure_module(model, image)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.register_forward_hook(count)
    with torch.no_grad():
        model(image)
    return cost.gmacs, float(cost.activations), float(sum(depthwise))


def test_plans_know_gpus_with_a_published_throughput() -> None:
    names = gpus.planning_names()
    assert {"h100", "h100-pcie", "a100", "v100", "rtx-3090"} <= set(names)
    assert "t4" not in names
    for name in names:
        gpu = find_gpu(name)
        assert gpu is not None
        assert gpu.resnet50_16bit is not None
        assert gpu.resnet50_fp32 is not None
        assert gpu.resnet50_fp32 < gpu.resnet50_16bit
    assert find_gpu("h100") is not find_gpu("h100-pcie")
