"""Typed description of one run: the dataclasses that Hydra composes and that all packages read.

Each section is a plain dataclass and also the Hydra schema of its part of the config, so Hydra refuses an unknown field
or a value of the wrong type. `config.validation` refuses values that have the right type but are impossible. A field
that only the data can determine, such as `num_classes` of an image folder, is None until `config.datasets` fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from roadmap.config.choices import (
    BATCH_NORM,
    RAISE,
    RELU,
    Design,
    Device,
    Failures,
    Init,
    LRSchedule,
    Mixing,
    OnError,
    Optimizer,
    Precision,
    Pruner,
    Reference,
    Sampler,
    Stem,
)

MISSING: Any = "???"  # OmegaConf's mark for a required value without a default
DEFAULT_ROADMAP = "convnext"
EXPANSION = 4  # ResNet: a block is 4 times wider at its ends than inside; inverted bottleneck: 4 times wider inside


@dataclass
class TransformInfo:
    """Description that a transform gives of itself; its name is the key in `RunSpec.transforms`."""

    label: str = MISSING  # in tables and figures
    section: str = ""  # of the roadmap's paper, such as "2.6"; empty: beyond the paper. The roadmap decides
    variant: bool = False  # tried at a step and not kept. The roadmap decides
    needs: list[str] = field(default_factory=list)  # transforms without which this one has no meaning
    reference: bool = False  # a network of another kind, for comparison


@dataclass
class BaseSpec:
    """Depths and widths that the transforms refer to, so that the same transforms serve every base."""

    name: str = MISSING
    depths: list[int] = MISSING  # blocks in each of the four stages of the ResNet
    width: int = MISSING  # channels of the ResNet's first stage
    swin_depths: list[int] = MISSING  # blocks per stage that `stage_ratio` sets
    swin_width: int = MISSING  # channels that `stage_ratio` sets: 84 in the ResNet-200 regime, else the ResNet's width
    wide_width: int = MISSING  # channels that `increase_width` sets
    start_width: int = MISSING  # channels before `increase_width`: `width`, or `swin_width` after `stage_ratio`
    drop_path: float = 0.0  # stochastic depth rate of the last block in the enhanced recipe, 0 to below 1
    init_std: float | None = None  # default of network.init_std; None: `config.compose.scaled_init_std`
    width_factor: float = 1.0  # factor on all widths of the network
    depth_factor: float = 1.0  # factor on the number of blocks of each stage
    reference_depths: list[int] = MISSING  # blocks per stage of this base's Swin Transformer; its width: `wide_width`
    reference_heads: int = MISSING  # attention heads in the first stage of that Swin Transformer
    paper_table: int | None = None  # 10 or 11: the paper's table for this base, or for the base that it scales down


@dataclass
class NetworkSpec:
    """One network. Widths are in channels; in the comments, w is `width` times 2 ** stage (stages 0 to 3)."""

    depths: list[int] = MISSING  # blocks in each of the four stages
    width: int = MISSING  # w of the first stage
    stem: Stem = Stem.conv
    stem_stride: int = 4  # total stride of the stem: 4, 2 or 1
    depthwise: bool = False  # the spatial convolution has as many groups as channels
    inverted_bottleneck: bool = False  # block widths w -> 4w -> w instead of 4w -> w -> 4w
    spatial_first: bool = False  # block order spatial, 1x1, 1x1 instead of 1x1, spatial, 1x1
    kernel_size: int = 3  # of the spatial convolution, in pixels; odd
    activation: str = RELU  # relu, gelu, or the path of a class of your own, as mypackage.layers.MyActivation
    fewer_activations: bool = False  # one activation per block, before its last 1x1; none in the stem
    fewer_norms: bool = False  # one norm per block, before its first 1x1
    norm: str = BATCH_NORM  # batch_norm, layer_norm, or the path of a class of your own
    separate_downsampling: bool = False  # norm and 2x2 convolution of stride 2 between stages; norm after the pooling
    grn: bool = False  # global response normalization before each block's last 1x1
    squeeze_excitation: float | None = None  # hidden channels of squeeze-and-excitation, as a fraction; None: none
    pool_shortcut: bool = False  # ResNet-D: 2x2 average pooling in the strided shortcuts instead of a strided 1x1
    dropout: float = 0.0  # of the features before the classifier
    conv: str | None = None  # path of a class of your own for the spatial convolutions
    block: str | None = None  # path of a class of your own for the blocks
    layer_scale: float | None = None  # initial scale of each residual branch; None: no layer scale
    drop_path: float = 0.0  # stochastic depth rate of the last block; rises linearly from 0 at the first block
    init: Init = Init.kaiming
    init_std: float | None = 0.02  # standard deviation of the weights, for init=trunc_normal; None: `scaled_init_std`
    num_classes: int | None = None  # None: `data.num_classes`
    in_chans: int = 3  # 1 grey, 3 colour
    # A reference network instead of ours; then `stem` to `block`, `layer_scale` and `init` have no effect
    reference: Reference | None = None
    heads: int | None = None  # attention heads in the first stage of the reference network

    @property
    def user_classes(self) -> dict[str, str]:
        """The fields that name a class of the user, with its path."""
        paths = {"norm": self.norm, "activation": self.activation, "conv": self.conv, "block": self.block}
        return {f"network.{name}": path for name, path in paths.items() if path is not None and "." in path}

    @property
    def has_batch_norm(self) -> bool:
        """Whether the images of a batch change each other's logits in training."""
        return self.norm == BATCH_NORM and self.reference is None


@dataclass
class RecipeSpec:
    """How a network is trained at the paper's own scale; `config.schedule` scales it to a budget."""

    name: str = MISSING
    epochs: float = MISSING
    warmup_epochs: float = 0.0  # epochs in which the learning rate rises linearly from 0
    batch_size: int = MISSING  # images per iteration, on all devices together
    norm_batch_size: int | None = None  # images that BatchNorm normalizes together; None: the whole batch
    optimizer: Optimizer = MISSING
    lr: float = MISSING  # highest learning rate, at `batch_size`
    momentum: float = 0.9  # of SGD
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # of AdamW
    weight_decay: float = MISSING
    decay_norms_and_biases: bool = False  # weight decay also for norms, biases and layer scale
    schedule: LRSchedule = MISSING
    min_lr: float = 0.0  # learning rate at the end of the cosine, whatever the batch size
    decay_epochs: float = 30.0  # `step` schedule: epochs between two decays
    decay_rate: float = 0.1  # `step` schedule: factor of each decay
    rand_augment: str | None = None  # in timm's notation, such as rand-m9-mstd0.5-inc1; None: off
    mixup: float = 0.0  # alpha of the Beta distribution; 0: off
    cutmix: float = 0.0  # alpha of the Beta distribution; 0: off
    mixing: Mixing = Mixing.batch
    mix_batch_size: int | None = None  # images for which Mixup and CutMix draw once; None: the whole batch
    random_erasing: float = 0.0  # probability per image
    label_smoothing: float = 0.0  # fraction of the target that is distributed evenly over all classes
    drop_path: float = 0.0  # default of network.drop_path
    layer_scale: float | None = None  # default of network.layer_scale
    init: Init = Init.kaiming  # default of network.init
    ema_decay: float | None = None  # decay of the moving average of the weights, per iteration; None: no average
    interpolation: str = "bilinear"  # of resized training and test images: nearest, bilinear or bicubic
    test_crop: float = 0.875  # fraction of the resized test image's side that the centre crop keeps


@dataclass
class OptimizerFactors:
    """One factor per optimizer; the names are those of `Optimizer`."""

    sgd: float = 1.0
    adamw: float | None = 1.0  # None: from the number of iterations, `config.schedule.short_run_factor`


@dataclass
class BudgetSpec:
    """How much of its recipe a run gets. None keeps the recipe's own value."""

    name: str = MISSING
    epochs: float | None = None  # of a recipe of 300 epochs; other recipes in proportion (90 epochs: 0.3 of it)
    equal_epochs: bool = False  # every recipe gets `epochs`, whatever its own length
    batch_size: int | None = None  # images per iteration; the learning rate scales linearly with it
    lr_multiplier: OptimizerFactors = field(default_factory=OptimizerFactors)  # on the linearly scaled learning rate
    regularization: float = 1.0  # fraction, 0 to 1, of the batches mixed and the images RandAugmented and erased
    train_images: int | None = None  # number of training images to use, evenly over the classes; None: all
    test_images: int | None = None  # number of test images to use, evenly over the classes; None: all
    allow_chance: bool = False  # a run that is not better than predicting the majority class is completed, not diverged
    evaluations: int = 10  # points of the learning curve on the test set, spread over the run; includes the last epoch


@dataclass
class DataSpec:
    """The dataset, its images, and what `budget=quick` gives it."""

    name: str = MISSING  # a name in `config.datasets.KNOWN_DATASETS`, or a timm dataset such as hfds/OWNER/NAME
    root: str | None = None  # folder of the data; None: the usual folder of the dataset
    download: bool = True  # download the dataset if it is absent and can be downloaded
    num_classes: int | None = None  # None: filled in where the dataset determines it
    in_chans: int = 3  # 1 grey, 3 colour
    image_size: int = MISSING  # side in pixels, of training and test images
    stem_stride: int = 4  # default of network.stem_stride
    small_images: bool = False  # padded crop and flip instead of a random resized crop; no test crop
    crop_padding: int = 4  # pixels added on each side before that padded crop
    flip: float = 0.5  # probability of a horizontal flip
    mean: list[float] = MISSING  # per channel, of pixel values from 0 to 1
    std: list[float] = MISSING  # per channel, of pixel values from 0 to 1
    train_split: str = "train"  # name of the split, or of its folder
    test_split: str = "validation"  # name of the split, or of its folder
    holdout: int | None = None  # evaluate on this number of training images, not trained on, instead of the test set
    input_key: str = "image"  # column of the images in an hfds/ dataset
    target_key: str = "label"  # column of the labels in an hfds/ dataset
    num_train: int | None = None  # images of a streamed (wds/) training split whose index does not give their number
    on_error: OnError = RAISE  # what an unreadable image does
    workers: int | None = None  # loader processes; None: as many as the cores of the machine allow
    quick_epochs: float = 10.0  # budget.epochs with budget=quick
    quick_batch_size: int = 128  # budget.batch_size with budget=quick


@dataclass
class DesignSpec:
    """The design of a study; see `roadmap.config.designs`."""

    name: Design = Design.grid
    full: str | None = None  # step whose transforms are removed or added; None: the one that the roadmap names
    start: str | None = None  # step to which `add_one_in` adds; None: the one that the roadmap names
    orders: int = 8  # attribution: number of sampled orders of the transforms, each order with its reverse
    order_seed: int = 0  # seed of the sampled orders
    needs: dict[str, Any] = field(default_factory=dict)  # transform -> others without which the study does not have it


@dataclass
class TuneSpec:
    """The search of `+study=tune` for the best values of fields; see `roadmap.sweep.tuning`."""

    trials: int | None = None  # runs for each network; None: no search
    sampler: Sampler = Sampler.tpe
    pruner: Pruner = Pruner.median
    seed: int = 0  # of the sampler
    space: dict[str, Any] = field(default_factory=dict)  # field -> values; see `roadmap.config.search_space`


@dataclass
class SearchSpec:
    """The search of `+study=search` for the best combination of transforms; see `roadmap.sweep.search`."""

    budget: Any = None  # runs on held-out images, or time such as 30min or 2h; None: no search
    max_macs: float | None = None  # multiply-adds of one image; None: those of the more expensive of the two ends
    min_images_per_second: float | None = None  # in training; None: any
    confirm_seeds: int = 10  # fresh seeds of the confirmation on the test set
    seed: int = 0  # of the search's random draws


@dataclass
class RunSpec:
    """One run, and the sweep and study that it belongs to."""

    network: NetworkSpec = field(default_factory=NetworkSpec)
    recipe: RecipeSpec = field(default_factory=RecipeSpec)
    budget: BudgetSpec = field(default_factory=BudgetSpec)
    data: DataSpec = field(default_factory=DataSpec)
    base: BaseSpec = field(default_factory=BaseSpec)
    roadmap: str = DEFAULT_ROADMAP  # file of conf/roadmap that defines the steps
    transforms: dict[str, TransformInfo] = field(default_factory=dict)  # all that made the network and the recipe
    name: str = ""  # of the network in the roadmap, such as gelu or baseline+gelu; `config.compose` sets it
    label: str = ""  # of the network in tables; `config.compose` sets it
    seed: int = 0
    study: str = "runs"  # study of the runs: listed in out/STUDY/study.json, reported in reports/STUDY/
    design: DesignSpec = field(default_factory=DesignSpec)
    tune: TuneSpec = field(default_factory=TuneSpec)
    search: SearchSpec = field(default_factory=SearchSpec)
    tuned: str | None = None  # best.json of a search: each step gets its own best values; None: none
    reference: str | None = None  # transform of a reference network (swin) that the study also trains; None: none
    plan: bool = False  # dry run: list the runs, their status and their estimated cost
    plan_device: str = "auto"  # with `plan`: auto, none, here, or the name of a GPU; see sweep.estimate
    device: Device = Device.auto
    precision: Precision = Precision.auto
    weights: str | None = None  # timm/NAME or a file: weights to start from
    new_head: bool = False  # with `weights` of another number of classes: a newly initialized classifier
    deterministic: bool = False  # only algorithms that are reproducible to the bit (slower on a GPU)
    fast_kernels: bool = True  # our CPU kernels for the shapes where they are faster than PyTorch's; round differently
    compile: bool = False  # torch.compile, with CUDA graphs on CUDA; a network's first iteration takes about a minute
    # Parts that a batch is split into, one after the other: less memory, same iteration. None: as few as fit the memory
    accumulate: int | None = None
    processes: int | None = None  # that train each run together, one per GPU; None: gpus_per_node of the launcher, or 1
    parallel: int | None = None  # runs of a sweep at once on this machine; None: see sweep.placement
    failures: Failures = Failures.go_on
    checkpoint_minutes: float = 2.0  # minutes between two checkpoints of a run; a signal also writes one
    checkpoint_steps: int | None = None  # also a checkpoint after this many iterations; None: only by time
    keep_checkpoint: bool = False  # keep the last checkpoint, with the optimizer's state, beside the record
    save_weights: bool = True  # write model.pt (and model_ema.pt) beside the record, for weights=PATH
    logger: Any = None  # trackers that get the runs: one or a list of roadmap.config.choices.TRACKERS; None: none
    log_every: int = 50  # iterations between two points of the loss, in iterations.csv and in the trackers
    force: bool = False  # repeat runs that are finished
    out: str = "experiments"  # folder of runs and studies
    reports: str = "reports"  # folder of reports


class SpecError(ValueError):
    """An invalid setting; the message is one line, `field=value: what is wrong; what to do`."""
