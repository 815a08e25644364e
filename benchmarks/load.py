"""Load of other processes on this machine: waits for a quiet moment before a measurement, and repeats disturbed ones.

The load of others is the CPU time of the whole machine, with the time that a hypervisor took away, minus that of this
process and its descendants. After `adopt_orphans`, a descendant whose parent has ended, such as a fork server, becomes
a child of this process, so that it still counts as a descendant. The load is known on Linux only. Unit: cores, so 0.5
means that others kept half a core busy.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from roadmap.runtime.system import num_cores

Result = TypeVar("Result")

QUIET_SHARE = 0.04  # of the cores: a measurement with more load of others is disturbed
ATTEMPTS = 6  # at one measurement
LONGEST_WAIT = 600.0  # seconds for a quiet moment before each attempt
BUSY_FIELDS = (0, 1, 2, 5, 6, 7)  # of /proc/stat: user, nice, system, irq, softirq, steal
PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl


class Measurements:
    """Does measurements, and keeps the load of others during each of them."""

    def __init__(
        self, limit: float | None = None, attempts: int = ATTEMPTS, longest_wait: float = LONGEST_WAIT
    ) -> None:
        """`limit` is the load of others, in cores, above which a measurement is disturbed. Then there are `attempts` in
        all, and before each one a wait of at most `longest_wait` seconds for a quiet moment."""
        self.limit = QUIET_SHARE * num_cores() if limit is None else limit
        self.attempts, self.longest_wait = attempts, longest_wait
        self.loads: list[float] = []  # of the measurements that count
        self.num_repeated = 0

    def __call__(self, measure: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Return the result of `measure(*arguments, **options)`, of the least disturbed attempt."""
        attempts: list[tuple[float, Result]] = []
        while not attempts or (attempts[-1][0] > self.limit and len(attempts) < self.attempts):
            self._wait()
            started, before = time.perf_counter(), load_clock()
            result = measure(*arguments, **options)
            _reap_orphans()
            attempts.append((_mean_load(before, time.perf_counter() - started), result))
        load, result = min(attempts, key=lambda attempt: attempt[0])
        self.loads.append(load)
        self.num_repeated += len(attempts) - 1
        return result

    def _wait(self) -> None:
        """Wait until the machine is quiet for half a second, or for at most `longest_wait`."""
        deadline = time.perf_counter() + self.longest_wait
        while time.perf_counter() < deadline:
            started, before = time.perf_counter(), load_clock()
            time.sleep(0.5)
            if _mean_load(before, time.perf_counter() - started) <= self.limit:
                return

    @property
    def num_disturbed(self) -> int:
        """The number of measurements that were disturbed in each attempt."""
        return sum(load > self.limit for load in self.loads)

    def __str__(self) -> str:
        if load_clock() is None:
            return "The load of other processes is not known on this system."
        if not self.loads:
            return "Nothing was measured."
        mean, most = statistics.median(self.loads), max(self.loads)
        return (
            f"Load of other processes in {len(self.loads)} measurements: median {mean:.2f} cores, at most {most:.2f}, "
            f"limit {self.limit:.2f}. Repeated attempts: {self.num_repeated}. "
            f"Measurements that were disturbed in every attempt: {self.num_disturbed}."
        )


def adopt_orphans() -> None:
    """Make each descendant whose parent ends a child of this process. Without it, a process that nobody waits for, such
    as the fork server of a command, would count as load of others. Has no effect on other systems than Linux."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_orphans() -> None:
    """Wait for the children that have ended, so that the kernel adds their time to that of the children of this
    process."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass


def load_clock() -> float | None:
    """Return the CPU seconds of all other processes since the machine started, on the cores that this process may use;
    None where they are not known."""
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    except OSError:
        return None
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = sum(int(fields[1 + i]) for fields in lines if fields[0] in cores for i in BUSY_FIELDS)
    return (ticks - _own_ticks()) / os.sysconf("SC_CLK_TCK")


def _mean_load(before: float | None, seconds: float) -> float:
    now = load_clock()
    return 0.0 if before is None or now is None else max(0.0, now - before) / seconds


def _own_ticks() -> int:
    """Return the clock ticks of this process and its living descendants, with those of children that have ended."""
    ticks: dict[int, int] = {}
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name of the program, in parentheses, may contain spaces.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        process = int(path.parent.name)
        parents[process] = int(fields[1])
        ticks[process] = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    own, found = {os.getpid()}, True
    while found:
        found = {process for process, parent in parents.items() if parent in own and process not in own}
        own |= found
    return sum(ticks.get(process, 0) for process in own)
