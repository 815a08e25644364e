"""What the tests share: small runs, the real command line, goldens that one flag regenerates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # tests at once share the cores, each with one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
GOLDENS = Path(__file__).parent / "goldens"
FASHION = Path(os.environ.get("ROADMAP_FASHION_MNIST", ROOT.parent / "shared" / "data" / "fashion-mnist"))

# A network and a budget that train in a second.
TINY = (
    "budget=smoke",
    "base.depths=[1,1,1,1]",
    "base.swin_depths=[1,1,1,1]",
    "base.width=4",
    "base.swin_width=4",
    "base.wide_width=6",
    "device=cpu",
)

FAULTS: Counter[str] = Counter()  # what the fault tests did, told at the end

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-goldens", action="store_true", help="write tests/goldens anew; review the diff")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist
        session.config.workeroutput["faults"] = dict(FAULTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    FAULTS.update(getattr(node, "workeroutput", {}).get("faults", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FAULTS:
        terminalreporter.write_line("faults: " + ", ".join(f"{count} {what}" for what, count in FAULTS.items()))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], Any]:
    """`golden(name, found)`: the golden of that name; with --regenerate-goldens, `found` after writing it."""

    def read(name: str, found: Any) -> Any:
        path = GOLDENS / f"{name}.json"
        if request.config.getoption("--regenerate-goldens"):
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    return read


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    """`command_line("+step=gelu", ...)`: run_roadmap.py as a user would run it, in an empty working folder."""

    def run(*words: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
        command = [sys.executable, str(ROOT / "run_roadmap.py"), *words]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=540, check=False
        )

    return run


@pytest.fixture
def fashion() -> Path:
    if not (FASHION / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"Fashion-MNIST is not in {FASHION.name}/ beside the checkout (or $ROADMAP_FASHION_MNIST)")
    return FASHION


def background(*words: str, apart: bool = False, **environment: str) -> subprocess.Popen[str]:
    """run_roadmap.py as a user would start it here; `apart` from this process, for signals to all of its processes."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    command = [sys.executable, str(ROOT / "run_roadmap.py"), *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=apart)


def until(holds: Callable[..., Any], seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)
    return found
