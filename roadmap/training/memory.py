"""Memory that the training of a network needs, and into how many parts its batches are split so that they fit."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from roadmap.config.choices import Precision
from roadmap.config.schema import RunSpec, SpecError
from roadmap.data.sampling import BatchSplit
from roadmap.models.complexity import measure_cost
from roadmap.models.network import build_network
from roadmap.runtime.world import World
from roadmap.training import recipe
from roadmap.training.device import AUTOCAST_DTYPES

# Share of a device's memory for tensors. The rest is for the libraries, their workspaces and fragmentation.
USABLE = 0.8
# Bytes per output of a convolution or linear layer that no network exceeds: ResNet-50 needs 4 in bf16 and 8 in fp32.
LARGEST_BYTES_PER_ACTIVATION = 64
FEW, MANY = 256, 512  # images with which the memory is measured; it is linear in their number


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of a training iteration: parameters, gradients, optimizer, feature maps."""

    fixed: float  # bytes that do not depend on the number of images
    per_image: float  # bytes for each image of a part of the batch

    def for_images(self, images: int) -> float:
        """Return the bytes for a batch, or a part of it, of `images` images."""
        return self.fixed + self.per_image * images


def estimate_memory(spec: RunSpec, precision: Precision) -> MemoryEstimate:
    """Return the memory that training the network of `spec` takes, counted without computing or allocating anything.

    The forward pass, the backward pass and the update run on tensors without data. Takes about two seconds.
    """
    few, many = (_count_peak(spec, precision, images) for images in (FEW, MANY))
    per_image = (many - few) / (MANY - FEW)
    average = 4 * measure_cost(spec.network, spec.data.image_size).params if spec.recipe.ema_decay is not None else 0
    return MemoryEstimate(few - FEW * per_image + average, per_image)


def _count_peak(spec: RunSpec, precision: Precision, images: int) -> int:
    """Return the peak of the bytes of all tensors in the second of two iterations with `images` images.

    The gradients of the first one are kept, as those of an earlier part are.
    """
    with torch.device("meta"):
        model = build_network(spec.network, spec.data.image_size).train()
    dtype = AUTOCAST_DTYPES.get(precision)
    with FakeTensorMode(), _Counter() as counter:
        model._apply(_without_data)
        optimizer = recipe.make_optimizer(model, spec.recipe, lr=0.1)
        for _ in range(2):
            batch = torch.empty(images, spec.network.in_chans, spec.data.image_size, spec.data.image_size)
            labels = torch.zeros(images, dtype=torch.int64)
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                logits = model(batch)
            recipe.training_loss(logits, labels, spec.recipe).backward()
            del batch, logits
            optimizer.step()
    return counter.peak


def _without_data(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


class _Counter(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._storages:
            self._storages.add(key)
            self.current += size
            self.peak = max(self.peak, self.current)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.current -= size


def dataset_bytes(spec: RunSpec, sizes: tuple[int, int]) -> int:
    """Return the bytes of the images that a run holds in the memory of its device; 0 where it reads them from files."""
    return sum(sizes) * spec.data.in_chans * spec.data.image_size**2 if spec.data.small_images else 0


def memory_of_process(spec: RunSpec, sizes: tuple[int, int], memory: float, share: float, num_sharing: int) -> float:
    """Return the bytes that a process of a run may use for the network and its batches.

    `memory` are the bytes of the device, of which the run may use `share`. `num_sharing` of its processes have this
    device. `sizes` are the numbers of training and test images, which small datasets hold in the memory of the device.
    """
    return share * memory / num_sharing - dataset_bytes(spec, sizes)


def choose_accumulate(spec: RunSpec, batch_size: int, world: World, memory: float, precision: Precision) -> int:
    """Return into how many parts each process splits its share of a batch: `accumulate`, or as few as fit `memory`.

    `memory` is what the run may use of its device, in bytes. If not even the smallest parts fit, return their number.
    """
    if spec.accumulate is not None:
        return spec.accumulate
    usable = USABLE * memory
    cost = measure_cost(spec.network, spec.data.image_size)
    own_images = -(-batch_size // world.size)
    if 16 * cost.params + LARGEST_BYTES_PER_ACTIVATION * cost.activations * own_images < usable:
        return 1
    estimate = estimate_memory(spec, precision)
    parts = 1
    while estimate.for_images(_largest_part(spec, batch_size, world, parts)) > usable:
        try:
            _largest_part(spec, batch_size, world, parts + 1)
        except SpecError:  # a part would be too small
            break
        parts += 1
    return parts


def _largest_part(spec: RunSpec, batch_size: int, world: World, parts: int) -> int:
    return max(map(len, BatchSplit.of(spec, batch_size, world, parts).parts))
