"""Strategies that generate environments of a process: variables, streams, limits and the disk."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

NOTHING = "(unset)"
VARIABLES = [
    {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1:strict"}, {"PYTHONIOENCODING": "utf-16"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "tr_TR.UTF-8"}, {"LC_ALL": "nope"},
    {"LANG": NOTHING},
    {"COLUMNS": "1"}, {"COLUMNS": "0"}, {"COLUMNS": "-5"}, {"COLUMNS": "abc"}, {"COLUMNS": "100000"}, {"TERM": "dumb"},
    {"TERM": NOTHING}, {"FORCE_COLOR": "1"}, {"NO_COLOR": "1"}, {"HOME": NOTHING}, {"HOME": "/nonexistent"},
    {"TZ": "nope"},
    {"TMPDIR": "/nonexistent"}, {"MPLBACKEND": "nope"}, {"MPLCONFIGDIR": "/dev/null"}, {"PATH": "/nonexistent"},
    {"PATH": NOTHING},
    {"OMP_NUM_THREADS": "abc"}, {"OMP_NUM_THREADS": "0"}, {"CUDA_VISIBLE_DEVICES": "nope"},
    {"USER": NOTHING, "LOGNAME": NOTHING},
    {"PYTHONUNBUFFERED": "1"}, {"PYTHONOPTIMIZE": "2"}, {"PYTHONDONTWRITEBYTECODE": "1"}, {"PYTHONHASHSEED": "1"},
    {"GOMP_SPINCOUNT": "x"}, {"WORLD_SIZE": "1"}, {"RANK": "0"}, {"SLURM_JOB_ID": "x"}, {"HYDRA_FULL_ERROR": "0"},
]  # fmt: skip
STREAMS = [
    "",
    "",
    "",
    "<&-",
    ">&-",
    "2>&-",
    ">&- 2>&-",
    "<&- >&- 2>&-",
    "> /dev/full",
    "2> /dev/full",
    "> /dev/full 2>&1",
]
LIMITS: list[tuple[int, int] | None] = [
    None, None, None, (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_FSIZE, 1000), (resource.RLIMIT_FSIZE, 20_000),
    (resource.RLIMIT_FSIZE, 100_000), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_NOFILE, 24),
    (resource.RLIMIT_CORE, 0),
]  # fmt: skip


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a file system of `size` bytes at `folder`; yield whether this is possible. Only root on Linux can do it."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    is_mounted = (
        shutil.which("mount") is not None and not subprocess.run(command, check=False, capture_output=True).returncode
    )
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@cache
def possible_disks() -> list[str]:
    """Return the kinds of disks that this machine can provide, the usual one most often."""
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder), 4096) as is_mounted:
        return ["usual", "usual", "usual", *(["read-only", "full"] if is_mounted else [])]


class Environment(NamedTuple):
    """Variables, streams, a limit and the disk of a process."""

    variables: dict[str, str]
    streams: str  # redirections of a shell
    limit: tuple[int, int] | None  # resource, value
    disk: str

    def environ(self) -> dict[str, str]:
        """Return the environment variables of the process."""
        inherited = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
        variables = {**inherited, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **self.variables}
        return {name: value for name, value in variables.items() if value != NOTHING}

    def limiter(self) -> Callable[[], None] | None:
        """Return a function that sets the limit in the new process; None without a limit."""
        if self.limit is None:
            return None
        number, value = self.limit
        return lambda: resource.setrlimit(number, (value, value))


environments = st.builds(
    Environment,
    st.sampled_from([{}, *VARIABLES]),
    st.sampled_from(STREAMS),
    st.sampled_from(LIMITS),
    st.deferred(lambda: st.sampled_from(possible_disks())),
)
