"""Locales, closed streams, read-only and full disks and low limits, with real processes."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.conftest import ROOT, TINY
from tests.fuzz.environments import Environment, environments, possible_disks, small_disk
from tests.fuzz.invariants import Workplace, find_violations, finished_files, report, snapshot
from tests.fuzz.settings import fuzz, parts
from tests.helpers import Result

pytestmark = pytest.mark.faults

DRY = ("plan=true", "plan_device=none")
COMMANDS = [
    ["+step=gelu", *DRY], ["-m", "+step=gelu,baseline", *DRY], ["network.width=-1"], ["+step=gelo"], ["nope"],
    ["report", "experiments/demo"], ["report", "experiments/demo", "--to", "images"], ["report", "nope"], ["runs"],
    ["runs", "--status", "failed", "--remove", "--yes"], ["watch", "--once"], ["doctor"], ["--help"],
    ["+step=gelu", "--cfg", "job"],
    [*TINY, "+step=baseline", "seed=7"], [*TINY, "+step=baseline", "seed=8"],
    ["-m", *TINY, "+step=gelu,baseline", "seed=9"],
]  # fmt: skip
FULL_DISK = 16 * 1024  # bytes left on a full disk: a record fits, weights do not


@contextmanager
def disk_of(workplace: Workplace, environment: Environment) -> Iterator[Path]:
    """Give the working folder the environment's disk: a read-only or a small file system with the same content."""
    if environment.disk == "usual":
        yield workplace.root
        return
    disk = workplace.root.with_name("disk")
    disk.mkdir(exist_ok=True)
    size = (
        sum(path.stat().st_size // 4096 + 1 for path in workplace.root.rglob("*") if path.is_file()) * 4096 + FULL_DISK
    )
    with small_disk(disk, size) as is_mounted:
        assert is_mounted
        shutil.copytree(workplace.root, disk / "case", symlinks=True)
        if environment.disk == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)
        yield disk / "case"


@parts(5, 40, 2)
def test_any_environment(workplace: Workplace, part: int, num_cases: int) -> None:
    def check(command: list[str], environment: Environment) -> None:
        line = shlex.join([sys.executable, "-m", "roadmap", *command])
        with disk_of(workplace, environment) as root:
            before = snapshot(root)
            process = subprocess.run(
                ["/bin/bash", "-c", f"{line} {environment.streams}"],
                cwd=root / "work", env={**environment.environ(), "PYTHONPATH": str(ROOT)},
                preexec_fn=environment.limiter(),
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=300, check=False,
            )  # fmt: skip
            after = snapshot(root)
            finished = finished_files(before, root)
            result = Result(process.returncode, process.stdout, process.stderr)
            dry = "plan=true" in command or (command[0] in ("runs", "watch", "doctor") and "--yes" not in command)
            quiet = "2>" in environment.streams or "PYTHONIOENCODING" in environment.variables
            broken = find_violations(result, before, after, finished, dry, quiet=quiet)
        workplace.reset()
        if broken:
            report([*command, repr(environment)], broken)

    kind = "environments" if "full" in possible_disks() else "environments without small disks"
    fuzz(kind, check, num_cases, part, st.sampled_from(COMMANDS), environments)
