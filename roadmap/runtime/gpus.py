"""Facts about common GPUs: peak throughput, memory, and the training throughput that others published.

Peaks are those of dense matrix products (without structured sparsity), in TFLOP/s, from NVIDIA's data sheets of the
products, with sums in fp32. `bf16` is also the peak of fp16. `fp32` is the peak with TF32, which the training uses
where a GPU has it. The training throughput of ResNet-50 is that of github.com/lambdal/deeplearning-benchmark (commit
aa5addb6, pytorch/csv_v1_v2, one GPU; V100: the one with 16 GB).
"""

from __future__ import annotations

from typing import NamedTuple

FLOPS_PER_MAC = 2
COST_PER_GMAC, COST_PER_MILLION_ACTIVATIONS, COST_PER_MILLION_DEPTHWISE = 0.0846, 0.0589, 0.1422  # of ResNet-50's cost
PASSES = 3  # a backward pass has twice as many multiply-adds as a forward pass


class Gpu(NamedTuple):
    """A GPU: peaks in TFLOP/s, memory in GiB, training images/s of ResNet-50 at 224 pixels in 16 bits and in fp32."""

    bf16: float
    fp32: float
    memory: int
    resnet50_16bit: int | None = None  # None: not published there
    resnet50_fp32: int | None = None


# The first entry whose words are all in the name that CUDA reports is used.
GPUS: tuple[tuple[str, Gpu], ...] = (
    ("H100 NVL", Gpu(835.0, 417.5, 94)),
    ("H100 PCIe", Gpu(756.5, 378.0, 80, 1976, 1248)),
    ("H100", Gpu(989.4, 494.7, 80, 2791, 1895)),
    ("H200", Gpu(989.4, 494.7, 141)),
    ("GH200", Gpu(989.4, 494.7, 96, 2844, 2063)),
    ("B200", Gpu(2250.0, 1125.0, 180, 3076, 2967)),
    ("A100 PCIE 40GB", Gpu(312.0, 156.0, 40, 1396, 882)),
    ("A100", Gpu(312.0, 156.0, 80, 1582, 1066)),
    ("A10G", Gpu(70.0, 35.0, 24)),
    ("A10", Gpu(125.0, 62.5, 24, 638, 349)),
    ("L40S", Gpu(362.0, 183.0, 48)),
    ("L4", Gpu(121.0, 60.0, 24)),
    ("V100 PCIE", Gpu(112.0, 14.0, 16)),
    ("V100", Gpu(125.0, 15.7, 16, 833, 369)),
    ("T4", Gpu(65.0, 8.1, 16)),
    ("RTX 3090", Gpu(71.0, 35.6, 24, 905, 513)),
    ("RTX 4090", Gpu(165.2, 82.6, 24, 1301, 721)),
)


def find_gpu(name: str) -> Gpu | None:
    """Return the facts about the GPU that CUDA calls `name`; None if it is not in the list, and for CPUs."""
    words = name.replace("-", " ").replace("_", " ").lower().split()
    if {"mig", "laptop", "ti"} & set(words):  # a slice, or another product with a similar name
        return None
    return next((gpu for known, gpu in GPUS if all(word in words for word in known.lower().split())), None)


def planning_names() -> list[str]:
    """Return the names of the GPUs with a published training throughput, as `plan_device` takes them."""
    return [name.lower().replace(" ", "-") for name, gpu in GPUS if gpu.resnet50_16bit is not None]


def peak_flops(name: str, precision: str) -> float | None:
    """Return the peak in FLOP/s of the GPU that CUDA calls `name`, in a precision of `config.choices.Precision`.

    None if the GPU is not in the list, and for CPUs.
    """
    gpu = find_gpu(name)
    return None if gpu is None else 1e12 * (gpu.fp32 if precision == "fp32" else gpu.bf16)


def model_flops_utilization(images_per_second: float, gmacs: float, name: str, precision: str) -> float | None:
    """Return the share of a GPU's peak that the multiply-adds of a training make up; None if the peak is unknown.

    `images_per_second` is the training throughput of one GPU, and `gmacs` are the multiply-adds / 1e9 of a forward pass
    for one image. Counted as model FLOPs utilization: Chowdhery et al., "PaLM" (2022), appendix B.
    """
    peak = peak_flops(name, precision)
    return None if peak is None else PASSES * FLOPS_PER_MAC * gmacs * 1e9 * images_per_second / peak


def relative_training_cost(gmacs: float, activations: float, depthwise_activations: float) -> float:
    """Return the training time of an image on a GPU in 16 bits, in units of that of ResNet-50 at 224 pixels.

    Arguments are counted for the forward pass of one image: multiply-adds / 1e9, and elements of the outputs of
    convolutions and linear layers, and of depthwise convolutions. The weights are a least-squares fit of the relative
    errors for nine networks, ResNet-26 to -200 and ConvNeXt-N to -B, whose training throughput timm's author measured
    on an RTX 3090 (huggingface/pytorch-image-models, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv). No
    error is above 8 %.
    """
    return COST_PER_GMAC * gmacs + 1e-6 * (
        COST_PER_MILLION_ACTIVATIONS * activations + COST_PER_MILLION_DEPTHWISE * depthwise_activations
    )
