"""What a network is made of, layer by layer, told from the config in its record: needs no torch.

It is for drawings. `roadmap.network` is the truth; a test walks the modules of every step and variant beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from roadmap.config.schema import EXPANSION, Activation, Norm, Stem

Config = dict[str, Any]  # of a network: the fields of `spec.NetworkSpec`, as plain values
FORMS = {
    Norm.batch_norm.value: "BatchNorm",
    Norm.layer_norm.value: "LayerNorm",
    Activation.relu.value: "ReLU",
    Activation.gelu.value: "GELU",
}


@dataclass(frozen=True)
class Layer:
    """(N, w_in, H, W) -> (N, w_out, H', W')."""

    name: str  # of the module, within its part
    kind: str  # conv, norm, act, pool, mean, linear, layer_scale, drop_path or grn
    w_in: int  # channels
    w_out: int
    kernel: int = 1  # pixels
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False
    form: str = ""  # which norm or activation
    value: float | None = None  # initial layer scale; rate of stochastic depth

    @property
    def depthwise(self) -> bool:
        return self.kind == "conv" and self.groups == self.w_in > 1

    @property
    def title(self) -> str:
        """As `7×7 depthwise conv`."""
        size = f"{self.kernel}×{self.kernel}"
        conv = f"{size} depthwise conv" if self.depthwise else f"{size} conv"
        names = {"conv": conv, "pool": f"{size} max pooling", "mean": "global average pooling", "linear": "classifier"}
        names |= {"norm": FORMS.get(self.form, self.form), "act": FORMS.get(self.form, self.form)}
        names |= {"layer_scale": f"layer scale {self.value:g}" if self.value is not None else ""}
        names |= {"drop_path": f"stochastic depth {self.value:.2g}" if self.value is not None else ""}
        return names.get(self.kind, "global response norm")

    @property
    def widths(self) -> str:
        """As `64 → 256`, of convolutions and the classifier."""
        return f"{self.w_in:,} → {self.w_out:,}" if self.kind in ("conv", "linear") else ""

    @property
    def detail(self) -> str:
        """What else sets a convolution or a pooling apart, as `stride 2, bias`."""
        stride = [f"stride {self.stride}"] * (self.stride > 1)
        return ", ".join(stride + ["bias"] * (self.bias and self.kind == "conv"))

    @property
    def words(self) -> str:
        return ", ".join(filter(None, (f"{self.title} {self.widths}".strip(), self.detail)))

    def side(self, side: int) -> int:
        """Of the map that it puts out, for one of `side` pixels."""
        return 1 if self.kind == "mean" else (side + 2 * self.padding - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class Block:
    """after(shortcut(x) + branch(x))."""

    w_in: int
    w_out: int
    branch: list[Layer]
    shortcut: list[Layer]  # empty: the input itself
    after: list[Layer]

    @property
    def layers(self) -> list[Layer]:
        """In the order in which they are computed."""
        return self.shortcut + self.branch + self.after


@dataclass(frozen=True)
class Stage:
    downsample: list[Layer]  # before the blocks; empty: the first block strides, or nothing does
    blocks: list[Block]

    @property
    def w_out(self) -> int:
        return self.blocks[-1].w_out


@dataclass(frozen=True)
class Structure:
    stem: list[Layer]
    stages: list[Stage]
    head: list[Layer]

    def named(self) -> list[tuple[str, Layer]]:
        """All layers with the names of their modules, in the order in which they are computed."""
        found = [(f"stem.{layer.name}", layer) for layer in self.stem]
        for i, stage in enumerate(self.stages):
            found += [(f"stages.{i}.downsample.{layer.name}", layer) for layer in stage.downsample]
            for j, block in enumerate(stage.blocks):
                found += [(f"stages.{i}.blocks.{j}.{layer.name}", layer) for layer in block.layers]
        return found + [(layer.name, layer) for layer in self.head]

    def sides(self, image_size: int) -> list[int]:
        """Of the map of each stage, in pixels."""
        found = []
        for layer in self.stem:
            image_size = layer.side(image_size)
        for stage in self.stages:
            for layer in (*stage.downsample, *stage.blocks[0].branch):
                image_size = layer.side(image_size)
            found.append(image_size)
        return found


def structure_of(config: Config) -> Structure:
    depths, rates = config["depths"], _rates(config)
    w_in, stages = config["width"], []
    for i, depth in enumerate(depths):
        stages.append(
            _stage(config, w_in, config["width"] * 2**i, 1 if i == 0 else 2, [next(rates) for _ in range(depth)])
        )
        w_in = stages[-1].w_out
    head = [Layer("mean", "mean", w_in, w_in)]
    if config["separate_downsampling"]:
        head.append(_norm(config, "head_norm", w_in))
    return Structure(_stem(config), stages, [*head, Layer("head", "linear", w_in, config["num_classes"], bias=True)])


def _rates(config: Config) -> Any:
    last = sum(config["depths"]) - 1
    return (config["drop_path"] * i / last for i in range(last + 1))


def _outer_width(config: Config, width: int) -> int:
    return width if config["inverted_bottleneck"] else EXPANSION * width


def _norm(config: Config, name: str, width: int) -> Layer:
    return Layer(name, "norm", width, width, form=config["norm"])


def _act(config: Config, name: str, width: int) -> Layer:
    return Layer(name, "act", width, width, form=config["activation"])


def _conv(
    config: Config, name: str, w_in: int, w_out: int, kernel: int, stride: int = 1, groups: int = 1, *, normed: bool
) -> Layer:
    padding = 0 if kernel <= stride else kernel // 2
    bias = not (normed and config["norm"] == Norm.batch_norm.value)
    return Layer(name, "conv", w_in, w_out, kernel, stride, padding, groups, bias)


def _stem(config: Config) -> list[Layer]:
    stride, width, patchify = config["stem_stride"], config["width"], config["stem"] == Stem.patchify.value
    kernel = stride if patchify else 7 if stride > 1 else 3
    first = _conv(
        config, "conv", config["in_chans"], width, kernel, stride if patchify else min(stride, 2), normed=True
    )
    layers = [first, _norm(config, "norm", width)]
    if not config["fewer_activations"]:
        layers.append(_act(config, "act", width))
    if not patchify and stride == 4:
        layers.append(Layer("pool", "pool", width, width, kernel=3, stride=2, padding=1))
    return layers


def _stage(config: Config, w_in: int, width: int, stride: int, rates: list[float]) -> Stage:
    w_out, downsample, blocks = _outer_width(config, width), [], []
    if config["separate_downsampling"] and stride > 1:
        down = _conv(config, "conv", w_in, w_out, stride, stride, normed=False)
        downsample = [_norm(config, "norm", w_in), down]
        w_in, stride = w_out, 1
    for rate in rates:
        blocks.append(_block(config, w_in, width, stride, rate))
        w_in, stride = w_out, 1
    return Stage(downsample, blocks)


def _block(config: Config, w_in: int, width: int, stride: int, rate: float) -> Block:
    w_out = _outer_width(config, width)
    branch = _branch(config, w_in, EXPANSION * width if config["inverted_bottleneck"] else width, w_out, stride)
    if config["layer_scale"] is not None:
        branch.append(Layer("layer_scale", "layer_scale", w_out, w_out, value=config["layer_scale"]))
    if rate > 0:
        branch.append(Layer("drop_path", "drop_path", w_out, w_out, value=rate))
    shortcut = []
    if stride > 1 or w_in != w_out:
        project = _conv(config, "shortcut.conv", w_in, w_out, 1, stride, normed=True)
        shortcut = [project, _norm(config, "shortcut.norm", w_out)]
    return Block(w_in, w_out, branch, shortcut, [] if config["fewer_activations"] else [_act(config, "act", w_out)])


def _branch(config: Config, w_in: int, w_mid: int, w_out: int, stride: int) -> list[Layer]:
    fewer_norms, first = config["fewer_norms"], config["spatial_first"]
    order = ["spatial", "pointwise1", "pointwise2"] if first else ["pointwise1", "spatial", "pointwise2"]
    widths = [w_in, w_in if first else w_mid, w_mid, w_out]
    layers: list[Layer] = []
    for i, name in enumerate(order):
        w, w_next = widths[i], widths[i + 1]
        if fewer_norms and name == "pointwise1":
            layers.append(_norm(config, "branch.norm", w))
        if config["fewer_activations"] and name == "pointwise2":
            layers.append(_act(config, "branch.act", w))
        if config["grn"] and name == "pointwise2":
            layers.append(Layer("branch.grn", "grn", w, w))
        normed = not fewer_norms or (name == "spatial" and first)
        if name == "spatial":
            groups = w if config["depthwise"] else 1
            layers.append(
                _conv(config, "branch.spatial", w, w_next, config["kernel_size"], stride, groups, normed=normed)
            )
        else:
            layers.append(_conv(config, f"branch.{name}", w, w_next, 1, normed=normed))
        if not fewer_norms:
            layers.append(_norm(config, f"branch.{name}_norm", w_next))
        if not config["fewer_activations"] and name != "pointwise2":
            layers.append(_act(config, f"branch.{name}_act", w_next))
    return layers
