"""A block and a norm that the configs in `conf/transform` name."""

from torch import Tensor, nn

from roadmap.models.layers import act, conv, norm
from roadmap.models.network import BlockSpec


class PreactivationBlock(nn.Module):
    """x + f(x) with norm and activation before each convolution of f (He et al., ECCV 2016, "Identity mappings")."""

    def __init__(self, block: BlockSpec) -> None:
        super().__init__()
        spec = block.network  # all fields of the section `network`
        self.norm1, self.act1 = norm(spec, block.w_in), act(spec)
        self.conv1 = conv(spec, block.w_in, block.w_mid, 1, normed=True)
        self.norm2, self.act2 = norm(spec, block.w_mid), act(spec)
        self.conv2 = conv(spec, block.w_mid, block.w_mid, spec.kernel_size, stride=block.stride, normed=True)
        self.norm3, self.act3 = norm(spec, block.w_mid), act(spec)
        self.conv3 = conv(spec, block.w_mid, block.w_out, 1, normed=False)
        self.shortcut: nn.Module | None = None
        if block.stride > 1 or block.w_in != block.w_out:
            self.shortcut = conv(spec, block.w_in, block.w_out, 1, stride=block.stride, normed=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.conv2(self.act2(self.norm2(self.conv1(y))))
        return shortcut + self.conv3(self.act3(self.norm3(y)))


class GroupNorm(nn.GroupNorm):
    """Group normalization (Wu and He, ECCV 2018) with groups of 8 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(max(1, channels // 8), channels)
