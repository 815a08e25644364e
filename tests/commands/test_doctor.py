"""The subcommand `roadmap doctor`: its findings, and its report of a broken machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from roadmap.commands import doctor, doctor_checks, torch_probe
from roadmap.runtime import system
from tests.conf_files import copy_conf, forget_files
from tests.conftest import ROOT
from tests.helpers import call_main

FACTS: dict[str, Any] = {
    "torch": "2.15.0", "threads": 2, "gpus": [], "cuda_build": None, "cuda": False, "mps": False, "errors": {},
    "auto": "cpu (a processor, 2 threads), fp32 (processor has no bf16)",
}  # fmt: skip


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the facts of a replaced probe of PyTorch. Tests may change them."""
    found = dict(FACTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "probe_torch", lambda: found)
    return found


def findings(code: int = 0) -> dict[str, dict[str, str]]:
    result = call_main("doctor", "--json")
    assert result.code == code
    content = json.loads(result.out)
    assert content["usable"] == (code == 0)
    return {f"{finding['section']}/{finding['name']}": finding for finding in content["findings"]}


def test_output_has_what_a_bug_report_needs(facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    result = call_main("doctor")
    assert result.code == 0
    for name in ("roadmap", "configs", "torch", "timm", "hydra-core", "cores", "memory", "device=auto", "digits"):
        assert name in result.out
    for name in ("CUDA_VISIBLE_DEVICES   (empty)", "submitit_slurm", "hfds", "fashion_mnist", "temporary"):
        assert name in result.out
    assert findings()["packages/torch"]["value"] == metadata.version("torch")
    assert not list(Path().iterdir())


def test_the_users_home_folder_is_not_printed(
    facts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = call_main("doctor", "--out", str(tmp_path / "runs"))
    assert "out                    ~/runs" in result.out


def test_data_on_this_machine_is_found(facts: dict[str, Any]) -> None:
    Path("data/cifar10/cifar-10-batches-py").mkdir(parents=True)
    found = findings()
    assert found["data/cifar10"]["value"] == "found in data/cifar10"
    assert found["data/cifar100"]["value"].startswith("not in data/cifar100; the first use downloads it")


@pytest.mark.parametrize(
    ("change", "code", "name", "text"),
    [
        ({"failed": "ImportError: libcudart.so.12"}, 1, "devices/torch", "PyTorch cannot be used (ImportError: libcu"),
        ({"errors": {"CUDA": "RuntimeError: no driver"}, "cuda": None}, 0, "devices/GPUs (CUDA)", "no driver"),
        ({"errors": {"device=auto": "SpecError: x"}, "auto": None}, 1, "devices/device=auto", "try device=cpu"),
        ({"errors": {"timm": "ImportError: x"}}, 1, "devices/timm", "install timm again"),
    ],
)
def test_a_broken_pytorch_is_reported(
    facts: dict[str, Any], change: dict[str, Any], code: int, name: str, text: str
) -> None:
    facts |= change
    finding = findings(code)[name]
    assert finding["level"] == ("error" if code else "warning")
    assert text in finding["advice"]
    assert text in call_main("doctor").out


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", "exit code -6"),
        ("raise ImportError('libcuda')", "ImportError: libcuda"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
        ("print('not JSON')", "exit code 0"),
    ],
)
def test_a_probe_that_crashes_or_blocks_is_reported(
    program: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.run

    def run_program(_: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return start([sys.executable, "-c", program], **options)

    monkeypatch.setattr("roadmap.commands.doctor.subprocess.run", run_program)
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 1.0)
    assert doctor.probe_torch() == {"failed": message}


def test_the_probe_does_not_raise_where_cuda_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken() -> bool:
        raise RuntimeError("CUDA driver\nis broken")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    found = torch_probe.probe()
    assert found["errors"]["CUDA"] == "RuntimeError: CUDA driver is broken"
    assert json.loads(json.dumps(found)) == found


@pytest.mark.slow
def test_the_probe_in_its_own_process() -> None:
    found = doctor.probe_torch()
    assert found["errors"] == {}
    assert found["auto"]


def test_old_and_missing_packages_are_errors(facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor_checks.MINIMUM_VERSIONS, "timm", "99.1")
    monkeypatch.setitem(doctor_checks.MINIMUM_VERSIONS, "not-a-package", "1")
    found = findings(code=1)
    assert "is older than 99.1" in found["packages/timm"]["advice"]
    assert found["packages/not-a-package"]["value"] == "not installed"


@pytest.mark.parametrize("group", ["transform", "roadmap", "recipe", "."])
def test_a_damaged_config_is_a_warning_with_its_name(
    group: str, facts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = copy_conf(tmp_path, monkeypatch)
    assert "program/config" not in findings()
    (conf / group / "mine.yaml").write_text("# @package _global_\na: [\n")
    forget_files()
    finding = findings()["program/config"]
    forget_files()
    name = str(Path("conf") / group / "mine.yaml")
    assert finding["level"] == "warning" and finding["advice"].startswith(f"{name}: is not valid YAML")


def test_minimum_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = dict(dependency.split(">=") for dependency in project["dependencies"])
    assert {name: least[name] for name in doctor_checks.MINIMUM_VERSIONS} == doctor_checks.MINIMUM_VERSIONS
    assert project["requires-python"] == ">=" + ".".join(map(str, doctor_checks.MINIMUM_PYTHON))


def test_a_folder_that_is_not_writable_is_an_error(facts: dict[str, Any]) -> None:
    Path("experiments").write_text("a file")
    Path("reports").symlink_to("nowhere")
    found = findings(code=1)
    assert found["folders/out"]["advice"] == "experiments is not writable (not a folder); use another folder".replace(
        "experiments is", f"{doctor_checks._short(Path('experiments').absolute())} is"
    )
    assert found["folders/reports"]["level"] == "error"


def test_too_many_threads_and_little_space_are_warnings(facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "10000")
    monkeypatch.setattr(doctor_checks, "LITTLE_SPACE", 2**70)
    found = findings()
    assert found["environment/OMP_NUM_THREADS"]["level"] == "warning"
    assert "are free; delete files" in found["folders/out"]["advice"]


def test_limits_of_the_control_group_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, str] = {"cpu.max": "150000 100000", "memory.max": str(2**20)}

    def read(name: str) -> str:
        return files.get(name, "")

    monkeypatch.setattr(system, "_read_cgroup", read)
    assert system.cpu_quota() == 1.5
    assert system.memory_bytes()[1] == 2**20
    files |= {"cpu.max": "max 100000", "memory.max": "max"}
    assert system.cpu_quota() is None
    assert system.memory_bytes()[1] is None
    assert (system.memory_bytes()[0] or 0) > 2**20 or os.name == "nt"
