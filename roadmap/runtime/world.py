"""The processes that torchrun started, read from the environment. Does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its machine: which GPU is its own

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0


SINGLE_PROCESS = World()


def current_world() -> World:
    """What torchrun said in the environment; one process without it."""
    if "WORLD_SIZE" not in os.environ or "MASTER_ADDR" not in os.environ:
        return SINGLE_PROCESS
    return World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
