"""The network: one class, built from its spec, for every step of the roadmap.

    stem -> four stages of blocks -> global average pooling -> classifier

Each stage after the first halves the side of the feature map.

Letters: N images, C channels, H and W pixels. w is the width of a stage: `spec.width` times 2 ** stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roadmap.config.choices import Init, Stem
from roadmap.config.schema import EXPANSION, NetworkSpec
from roadmap.config.user_classes import import_class
from roadmap.config.validation import validate_network
from roadmap.models.drop_path import Dropout, DropPath, replace_timm_drop_path
from roadmap.models.layers import (
    GlobalResponseNorm,
    LayerScale,
    act,
    chain,
    conv,
    norm,
    spatial_conv,
    squeeze_excitation,
)


class Network(nn.Module):
    """The network of `spec`: (N, in_chans, H, W) -> logits (N, num_classes).

    Raises SpecError (a ValueError), with the name of the field, for a spec that cannot be built; see
    `roadmap.config.validation.validate_network`.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        validate_network(spec)
        assert spec.num_classes is not None and spec.init_std is not None
        self.spec = spec
        rates = torch.linspace(0, spec.drop_path, sum(spec.depths), device="cpu").split(list(spec.depths))
        self.stem = stem(spec)
        self.stages = nn.Sequential()
        w_in = spec.width
        for i in range(len(spec.depths)):
            self.stages.append(Stage(spec, i, w_in, stride=1 if i == 0 else 2, drop_path=rates[i].tolist()))
            w_in = outer_width(spec, spec.width * 2**i)
        # Section 2.6: separate downsampling adds a norm after the global average pooling.
        self.head_norm = norm(spec, w_in) if spec.separate_downsampling else nn.Identity()
        self.dropout = Dropout(spec.dropout, w_in) if spec.dropout > 0 else nn.Identity()
        self.head = nn.Linear(w_in, spec.num_classes)
        init_weights(self, spec.init, spec.init_std)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the features before the pooling: (N, in_chans, H, W) -> (N, C, H / s, W / s), s = 8 * stem_stride."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of features (N, C, H, W)."""
        x = x.mean((2, 3), keepdim=True)
        return self.head(self.dropout(self.head_norm(x).flatten(1)))


def build_network(spec: NetworkSpec, image_size: int) -> nn.Module:
    """Return the network of `spec` for square images of `image_size` pixels: a `Network`, or the reference network
    that `spec.reference` names (timm's Swin Transformer)."""
    if spec.reference is None:
        return Network(spec)
    validate_network(spec)
    assert spec.num_classes is not None and spec.heads is not None
    from timm.models.swin_transformer import SwinTransformer

    stages = range(len(spec.depths))
    swin = SwinTransformer(
        img_size=image_size,
        patch_size=spec.stem_stride,
        in_chans=spec.in_chans,
        num_classes=spec.num_classes,
        embed_dim=spec.width,
        depths=tuple(spec.depths),
        num_heads=tuple(spec.heads * 2**i for i in stages),
        drop_path_rate=spec.drop_path,
    )
    return replace_timm_drop_path(swin)


def outer_width(spec: NetworkSpec, width: int) -> int:
    """Return the channels between the blocks of a stage of width w: 4w in a bottleneck, w in an inverted one (2.4)."""
    return width if spec.inverted_bottleneck else EXPANSION * width


def stem(spec: NetworkSpec) -> nn.Sequential:
    """Return the first layers: (N, in_chans, H, W) -> (N, width, H / stem_stride, W / stem_stride).

    Section 2.2. The stem of ResNet is a 7x7 convolution of stride 2 and a 3x3 max pooling of stride 2. For a total
    stride of 2 the pooling is left out. For a total stride of 1 it is a 3x3 convolution (the form of He et al. for
    CIFAR). The patchify stem is one convolution whose kernel size is its stride. The deep stem: see `deep_stem`.
    """
    stride = spec.stem_stride
    if spec.stem is Stem.deep:
        return deep_stem(spec)
    if spec.stem is Stem.patchify:
        first = conv(spec, spec.in_chans, spec.width, stride, stride=stride, normed=True)
    else:
        first = conv(spec, spec.in_chans, spec.width, 7 if stride > 1 else 3, stride=min(stride, 2), normed=True)
    layers: dict[str, nn.Module] = {"conv": first, "norm": norm(spec, spec.width)}
    if not spec.fewer_activations:
        layers["act"] = act(spec)
    if spec.stem is Stem.conv and stride == 4:
        layers["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return chain(layers)


def deep_stem(spec: NetworkSpec) -> nn.Sequential:
    """Return the stem of ResNet-RS: three 3x3 convolutions, and a fourth one of stride 2 instead of the max pooling.

    He et al., "Bag of tricks" (CVPR 2019, ResNet-C); Bello et al. 2021, section 7. The first convolution has stride 2,
    or 1 for a total stride of 1; the fourth one is left out unless the total stride is 4.
    """
    half, width = spec.width // 2, spec.width
    layers: dict[str, nn.Module] = {}
    shapes = [(spec.in_chans, half, min(spec.stem_stride, 2)), (half, half, 1), (half, width, 1)]
    shapes += [(width, width, 2)] if spec.stem_stride == 4 else []
    for number, (w_in, w_out, stride) in enumerate(shapes, 1):
        layers[f"conv{number}"] = conv(spec, w_in, w_out, 3, stride=stride, normed=True)
        layers[f"norm{number}"] = norm(spec, w_out)
        if not spec.fewer_activations:
            layers[f"act{number}"] = act(spec)
    return chain(layers)


@dataclass(frozen=True)
class BlockSpec:
    """One block: (N, w_in, H, W) -> (N, w_out, H / stride, W / stride)."""

    network: NetworkSpec
    stage: int  # 0 to 3
    w_in: int  # channels of the input
    w_mid: int  # channels inside, between the 1x1 convolutions
    w_out: int  # channels of the output
    stride: int  # 1 or 2
    drop_path: float  # stochastic depth rate


class Stage(nn.Module):
    """Blocks of one width: (N, w_in, H, W) -> (N, outer width of w, H / stride, W / stride).

    The first block has the stride. With separate downsampling (2.6), a norm and a 2x2 convolution before the blocks
    have it.
    """

    def __init__(self, spec: NetworkSpec, number: int, w_in: int, *, stride: int, drop_path: list[float]) -> None:
        super().__init__()
        width = spec.width * 2**number
        w_out = outer_width(spec, width)
        w_mid = EXPANSION * width if spec.inverted_bottleneck else width
        make_block = Block if spec.block is None else import_class(spec.block, "network.block")
        self.downsample: nn.Module = nn.Identity()
        if spec.separate_downsampling and stride > 1:
            down = conv(spec, w_in, w_out, stride, stride=stride, normed=False)
            self.downsample = chain({"norm": norm(spec, w_in), "conv": down})
            w_in, stride = w_out, 1
        self.w_out, self.first_stride = w_out, stride  # of the stage, and of its first block
        blocks = []
        for rate in drop_path:
            blocks.append(make_block(BlockSpec(spec, number, w_in, w_mid, w_out, stride, rate)))
            w_in, stride = w_out, 1
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class Block(nn.Module):
    """act(shortcut(x) + f(x)): (N, w_in, H, W) -> (N, outer width of w, H / stride, W / stride).

    f is two 1x1 convolutions and a spatial one, each with its norm and activation. Fields of the spec change it: the
    spatial convolution is depthwise (2.3) or comes first (2.5); only one norm is left, before the first 1x1, and only
    one activation, before the last 1x1, with none after the addition (2.6). Beyond the paper, global response
    normalization comes directly before the last 1x1, and squeeze-and-excitation at the end of f.
    """

    def __init__(self, block: BlockSpec) -> None:
        super().__init__()
        spec = block.network
        self.branch = branch(spec, block.w_in, block.w_mid, block.w_out, block.stride)
        self.layer_scale = nn.Identity() if spec.layer_scale is None else LayerScale(block.w_out, spec.layer_scale)
        self.drop_path = DropPath(block.drop_path) if block.drop_path > 0 else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if block.stride > 1 or block.w_in != block.w_out:
            self.shortcut = shortcut(spec, block.w_in, block.w_out, block.stride)
        self.act = nn.Identity() if spec.fewer_activations else act(spec, inplace=True)  # the sum is a new tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.shortcut(x) + self.drop_path(self.layer_scale(self.branch(x))))


def shortcut(spec: NetworkSpec, w_in: int, w_out: int, stride: int) -> nn.Sequential:
    """Return the projection of a shortcut, a strided 1x1 convolution: (N, w_in, H, W) -> (N, w_out, H / stride, ...).

    With `spec.pool_shortcut`, an average pooling has the stride instead (ResNet-D of He et al., "Bag of tricks").
    """
    layers: dict[str, nn.Module] = {}
    if spec.pool_shortcut and stride > 1:
        layers["pool"] = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
        stride = 1
    layers["conv"] = conv(spec, w_in, w_out, 1, stride=stride, normed=True)
    layers["norm"] = norm(spec, w_out)
    return chain(layers)


def branch(spec: NetworkSpec, w_in: int, w_mid: int, w_out: int, stride: int) -> nn.Sequential:
    """Return f of a block: (N, w_in, H, W) -> (N, w_out, H / stride, W / stride)."""
    # A moved-up depthwise convolution works on the input channels of the block: the FLOPs of Tables 10 and 11 show it.
    order = ["spatial", "pointwise1", "pointwise2"] if spec.spatial_first else ["pointwise1", "spatial", "pointwise2"]
    widths = [w_in, w_in if spec.spatial_first else w_mid, w_mid, w_out]
    layers: dict[str, nn.Module] = {}
    for i, name in enumerate(order):
        w, w_next = widths[i], widths[i + 1]
        if spec.fewer_norms and name == "pointwise1":
            layers["norm"] = norm(spec, w)
        if spec.fewer_activations and name == "pointwise2":
            layers["act"] = act(spec)
        if spec.grn and name == "pointwise2":
            layers["grn"] = GlobalResponseNorm(w)
        # The one norm follows a moved-up spatial convolution directly, if no activation is between them.
        normed = not spec.fewer_norms or (name == "spatial" and spec.spatial_first and spec.fewer_activations)
        if name == "spatial":
            layers[name] = spatial_conv(spec, w, w_next, stride, normed=normed)
        else:
            layers[name] = conv(spec, w, w_next, 1, normed=normed)
        if not spec.fewer_norms:
            layers[f"{name}_norm"] = norm(spec, w_next)
        if not spec.fewer_activations and name != "pointwise2":
            layers[f"{name}_act"] = act(spec)
    if spec.squeeze_excitation is not None:
        layers["se"] = squeeze_excitation(spec, w_out)
    return chain(layers)


def init_weights(model: nn.Module, init: Init, std: float) -> None:
    """Initialise the weights of `model` in place.

    Kaiming: as torchvision's ResNet, whose classifier keeps PyTorch's default. Truncated normal: Table 5, with standard
    deviation `std` and zero biases in every convolution and linear layer. Norms start with weight 1 and bias 0.
    """
    for module in model.modules():
        if init is Init.trunc_normal and isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif init is Init.kaiming and isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
