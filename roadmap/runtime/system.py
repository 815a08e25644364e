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
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def git_state() -> dict[str, Any]:
    """The commit of this code's checkout, and whether code or configs were changed since; nulls outside of one."""
    folder = CONF.parent

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if ask("ls-files", "--error-unmatch", str(CONF / "config.yaml")) is None:
        return {"commit": None, "dirty": None}
    code = (str(PACKAGE), str(CONF), "run_roadmap.py")  # not the reports that runs write
    status = ask("status", "--porcelain", "--untracked-files=all", "--", *code)
    return {"commit": ask("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def num_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu_name() -> str:
    if sys.platform == "linux":
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
