"""The structure of a network as plain data: layers, blocks and stages, as the report draws them. Imports no torch.

`roadmap.models.inspection` reads the structure from a network.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One layer: (N, w_in, H, W) -> (N, w_out, H', W')."""

    name: str  # of the module, within its part of the network
    kind: str  # conv, norm, act, pool, mean, linear, layer_scale, drop_path, grn, se, dropout or block
    w_in: int  # channels
    w_out: int
    kernel: int = 1  # pixels
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False
    form: str = ""  # which norm, activation, pooling or class of the user, as BatchNorm or ReLU
    value: float = 0.0  # initial layer scale, or rate of stochastic depth or dropout

    @property
    def depthwise(self) -> bool:
        """Whether the layer is a convolution with one group for each input channel."""
        return self.kind == "conv" and self.groups == self.w_in > 1

    @property
    def title(self) -> str:
        """The name of the operator, as `7×7 depthwise conv`."""
        size = f"{self.kernel}×{self.kernel}"
        titles = {
            "conv": f"{size} depthwise conv" if self.depthwise else f"{size} conv",
            "norm": self.form,
            "act": self.form,
            "pool": f"{size} {self.form or 'max'} pooling",
            "mean": "global average pooling",
            "linear": "classifier",
            "layer_scale": f"layer scale {self.value:g}",
            "drop_path": f"stochastic depth {self.value:.2g}",
            "grn": "global response norm",
            "se": "squeeze-and-excitation",
            "dropout": f"dropout {self.value:.2g}",
            "block": self.form,
        }
        return titles[self.kind]

    @property
    def widths(self) -> str:
        """Input and output channels, as `64 → 256`; empty except for convolutions and the classifier."""
        return f"{self.w_in:,} → {self.w_out:,}" if self.kind in ("conv", "linear") else ""

    @property
    def detail(self) -> str:
        """Stride and bias where the layer has them, as `stride 2, bias`."""
        stride = [f"stride {self.stride}"] * (self.stride > 1)
        return ", ".join(stride + ["bias"] * (self.bias and self.kind == "conv"))

    @property
    def description(self) -> str:
        """Title, widths and detail in one line, as `4×4 conv 3 → 96, stride 4, bias`."""
        return ", ".join(filter(None, (f"{self.title} {self.widths}".strip(), self.detail)))

    def map_side(self, side: int) -> int:
        """Return the side of the output map in pixels, for a square input map of `side` pixels."""
        return 1 if self.kind == "mean" else (side + 2 * self.padding - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class Block:
    """after(shortcut(x) + branch(x)): (N, w_in, H, W) -> (N, w_out, H', W')."""

    w_in: int
    w_out: int
    branch: list[Layer]  # with layer scale and stochastic depth
    shortcut: list[Layer]  # empty: the shortcut is the input itself
    after: list[Layer]

    @property
    def layers(self) -> list[Layer]:
        """All layers in the order in which the network computes them."""
        return self.shortcut + self.branch + self.after


@dataclass(frozen=True)
class Stage:
    """Blocks that work on maps of the same size, and the downsampling before them."""

    downsample: list[Layer]  # empty: the first block has the stride, or the stage has none
    blocks: list[Block]

    @property
    def w_out(self) -> int:
        """Output channels of the stage."""
        return self.blocks[-1].w_out


@dataclass(frozen=True)
class Structure:
    """All layers of a network: stem, stages, head."""

    stem: list[Layer]
    stages: list[Stage]
    head: list[Layer]

    def named_layers(self) -> list[tuple[str, Layer]]:
        """Return all layers with the full names of their modules, in the order in which the network computes them."""
        layers = [(f"stem.{layer.name}", layer) for layer in self.stem]
        for i, stage in enumerate(self.stages):
            layers += [(f"stages.{i}.downsample.{layer.name}", layer) for layer in stage.downsample]
            for j, block in enumerate(stage.blocks):
                layers += [(f"stages.{i}.blocks.{j}.{layer.name}", layer) for layer in block.layers]
        return layers + [(layer.name, layer) for layer in self.head]

    def map_sides(self, image_size: int) -> list[int]:
        """Return the side of each stage's output map in pixels, for square images of `image_size` pixels."""
        side = image_size
        sides: list[int] = []
        for layer in self.stem:
            side = layer.map_side(side)
        for stage in self.stages:
            for layer in (*stage.downsample, *(layer for block in stage.blocks for layer in block.branch)):
                side = layer.map_side(side)
            sides.append(side)
        return sides
