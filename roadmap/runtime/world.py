"""The processes that torchrun started, read from its environment variables. Does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """The processes of one run, and which of them this one is."""

    rank: int = 0
    size: int = 1  # number of processes
    local_rank: int = 0  # rank on this machine: the index of this process's GPU

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0


SINGLE_PROCESS = World()


def current_world() -> World:
    """Return what torchrun set in the environment, or `SINGLE_PROCESS` without torchrun."""
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return SINGLE_PROCESS  # another launcher may set some of these variables
    return World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


def is_rank_zero() -> bool:
    return current_world().is_rank_zero


def is_distributed() -> bool:
    """Whether several processes train each run together."""
    return current_world().size > 1
