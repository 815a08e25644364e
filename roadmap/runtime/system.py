"""Facts about this machine and this installation: versions, git commit, CPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from roadmap.config.paths import CONF, PACKAGE

PACKAGES = ("torch", "torchvision", "timm", "hydra-core", "numpy", "pillow", "scikit-learn", "roadmap")


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages in `PACKAGES`."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def git_state() -> dict[str, Any]:
    """Return the `commit` of this code's checkout and whether code or configs differ from it (`dirty`); None for both
    outside of a checkout."""
    folder = CONF.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", str(CONF / "config.yaml")) is None:
        return {"commit": None, "dirty": None}
    code = (str(PACKAGE), str(CONF), "hydra_plugins", "run_roadmap.py")  # not the reports that runs write
    status = git("status", "--porcelain", "--untracked-files=all", "--", *code)
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


@dataclass(frozen=True)
class Resources:
    """The part of this machine that a run may use, beside other runs."""

    cores: int  # for the computation on a CPU, and for loader processes
    device_share: float = 1.0  # of the memory of its device
    min_accumulate: int = 1  # least number of parts of a batch: those with which the run has begun


def whole_machine() -> Resources:
    """Return the resources of a run that trains alone."""
    return Resources(num_cores())


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu_name() -> str:
    """Return the processor's model name."""
    if sys.platform == "linux":
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpu_quota() -> float | None:
    """Return the number of cores to which the control group limits this process; None without a limit."""
    fields = _read_cgroup("cpu.max").split()
    if len(fields) == 2 and all(field.isdecimal() for field in fields) and int(fields[1]):
        return int(fields[0]) / int(fields[1])
    quota, period = _read_cgroup("cpu/cpu.cfs_quota_us"), _read_cgroup("cpu/cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def memory_bytes() -> tuple[int | None, int | None]:
    """Return the memory of the machine and the limit of the control group, in bytes; None if unknown or unlimited."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        total = None
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _read_cgroup(name)
        if limit.isdecimal() and (total is None or int(limit) < total):
            return total, int(limit)
    return total, None


def _read_cgroup(name: str) -> str:
    """Return the content of a file of this process's control group, or of the root group; empty if there is none."""
    top = Path("/sys/fs/cgroup")
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::/")[2]
    except OSError:
        own = ""
    for path in (top / own / name, top / name):
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError:
            continue
    return ""
