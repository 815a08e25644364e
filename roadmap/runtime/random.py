"""Random numbers as a function of (seed, purpose, epoch, iteration or image).

No draw depends on earlier draws, so that a run can be repeated, and resumed at any iteration, without saving the state
of a generator.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
import torch.utils.data
from torch import Tensor


def derive(seed: int, *address: int | str) -> int:
    """Return a 63-bit seed for one address, for example `derive(seed, "image", epoch, index)`."""
    digest = hashlib.blake2b(repr((seed, *address)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_all(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch on every device in use: timm's transforms draw from all three.

    Does not use `torch.manual_seed`, which formats a stack trace for each device that is not in use: 0.5 ms per image.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available() and torch.utils.data.get_worker_info() is None:
        torch.mps.manual_seed(seed)


def uniform(seed: int, index: Tensor, *address: int | str, count: int) -> Tensor:
    """Return `count` numbers in [0, 1) for each element of `index` (N,) int64: float32 (N, count) on its device.

    A row depends only on the seed, the address and its own index, not on the rest of the batch: the draws are the same
    however a batch is split over processes. The method is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom
    number generators", OOPSLA 2014), of which 24 bits are used.
    """
    stream = _mix(index * _GOLDEN + derive(seed, *address))
    counter = torch.arange(1, count + 1, device=index.device) * _GOLDEN
    bits = _logical_shift_right(_mix(stream[:, None] + counter), 40)
    return bits.to(torch.float32) / 2**24


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as int64, whose arithmetic wraps around as SplitMix64 requires


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _logical_shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _logical_shift_right(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _logical_shift_right(x, 31)


def _logical_shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros instead of the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
