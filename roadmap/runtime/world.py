"""The processes that torchrun started, read from its environment variables. Does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from roadmap.config.schema import SpecError


@dataclass(frozen=True)
class World:
    """The processes of one run, and which of them this one is."""

    rank: int = 0
    size: int = 1  # number of processes
    local_rank: int = 0  # rank on this machine: the index of this process's GPU
    local_size: int = 1  # number of processes on this machine

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0


SINGLE_PROCESS = World()
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
VARIABLES = (*NUMBERS, "MASTER_ADDR")


def current_world() -> World:
    """Return what torchrun set in the environment, or `SINGLE_PROCESS` without it.

    Raises SpecError if WORLD_SIZE says that there are several processes, and a variable is missing or impossible.
    """
    if os.environ.get("WORLD_SIZE") in (None, "", "1"):
        return SINGLE_PROCESS
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        reason = f"there are several processes, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        raise SpecError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: {reason}; start them with torchrun, or unset WORLD_SIZE"
        )
    for name in NUMBERS:
        if not os.environ[name].isdecimal():
            raise SpecError(f"{name}={os.environ[name]}: not a number; start the processes with torchrun")
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if rank >= size:
        raise SpecError(f"RANK={rank}: must be less than WORLD_SIZE={size}; start the processes with torchrun")
    local_size = os.environ.get("LOCAL_WORLD_SIZE", "")
    return World(rank, size, local_rank, int(local_size) if local_size.isdecimal() else size)


def is_rank_zero() -> bool:
    return current_world().is_rank_zero


def is_distributed() -> bool:
    """Whether several processes train each run together."""
    return current_world().size > 1


def name_of_group(run: str, attempt: str) -> str:
    """Return the name of the process group of one attempt at a run; `run` is the name of its folder."""
    return f"{run} {attempt}"
