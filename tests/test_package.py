"""The package as a whole: size of modules, and what its wheel contains."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import roadmap
from tests.conftest import ROOT

MAX_LINES = 300
MODULES = [path for folder in ("roadmap", "hydra_plugins", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_module_is_too_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert len(lengths) > 50
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_the_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"version: {roadmap.__version__}\n" in citation.replace('"', "")
    assert f"\n## {roadmap.__version__} - " in changelog


IMPORT_WITHOUT_POSIX = """
import importlib, os, pkgutil, signal, sys
# Libraries that have code of their own for other systems, and whose import needs what is removed below.
import asyncio, multiprocessing.synchronize, subprocess
import hydra, matplotlib.pyplot, pandas, portalocker, rich.live, scipy.stats, sklearn.datasets, statsmodels.stats.api
import statsmodels.stats.multitest, statsmodels.stats.power, timm, torch, torch.distributed, torchvision

for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for module, names in ((os, ("fork", "getuid", "killpg", "register_at_fork", "sched_getaffinity")),
                      (signal, ("SIGKILL", "SIGUSR1", "SIGUSR2", "pthread_sigmask", "sigwaitinfo"))):
    for name in names:
        delattr(module, name)
import hydra_plugins.roadmap, roadmap
modules = [m.name for package in (roadmap, hydra_plugins.roadmap)
           for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in modules:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(modules))
"""


def test_every_module_can_be_imported_without_what_only_posix_has() -> None:
    command = [sys.executable, "-c", IMPORT_WITHOUT_POSIX]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 100


# Packages of the extras, and what they need; torch takes seconds.
NOT_IMPORTED = {
    "tensorboard", "trackio", "mlflow", "wandb", "onnx", "onnxruntime", "onnxscript", "torchmetrics", "optuna",
    "pyarrow", "transformers", "safetensors", "huggingface_hub", "portalocker", "torch", "timm",
}  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["-c", "import roadmap; roadmap.steps()"], ["run_roadmap.py", "+step=gelu", "--cfg", "job"]]
)
def test_nothing_of_the_extras_is_imported_before_it_is_asked_for(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "roadmap" in imported and NOT_IMPORTED & imported == set()


@pytest.mark.slow
def test_the_wheel_contains_the_package_and_its_configs_only(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "roadmap", "hydra_plugins", f"roadmap-{roadmap.__version__}.dist-info"
    }  # fmt: skip
    expected = {"roadmap/cli.py", "roadmap/py.typed", "roadmap/conf/config.yaml", "roadmap/conf/roadmap/convnext.yaml"}
    expected |= {f"roadmap/report/page.{kind}" for kind in ("html.j2", "css", "js")}
    expected |= {"hydra_plugins/roadmap/sweeper.py", "roadmap/conf/roadmap/convnext.csv"}
    assert expected <= set(names)
    endings = (".py", ".yaml", ".csv", ".j2", ".css", ".js", "py.typed")
    assert all(name.endswith(endings) for name in names if "dist-info" not in name)
