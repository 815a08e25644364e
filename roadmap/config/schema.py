"""The typed description of one run: what Hydra composes, what every other room reads.

Every section is a plain dataclass and doubles as the Hydra schema, so an unknown key or a value of the wrong kind
is refused while composing. `validate` refuses what is well typed but impossible; each message names its field.
Fields that a preset leaves to the data (`num_classes` of an image folder, say) are None until they are known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

MISSING: Any = "???"  # OmegaConf's mark for a value that a preset has to give
EXPANSION = 4  # a block is 4 times wider outside than inside (ResNet), or inside than outside (inverted bottleneck)


class Stem(Enum):
    """The first layers: ResNet's strided convolution (and max pooling), or one non-overlapping convolution."""

    conv = "conv"
    patchify = "patchify"


class Norm(Enum):
    batch_norm = "batch_norm"
    layer_norm = "layer_norm"


class Activation(Enum):
    relu = "relu"
    gelu = "gelu"


class Init(Enum):
    """Initial weights: torchvision's ResNet (Kaiming normal, fan out) or Table 5 (truncated normal, std 0.02)."""

    kaiming = "kaiming"
    trunc_normal = "trunc_normal"


class Optimizer(Enum):
    sgd = "sgd"
    adamw = "adamw"


class LRSchedule(Enum):
    cosine = "cosine"
    step = "step"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Precision(Enum):
    """Arithmetic of the forward and backward pass; parameters are always float32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Mixing(Enum):
    """What Mixup and CutMix draw once: for a whole batch, as Table 5's runs did (timm's default), or for each image."""

    batch = "batch"
    image = "image"


class Design(Enum):
    """Which networks a study consists of, besides what its sweep lists; see `roadmap.designs`."""

    grid = "grid"
    leave_one_out = "leave_one_out"
    add_one_in = "add_one_in"
    attribution = "attribution"
    recipe = "recipe"


class Reference(Enum):
    """A network of timm's in the place of ours: a Swin Transformer (Liu et al., ICCV 2021)."""

    swin = "swin"


# An unreadable image ends the run, or is left out, counted and reported; never replaced by another.
OnError = Enum("OnError", {"raise": "raise", "skip": "skip"})  # functional: `raise` is a word of Python


class Failures(Enum):
    """What a run that fails or diverges means for the others of its study."""

    go_on = "go_on"
    stop = "stop"


@dataclass
class TransformInfo:
    """What a transform says of itself; the key in `RunSpec.transforms` is its name."""

    label: str = MISSING
    section: str = ""  # of the paper
    variant: bool = False  # tried at a station, not on the path to the next
    needs: list[str] = field(default_factory=list)  # transforms without which it has no meaning
    reference: bool = False  # another network altogether, for comparison


@dataclass
class BaseSpec:
    """The numbers that the transforms reach for, so that the same transforms serve every base."""

    name: str = MISSING
    depths: list[int] = MISSING  # blocks per stage of the ResNet
    width: int = MISSING  # channels of its first stage
    swin_depths: list[int] = MISSING  # `stage_ratio` puts these depths ...
    swin_width: int = MISSING  # ... and this width (84 in the ResNet-200 regime, else that of the ResNet)
    wide_width: int = MISSING  # `increase_width` puts this one
    start_width: int = MISSING  # the width before `increase_width`: `width`, or `swin_width` after `stage_ratio`
    drop_path: float = 0.0  # highest stochastic depth rate in the enhanced recipe
    width_factor: float = 1.0  # all widths of the network, times this
    depth_factor: float = 1.0  # the blocks of each stage, times this
    reference_depths: list[int] = MISSING  # of the Swin Transformer beside this base, `wide_width` wide
    reference_heads: int = MISSING  # in its first stage
    paper_table: int | None = None  # 10 or 11: the table of the paper whose regime this base is, or scales down


@dataclass
class NetworkSpec:
    """One network of the road. Widths are in channels; `w` below is `width` times 2 ** stage."""

    depths: list[int] = MISSING  # blocks in each of the four stages
    width: int = MISSING  # w of the first stage
    stem: Stem = Stem.conv
    stem_stride: int = 4  # total stride of the stem: 4, 2 or 1
    depthwise: bool = False  # groups of the spatial convolution = its channels
    inverted_bottleneck: bool = False  # block widths w -> 4w -> w instead of 4w -> w -> 4w
    spatial_first: bool = False  # block order spatial, 1x1, 1x1 instead of 1x1, spatial, 1x1
    kernel_size: int = 3  # of the spatial convolution; odd
    activation: Activation = Activation.relu
    fewer_activations: bool = False  # one per block, before its last 1x1; none in the stem
    fewer_norms: bool = False  # one per block, before its first 1x1
    norm: Norm = Norm.batch_norm
    separate_downsampling: bool = False  # norm and 2x2 stride-2 convolution between stages; norm after pooling
    grn: bool = False  # global response normalization before each block's last 1x1
    layer_scale: float | None = None  # initial scale of each residual branch; None: no layer scale
    drop_path: float = 0.0  # stochastic depth of the last block, rising linearly from 0 at the first
    init: Init = Init.kaiming
    num_classes: int | None = None
    in_chans: int = 3  # 1 grey, 3 colour
    reference: Reference | None = None  # another network of these depths and width; the fields between have no meaning
    heads: int | None = None  # attention heads in its first stage


@dataclass
class RecipeSpec:
    """How a network is trained, at the paper's own scale; `budget` says how much of it a run gets."""

    name: str = MISSING
    epochs: float = MISSING
    warmup_epochs: float = 0.0  # linear, from 0
    batch_size: int = MISSING  # images per step, all devices together
    optimizer: Optimizer = MISSING
    lr: float = MISSING  # at `batch_size`
    momentum: float = 0.9  # SGD
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # AdamW
    weight_decay: float = MISSING
    decay_norms_and_biases: bool = False  # also norms, biases and layer scale
    schedule: LRSchedule = MISSING
    min_lr: float = 0.0  # end of the cosine, whatever the batch size
    decay_epochs: float = 30.0  # step schedule: every so many epochs ...
    decay_rate: float = 0.1  # ... times this
    rand_augment: str | None = None  # timm's notation, as rand-m9-mstd0.5-inc1
    mixup: float = 0.0  # Beta's alpha; 0: off
    cutmix: float = 0.0  # Beta's alpha; 0: off
    mixing: Mixing = Mixing.batch
    random_erasing: float = 0.0  # probability
    label_smoothing: float = 0.0
    drop_path: float = 0.0  # network.drop_path follows it
    layer_scale: float | None = None  # network.layer_scale follows it
    init: Init = Init.kaiming  # network.init follows it
    interpolation: str = "bilinear"  # of resized training and test images
    test_crop: float = 0.875  # share of the resized test image that the centre crop keeps


@dataclass
class OptimizerFactors:
    """One for each optimizer, by its name."""

    sgd: float = 1.0
    adamw: float = 1.0


@dataclass
class BudgetSpec:
    """How much of its recipe a run gets. None leaves the recipe's own value."""

    name: str = MISSING
    epochs: float | None = None  # of a recipe of 300; the others in proportion (a recipe of 90: 0.3 of it)
    equal_epochs: bool = False  # every recipe gets `epochs`, whatever its own length
    batch_size: int | None = None  # the learning rate follows linearly
    lr_multiplier: OptimizerFactors = field(default_factory=OptimizerFactors)  # of the rate, after the linear rule
    regularization: float = 1.0  # share of batches mixed, of images RandAugmented and erased, of the recipe's own
    train_images: int | None = None  # use only so many training images, evenly over the classes
    test_images: int | None = None
    allow_chance: bool = False  # a run that ends no better than guessing is completed, not diverged
    evaluations: int = 10  # points of the learning curve on the test set, spread over the run; the last epoch is one


@dataclass
class DataSpec:
    name: str = MISSING
    root: str | None = None  # folder of the data; None: where this dataset is usually put
    download: bool = True  # where it is absent and can be downloaded
    num_classes: int | None = None
    in_chans: int = 3
    image_size: int = MISSING  # side in pixels, training and test
    stem_stride: int = 4  # network.stem_stride follows it
    small_images: bool = False  # padded crop and flip instead of random resized crop; no test crop
    crop_padding: int = 4  # pixels on each side, of that padded crop
    flip: float = 0.5  # probability of a horizontal flip
    mean: list[float] = MISSING  # per channel, of images in 0..1
    std: list[float] = MISSING
    train_split: str = "train"
    test_split: str = "validation"
    holdout: int | None = None  # evaluate on so many training images, which are not trained on; the test set is unseen
    input_key: str = "image"  # columns of an hfds/ dataset
    target_key: str = "label"
    num_train: int | None = None  # images of a streamed (wds) training split, where its index does not say
    on_error: OnError = OnError["raise"]  # of an unreadable image: raise, or skip
    workers: int | None = None  # loader processes; None: as many as this machine's cores allow
    quick_epochs: float = 10.0  # what budget=quick gives this dataset
    quick_batch_size: int = 128
    quick_lr_multiplier: float = 32.0  # of the enhanced recipe


@dataclass
class DesignSpec:
    name: Design = Design.grid
    full: str = "separate_downsampling"  # the step that is taken apart, or put together
    start: str = "training_recipe"  # the step that `add_one_in` adds to
    orders: int = 8  # attribution: sampled orders of the transforms, each with its opposite
    order_seed: int = 0


@dataclass
class RunSpec:
    network: NetworkSpec = field(default_factory=NetworkSpec)
    recipe: RecipeSpec = field(default_factory=RecipeSpec)
    budget: BudgetSpec = field(default_factory=BudgetSpec)
    data: DataSpec = field(default_factory=DataSpec)
    base: BaseSpec = field(default_factory=BaseSpec)
    transforms: dict[str, TransformInfo] = field(default_factory=dict)
    seed: int = 0
    study: str = "runs"  # what the runs belong to: listed in out/study/, reported in reports/study/
    design: DesignSpec = field(default_factory=DesignSpec)
    reference: str | None = None  # of a study: a transform that is a reference network (swin), beside the others
    plan: bool = False  # only tell what would run, what is done, and about how long it takes
    device: Device = Device.auto
    precision: Precision = Precision.auto
    weights: str | None = None  # timm/NAME or a file: start from these
    new_head: bool = False  # with `weights` of another number of classes: a fresh classifier
    deterministic: bool = False  # only algorithms that repeat to the bit (slower on a GPU)
    fast_kernels: bool = True  # our CPU kernels for the shapes where they beat PyTorch's; they round differently
    compile: bool = False  # torch.compile, on CUDA with CUDA graphs; the first step of a kind of network takes a minute
    accumulate: int = 1  # parts that a batch is split into, one after the other: less memory, the same step
    parallel: int | None = None  # runs of a sweep at once on this machine; None: as many as serves
    failures: Failures = Failures.go_on
    checkpoint_minutes: float = 2.0  # between two checkpoints of a run; a signal writes one too
    checkpoint_steps: int | None = None  # and after so many steps
    keep_checkpoint: bool = False  # leave the last one, with the optimizer's state, beside the record
    save_weights: bool = True  # model.pt beside the record, for weights=PATH
    force: bool = False  # run again though the record is there
    out: str = "experiments"
    reports: str = "reports"


class SpecError(ValueError):
    """A setting that has no meaning: one line that names the field and what to do."""
