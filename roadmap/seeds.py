"""Randomness is addressed, not streamed: every draw is a function of (seed, what for, epoch, step or image).

Nothing depends on what was drawn before, so that a run can be repeated, and resumed, from any step on.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
import torch.utils.data


def derive(seed: int, *address: int | str) -> int:
    """A 63-bit seed for one address, as `derive(seed, "step", epoch, step)`."""
    digest = hashlib.blake2b(repr((seed, *address)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_all(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch on every device in use: timm's transforms draw from all three.

    Not by `torch.manual_seed`, which formats a stack trace for each device that is not in use: 0.5 ms, per image.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available() and torch.utils.data.get_worker_info() is None:
        torch.mps.manual_seed(seed)
