"""Every step of every roadmap as a model of timm: `import roadmap.timm`, then `timm.create_model("roadmap_gelu")`.

The networks are those of `roadmap.create_model`, with the same weights, and with the interface of timm's models. Their
arguments are those of `roadmap.create_model`: `base`, `num_classes`, `in_chans`, and fields of the network, such as
`kernel_size=5`. Where two roadmaps have a step of the same name, `roadmap="resnet_rs"` chooses the other one.
`roadmap_network` is a network all of whose fields are given; it need not be a step of a roadmap.

`python -m roadmap.timm SCRIPT ...` runs a script, such as timm's train.py, that can then use the names.

Examples:
    >>> import roadmap.timm, timm
    >>> timm.list_models("roadmap_*")
    >>> timm.create_model("roadmap_gelu", base="nano", num_classes=10, features_only=True)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import get_device_dtype
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
)
from torch import Tensor, nn

from roadmap.config.compose import compose_network
from roadmap.config.paths import CONF
from roadmap.config.roadmaps import Roadmap, load_roadmap
from roadmap.config.schema import DEFAULT_ROADMAP, NetworkSpec, SpecError
from roadmap.config.selection import choose_folders
from roadmap.models.network import Network

PREFIX = "roadmap_"
ANY_NETWORK = f"{PREFIX}network"  # name of the model without a step
__all__ = ["TimmNetwork", "register"]

default_cfgs: dict[str, Any] = {}  # timm reads the defaults of a model from the module of its function


class TimmNetwork(Network):
    """The network of `spec` with the interface of timm's models.

    `global_pool` is "avg", or "" for no pooling, which needs `num_classes=0`.
    """

    def __init__(self, spec: NetworkSpec, global_pool: str = "avg") -> None:
        super().__init__(spec)
        assert spec.num_classes is not None
        self.num_classes, self.in_chans, self.drop_rate = spec.num_classes, spec.in_chans, spec.dropout
        self.num_features = self.head.in_features
        self.head_hidden_size = self.num_features
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": stage.w_out, "reduction": spec.stem_stride * 2**i, "module": f"stages.{i}"}
            for i, stage in enumerate(self.stages)
        ]
        self.grad_checkpointing = False
        self.global_pool = _check_pool(global_pool, self.num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = self._forward_stage(stage, x)
        return x

    def _forward_stage(self, stage: Any, x: Tensor) -> Tensor:
        if self.grad_checkpointing and self.training:
            x = stage.downsample(x)
            return checkpoint_seq(stage.blocks, x)  # type: ignore[no-any-return]
        features: Tensor = stage(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (N, num_classes) of features (N, C, H, W), or with `pre_logits` the pooled features (N, C).

        With `global_pool=""` the features keep their height and width.
        """
        if not self.global_pool:
            return self.head_norm(x)
        x = self.dropout(self.head_norm(x.mean((2, 3), keepdim=True)).flatten(1))
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the features of the last stage and those of the chosen stages, each (N, C, H, W), or with
        `intermediates_only` the latter alone.

        `indices` are numbers of stages, or how many of the last ones; None: all. `norm` has no effect: no step has a
        norm between the last stage and the pooling.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt}: must be NCHW")
        chosen = self._stage_numbers(indices)
        x, features = self.stem(x), list[Tensor]()
        for i, stage in enumerate(self.stages):
            if stop_early and i > max(chosen):
                break
            x = self._forward_stage(stage, x)
            if i in chosen:
                features.append(x)
        return features if intermediates_only else (x, features)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last one that `indices` chooses, and the classifier; return the indices."""
        chosen = self._stage_numbers(indices)
        last = max(chosen)
        is_shorter = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        self.num_features = self.head_hidden_size = int(self.feature_info[last]["num_chs"])
        if prune_norm or is_shorter:
            self.head_norm = nn.Identity()
        if prune_head or is_shorter:
            self.reset_classifier(0, "")
        return chosen

    def _stage_numbers(self, indices: int | list[int] | None) -> list[int]:
        """Return the numbers of the stages that `indices` chooses; negative ones count from the end."""
        numbers = range(len(self.stages))
        if indices is None:
            return list(numbers)
        if isinstance(indices, int) and not 0 < indices <= len(numbers):
            raise ValueError(f"indices={indices}: must be from 1 to {len(numbers)}")
        return list(numbers[-indices:]) if isinstance(indices, int) else [numbers[i] for i in indices]

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one, or by none if `num_classes` is 0."""
        pool = self.global_pool if global_pool is None else global_pool
        self.global_pool = _check_pool(pool, num_classes)
        self.num_classes = num_classes
        placement = get_device_dtype(self)
        head = nn.Linear(self.num_features, num_classes, **placement) if num_classes > 0 else nn.Identity()
        self.head = cast(nn.Linear, head)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the features of a block again in the backward pass instead of keeping them: less memory."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that group the parameters by depth, for a learning rate for each layer."""
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else [*blocks, (r"^head_norm", (99999,))]}


def register(roadmap: str, config_dir: str | Path | None = None) -> list[str]:
    """Register the steps and variants of a roadmap as models of timm and return their names.

    `config_dir` is the folder with the configs of a roadmap of your own; see "A roadmap of your own" in the
    documentation. Raises SpecError (a ValueError) for a roadmap that is unknown or damaged.
    """
    if config_dir is not None:
        choose_folders([f"--config-dir={config_dir}"])
    loaded = load_roadmap(roadmap)
    names = []
    for step in loaded.steps:
        names.append(f"{PREFIX}{step}")
        if names[-1] not in default_cfgs:
            _register(names[-1], _step_function(step, roadmap), _defaults(loaded, step))
    return names


def _check_pool(global_pool: str, num_classes: int) -> str:
    if global_pool not in ("avg", ""):
        raise SpecError(f"global_pool={global_pool}: must be avg, or empty for none")
    if not global_pool and num_classes > 0:
        raise SpecError("global_pool=: the classifier needs pooled features; use global_pool=avg, or num_classes=0")
    return global_pool


def _register(name: str, function: Callable[..., nn.Module], defaults: dict[str, Any]) -> None:
    default_cfgs.update(generate_default_cfgs({name: defaults}))
    function.__name__ = function.__qualname__ = name
    function.__module__ = __name__
    register_model(function)


def _step_function(step: str, default_roadmap: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, base: str = "resnet50", roadmap: str = default_roadmap, **kwargs: Any) -> Any:
        return _build(f"{PREFIX}{step}", pretrained, kwargs, step=step, base=base, roadmap=roadmap)

    create.__doc__ = f"Return the network of the step `{step}`; see `roadmap.timm`."
    return create


def _build(name: str, pretrained: bool, kwargs: dict[str, Any], **network: Any) -> Any:
    """Call timm's builder, which loads weights and makes the feature extractor, with our networks."""

    def make(
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float | None = None,
        drop_path_rate: float | None = None,
        device: Any = None,
        dtype: Any = None,
        **fields: Any,
    ) -> TimmNetwork:
        given = {"dropout": drop_rate, "drop_path": drop_path_rate}
        fields |= {field: value for field, value in given.items() if value is not None}
        # timm creates networks with no or one class; ours are created with two, and the classifier is replaced.
        spec = compose_network(num_classes=max(num_classes, 2), in_chans=in_chans, **network, **fields)
        with torch.device(device or torch.get_default_device()):
            model = TimmNetwork(spec)
        if num_classes < 2 or global_pool != "avg":
            model.reset_classifier(num_classes, global_pool)
        return model.to(dtype=dtype)

    features = {"out_indices": (0, 1, 2, 3), "flatten_sequential": True}
    return build_model_with_cfg(make, name, pretrained, feature_cfg=features, **kwargs)


def _any_network(pretrained: bool = False, **kwargs: Any) -> Any:
    """Return the network with the given fields of `roadmap.config.schema.NetworkSpec`."""
    return _build(ANY_NETWORK, pretrained, kwargs, step="baseline", base="resnet50")


def _defaults(roadmap: Roadmap, step: str) -> dict[str, Any]:
    """Return the entries of timm's `default_cfg`, for images of 224 pixels."""
    transforms = [roadmap.transforms[name] for name in roadmap.steps[step].transforms]
    is_deep = any(transform.sets.get("network.stem") == "deep" for transform in transforms)
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1" if is_deep else "stem.conv",
        "classifier": "head",
        "license": "mit",
    }


def _packaged_roadmaps() -> list[str]:
    names = sorted(path.stem for path in (CONF / "roadmap").glob("*.yaml"))
    return sorted(names, key=lambda name: name != DEFAULT_ROADMAP)  # of two steps with one name, the default's counts


for _name in _packaged_roadmaps():
    register(_name)
_register(ANY_NETWORK, _any_network, _defaults(load_roadmap(), "baseline"))
