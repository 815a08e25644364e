"""Strategies that generate environments of a process: variables, streams, limits and the disk."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
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
DISKS = ["usual", "usual", "usual", "read-only", "full"]


class Environment(NamedTuple):
    """Variables, streams, a limit and the disk of a process."""

    variables: dict[str, str]
    streams: str  # redirections of a shell
    limit: tuple[int, int] | None  # resource, value
    disk: str

    def environ(self) -> dict[str, str]:
        """Return the environment variables of the process."""
        variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **self.variables}
        variables.pop("HYDRA_FULL_ERROR", None)
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
    st.sampled_from(DISKS),
)
