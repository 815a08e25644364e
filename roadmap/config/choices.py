"""Enumerations: the values of fields that have a fixed set of choices. The names are those of the command line."""

from __future__ import annotations

from enum import Enum


class Stem(Enum):
    """First layers: ResNet's strided convolution (and max pooling), ResNet-D's 3x3 convolutions, or one convolution
    without overlap."""

    conv = "conv"
    deep = "deep"
    patchify = "patchify"


BATCH_NORM, LAYER_NORM = "batch_norm", "layer_norm"
TRACKERS = ("tensorboard", "trackio", "mlflow", "wandb")
NORMS = (BATCH_NORM, LAYER_NORM)  # or the path of a class of your own, as mypackage.norms.MyNorm
RELU, GELU = "relu", "gelu"
ACTIVATIONS = (RELU, GELU)  # or the path of a class of your own


class Init(Enum):
    """Initial weights: torchvision's ResNet (Kaiming normal, fan out) or Table 5 (truncated normal, std 0.02)."""

    kaiming = "kaiming"
    trunc_normal = "trunc_normal"


class Optimizer(Enum):
    """Optimizer."""

    sgd = "sgd"
    adamw = "adamw"


class LRSchedule(Enum):
    """Shape of the learning rate after the warm-up: a cosine, or a decay every `decay_epochs`."""

    cosine = "cosine"
    step = "step"


class Device(Enum):
    """Device type; `auto` selects the first of CUDA, MPS and CPU that PyTorch finds."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Precision(Enum):
    """Arithmetic of the forward and backward pass; parameters are always float32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"  # with a scaled loss (torch.amp.GradScaler)


class Mixing(Enum):
    """How often Mixup and CutMix draw: once for `mix_batch_size` images, as in Table 5's runs, or for each image."""

    batch = "batch"
    image = "image"


class Design(Enum):
    """Networks of a study besides those that its sweep lists; see `roadmap.config.designs`."""

    grid = "grid"
    leave_one_out = "leave_one_out"
    add_one_in = "add_one_in"
    attribution = "attribution"
    recipe = "recipe"
    search = "search"  # the last three are those of the studies that a search writes
    search_found = "search_found"
    search_race = "search_race"


class Sampler(Enum):
    """How a search proposes values: Optuna's tree-structured Parzen estimator, or at random."""

    tpe = "tpe"
    random = "random"


class Pruner(Enum):
    """Which runs of a search stop early: those below the median of the others, by Hyperband, or none."""

    median = "median"
    hyperband = "hyperband"
    none = "none"


class Reference(Enum):
    """Reference network, built by timm instead of ours: a Swin Transformer (Liu et al., ICCV 2021)."""

    swin = "swin"


# An unreadable image ends the run, or is left out, counted and reported; it is never replaced by another image.
# Functional API, because `raise` is a keyword of Python.
OnError = Enum("OnError", {"raise": "raise", "skip": "skip"})  # pyrefly: ignore[bad-class-definition]
RAISE = OnError("raise")


class Failures(Enum):
    """Effect of a failed or diverged run on its sweep: none (`go_on`), or no other run continues or starts (`stop`)."""

    go_on = "go_on"
    stop = "stop"
