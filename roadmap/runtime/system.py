"""Facts about this machine and this installation: versions, git commit, CPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
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
