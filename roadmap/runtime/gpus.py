"""Peak throughput of common GPUs, to which the throughput of a run is compared.

Dense matrix products (without structured sparsity), in TFLOP/s, from NVIDIA's data sheets of the products. `bf16` is
also the peak of fp16. `fp32` is the peak with TF32, which the training uses where a GPU has it.
"""

from __future__ import annotations

from typing import NamedTuple

FLOPS_PER_MAC = 2
PASSES = 3  # a backward pass has twice as many multiply-adds as a forward pass


class Peak(NamedTuple):
    """The peak of a GPU in TFLOP/s."""

    bf16: float
    fp32: float


# The first entry whose words are all in the name that CUDA reports is used.
PEAKS: tuple[tuple[str, Peak], ...] = (
    ("H100 PCIe", Peak(756.5, 378.0)),
    ("H100", Peak(989.4, 494.7)),
    ("H200", Peak(989.4, 494.7)),
    ("A100", Peak(312.0, 156.0)),
    ("A10G", Peak(70.0, 35.0)),
    ("A10", Peak(125.0, 62.5)),
    ("L40S", Peak(362.0, 183.0)),
    ("L4", Peak(121.0, 60.0)),
    ("V100 PCIE", Peak(112.0, 14.0)),
    ("V100", Peak(125.0, 15.7)),
    ("T4", Peak(65.0, 8.1)),
)


def peak_flops(name: str, precision: str) -> float | None:
    """Return the peak in FLOP/s of the GPU that CUDA calls `name`, in a precision of `config.choices.Precision`.

    None if the GPU is not in the list, and for CPUs.
    """
    words = name.replace("-", " ").lower().split()
    for known, peak in PEAKS:
        if all(word in words for word in known.lower().split()):
            return 1e12 * (peak.fp32 if precision == "fp32" else peak.bf16)
    return None


def model_flops_utilization(images_per_second: float, gmacs: float, name: str, precision: str) -> float | None:
    """Return the share of a GPU's peak that the multiply-adds of a training make up; None if the peak is unknown.

    `images_per_second` is the training throughput of one GPU, and `gmacs` are the multiply-adds / 1e9 of a forward pass
    for one image. Counted as model FLOPs utilization: Chowdhery et al., "PaLM" (2022), appendix B.
    """
    peak = peak_flops(name, precision)
    return None if peak is None else PASSES * FLOPS_PER_MAC * gmacs * 1e9 * images_per_second / peak
