"""Shared by all tests: options, fixtures, the command line in a process of its own, goldens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from roadmap.runtime.logs import configure_logging

if "PYTEST_XDIST_WORKER" in os.environ:  # several tests at once share the cores: one thread each
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

FAULTS: Counter[str] = Counter()  # what the fault tests did; printed at the end
FUZZ: Counter[str] = Counter()  # cases of the fuzz tests, by kind; printed at the end
_BACKGROUND: list[subprocess.Popen[str]] = []  # what a test has started
DESELECTED: Counter[str] = Counter()  # slow tests that were left out, by pytest-xdist worker

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests too")
    parser.addoption("--regenerate-goldens", action="store_true", help="overwrite tests/goldens; review the diff")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect slow tests, unless --all, `slow` in a -m expression, or the id of a test asks for them."""
    if config.getoption("all") or "slow" in config.getoption("markexpr") or any("::" in arg for arg in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        DESELECTED[os.environ.get("PYTEST_XDIST_WORKER", "")] += len(slow)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, Any] = getattr(session.config, "workeroutput", {})  # exists in a process of pytest-xdist
    output |= {"faults": dict(FAULTS), "fuzz": dict(FUZZ), "deselected": dict(DESELECTED)}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", {})
    FAULTS.update(output.get("faults", {}))
    FUZZ.update(output.get("fuzz", {}))
    DESELECTED.update(output.get("deselected", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FAULTS:
        terminalreporter.write_line("faults: " + ", ".join(f"{count} {name}" for name, count in FAULTS.items()))
    if FUZZ:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(FUZZ.items()))
        terminalreporter.write_line(f"fuzz: {sum(FUZZ.values()):,} cases ({kinds})")
    if DESELECTED:  # pytest-xdist does not print the number itself
        terminalreporter.write_line(f"{max(DESELECTED.values())} slow tests deselected; --all includes them")


@pytest.fixture(autouse=True)
def _messages_on_stdout() -> None:
    """Print the package's messages to standard output, as the command line does."""
    configure_logging()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], Any]:
    """Return `golden(name, value)`, which reads tests/goldens/NAME.json; --regenerate-goldens writes `value` first."""

    def read(name: str, value: Any) -> Any:
        path = GOLDENS / f"{name}.json"
        if request.config.getoption("--regenerate-goldens"):
            path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    return read


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    """Return `command_line("+step=gelu", ...)`, which runs run_roadmap.py in an empty working folder and waits."""

    def run(*overrides: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
        command = [sys.executable, str(ROOT / "run_roadmap.py"), *overrides]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=540, check=False
        )

    return run


@pytest.fixture
def fashion() -> Path:
    """Return the folder with Fashion-MNIST's files; skip the test if they are not there."""
    if not (FASHION / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"Fashion-MNIST is not in {FASHION.name}/ beside the checkout (or $ROADMAP_FASHION_MNIST)")
    return FASHION


def background(*overrides: str, apart: bool = False, **environment: str) -> subprocess.Popen[str]:
    """Start run_roadmap.py in the working folder; `apart` gives it a process group of its own, so that a test can send
    a signal to all of its processes."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    command = [sys.executable, str(ROOT / "run_roadmap.py"), *overrides]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=apart)
    _BACKGROUND.append(process)
    return process


@pytest.fixture(autouse=True)
def _end_background() -> Iterator[None]:
    """End what a failed test has left running, so that it disturbs no other test."""
    yield
    while _BACKGROUND:
        process = _BACKGROUND.pop()
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=60)


def until(condition: Callable[..., Any], seconds: float = 90) -> Any:
    """Wait until `condition()` is true, and return its value. Raises AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not fulfilled after {seconds} s"
        time.sleep(0.002)
    return value
