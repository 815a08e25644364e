"""Peaks of GPUs, and the share of them that a training uses."""

from __future__ import annotations

import pytest

from roadmap.runtime.gpus import PEAKS, model_flops_utilization, peak_flops
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
        ("NVIDIA GeForce GTX 1080", "fp32", None),
        ("AMD EPYC 7B13", "bf16", None),
    ],
)
def test_the_peak_of_a_gpu_is_found_by_its_name(name: str, precision: str, teraflops: float | None) -> None:
    assert peak_flops(name, precision) == (None if teraflops is None else pytest.approx(1e12 * teraflops))


def test_bf16_is_faster_than_fp32() -> None:
    assert all(peak.bf16 > 1.9 * peak.fp32 for _, peak in PEAKS)


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
