"""The checks of `roadmap doctor`. They return findings, and report a broken installation instead of raising errors."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from roadmap import __version__
from roadmap.commands.tables import format_size
from roadmap.config import paths
from roadmap.config.datasets import DEFAULT_ROOT, KNOWN_DATASETS, Source, folder_of_files
from roadmap.config.files import read_yaml
from roadmap.config.roadmaps import load_roadmap, roadmap_names
from roadmap.config.schema import DataSpec, SpecError
from roadmap.config.transform_files import read_transforms
from roadmap.runtime import system

MINIMUM_PYTHON = (3, 11)
MINIMUM_VERSIONS = {"torch": "2.9", "torchvision": "0.24", "timm": "1.0.20", "hydra-core": "1.3.2"}
OTHER_PACKAGES = (
    "numpy",
    "omegaconf",
    "pandas",
    "matplotlib",
    "scipy",
    "statsmodels",
    "scikit-learn",
    "pillow",
    "rich",
)
EXTRAS = {  # name of the extra -> its package, and what needs it
    "hfds": ("datasets", "data=timm data.name=hfds/..."),
    "wds": ("webdataset", "data=timm data.name=wds/..."),
    **{name: (name, f"logger={name}") for name in ("tensorboard", "trackio", "mlflow", "wandb")},
    "onnx": ("onnxruntime", "roadmap export --onnx"),
    "evaluate": ("torchmetrics", "roadmap evaluate"),
    "tune": ("optuna", "+study=tune"),
    "parquet": ("pyarrow", "roadmap results --to FILE.parquet"),
}
LAUNCHERS = {
    "submitit_slurm": ("hydra-submitit-launcher", "submitit"),
    "submitit_local": ("hydra-submitit-launcher", "submitit"),
    "ray": ("hydra-ray-launcher", "ray"),
}
VARIABLES = re.compile(
    r"(CUDA_VISIBLE_DEVICES|CUDA_LAUNCH_BLOCKING|[A-Z]+_NUM_THREADS|GOMP_SPINCOUNT|HYDRA_FULL_ERROR|PYTORCH_\w+|TORCH_HOME|HF_HOME"
    r"|HF_HUB_OFFLINE|RANK|LOCAL_RANK|WORLD_SIZE|SLURM_(JOB_ID|CPUS_PER_TASK|GPUS\w*|NTASKS)|LANG|LC_ALL|PYTHONIOENCODING|TMPDIR)"
)
LITTLE_SPACE = 2**30  # bytes; a study with weights of larger networks needs more


@dataclass(frozen=True)
class Finding:
    """One line of the output."""

    section: str
    name: str
    value: str
    level: str = "ok"  # ok, warning (some uses are affected) or error (no run can train)
    advice: str = ""  # what is wrong and what to do, unless ok


def check_program() -> Iterator[Finding]:
    """Return version, commit and configs of this program."""
    yield Finding("program", "roadmap", f"{__version__} in {_short(paths.CONF.parent)}")
    git = system.git_state()
    if git["commit"] is not None:
        yield Finding("program", "git commit", f"{git['commit'][:12]}{', with changes' if git['dirty'] else ''}")
    yield from _check_configs()
    version = ".".join(map(str, MINIMUM_PYTHON))
    old = sys.version_info < MINIMUM_PYTHON
    advice = f"older than {version}; install Python {version} or newer"
    yield Finding("program", "python", f"{platform.python_version()} ({platform.platform()})", *_error_if(old, advice))


def _check_configs() -> Iterator[Finding]:
    """Return the number of roadmaps and transforms, and each config file that cannot be used."""
    transforms, usable = read_transforms(), list[str]()
    errors = {str(error): None for error in transforms.errors.values()}
    for name in roadmap_names():
        try:
            usable.append(load_roadmap(name).name)
        except SpecError as error:
            errors[str(error)] = None
    for path in sorted(path for folder in paths.config_folders() for path in folder.rglob("*.yaml")):
        try:
            if path.parent.name not in ("roadmap", "transform", "ingredient"):
                read_yaml(path)
        except SpecError as error:
            errors[str(error)] = None
    text = f"{len(usable)} roadmaps, {len(transforms)} transforms in {', '.join(map(_short, paths.config_folders()))}"
    yield Finding("program", "configs", text, *_error_if(not usable, "no roadmap can be read; install roadmap again"))
    for error in errors:
        yield Finding("program", "config", "cannot be used", "warning", error)


def check_packages() -> Iterator[Finding]:
    """Return the versions of the packages that every run needs."""
    for name in (*MINIMUM_VERSIONS, *OTHER_PACKAGES):
        version, least = _version(name), MINIMUM_VERSIONS.get(name, "0")
        if version is None:
            yield Finding(
                "packages", name, "not installed", "error", "not installed; install the package roadmap again"
            )
        else:
            advice = f"{version} is older than {least}; install a newer version"
            yield Finding("packages", name, version, *_error_if(_numbers(version) < _numbers(least), advice))


def check_machine() -> Iterator[Finding]:
    """Return processor, cores and memory."""
    num_cores, quota = system.num_cores(), system.cpu_quota()
    limits = [] if num_cores == os.cpu_count() else [f"{os.cpu_count()} in the machine"]
    limits += [f"limited to {quota:g} by the control group"] if quota is not None else []
    yield Finding("machine", "processor", system.cpu_name())
    few = quota is not None and quota < num_cores
    advice = f"the control group allows {quota or 0:g} of {num_cores} cores; set parallel={max(1, int(quota or 1))}"
    cores = f"{num_cores} for this process{''.join(f', {limit}' for limit in limits)}"
    yield Finding("machine", "cores", cores, *(("warning", advice) if few else ()))
    total, limit = system.memory_bytes()
    text = "not known" if total is None else format_size(total)
    yield Finding("machine", "memory", text + (f", limited to {format_size(limit)}" if limit is not None else ""))


def check_torch(facts: dict[str, Any]) -> Iterator[Finding]:
    """Return devices, precision and threads, from what `torch_probe` found."""
    if "failed" in facts:
        advice = f"PyTorch cannot be used ({facts['failed']}); install it again"
        yield Finding("devices", "torch", "not usable", "error", advice)
        return
    errors = dict(facts["errors"])
    has_driver = any(Path("/dev").glob("nvidia[0-9]*")) and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    advice = errors.pop("CUDA", "") or errors.pop("GPUs", "")
    if not advice and has_driver and not facts["cuda"]:
        build = f"is built for CUDA {facts['cuda_build']}" if facts["cuda_build"] else "is built without CUDA"
        advice = f"there is an NVIDIA driver, but PyTorch {build} and finds no GPU; install PyTorch for this driver"
    value = "; ".join(facts["gpus"]) or "none"
    yield Finding("devices", "GPUs (CUDA)", value, *(("warning", advice) if advice else ()))
    yield Finding("devices", "MPS", "yes" if facts["mps"] else "no")
    broken = facts["auto"] is None
    advice = f"{errors.pop('device=auto', '')}; try device=cpu" if broken else ""
    yield Finding("devices", "device=auto", facts["auto"] or "not usable", *_error_if(broken, advice))
    yield Finding("devices", "threads", f"{facts['threads']} of PyTorch in one process")
    for topic, reason in errors.items():
        level = "error" if topic in MINIMUM_VERSIONS else "warning"
        yield Finding("devices", topic, "failed", level, f"{reason}; install {topic} again")


def check_data() -> Iterator[Finding]:
    """Return for each known dataset whether it is on this machine. Nothing is downloaded."""
    for name, known in KNOWN_DATASETS.items():
        if known.source is Source.embedded:
            value = "part of scikit-learn"
        elif known.source is Source.folder:
            value = "your own folder: data.root=FOLDER"
        else:
            try:
                folder = folder_of_files(DataSpec(name))
            except OSError as error:
                yield Finding("data", name, "not readable", "warning", f"{error.filename}: {error.strerror}")
                continue
            absent = f"not in {DEFAULT_ROOT / name}; the first use downloads it"
            value = absent if folder is None else f"found in {_short(folder)}"
        yield Finding("data", name, value)


def check_folders(folders: dict[str, Path]) -> Iterator[Finding]:
    """Return whether the folders that runs write to are writable, and their free space."""
    named = folders | {"data": DEFAULT_ROOT}
    try:
        named["temporary"] = Path(tempfile.gettempdir())
    except OSError as error:  # no folder is writable
        yield Finding("folders", "temporary", "none", "error", f"{error.strerror}; set TMPDIR to a writable folder")
    for name, folder in named.items():
        parent = folder.absolute()
        while not os.path.lexists(parent) and parent != parent.parent:
            parent = parent.parent
        reason = _try_to_write(parent)
        level = "warning" if name == "data" else "error"
        value = _short(folder) + ("" if parent == folder.absolute() else ", not created yet")
        if reason is not None:
            advice = f"{_short(parent)} is not writable ({reason}); use another folder"
            yield Finding("folders", name, value, level, advice)
            continue
        free = shutil.disk_usage(parent).free
        few = free < LITTLE_SPACE
        advice = f"only {format_size(free)} are free; delete files, or use another folder"
        yield Finding("folders", name, f"{value}, {format_size(free)} free", *(("warning", advice) if few else ()))


def _try_to_write(folder: Path) -> str | None:
    """Write and lock a temporary file in the folder; return the reason if it is not possible."""
    import portalocker

    if not folder.is_dir():
        return "not a folder"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.LockException as error:
        return f"cannot be locked: {error}"
    except OSError as error:
        return error.strerror or str(error)
    return None


def check_launchers() -> Iterator[Finding]:
    """Return which launchers and optional datasets are installed."""
    for name, packages in LAUNCHERS.items():
        versions = [f"{package} {_version(package)}" for package in packages if _version(package)]
        value = ", ".join(versions) if len(versions) == len(packages) else "not installed"
        if name == "submitit_slurm":
            value += ", sbatch found" if shutil.which("sbatch") else ", no sbatch here"
        yield Finding("launchers", name, value)
    for extra, (package, use) in EXTRAS.items():
        version = _version(package)
        yield Finding("extras", extra, f"{package} {version}" if version else f"not installed (for {use})")


def check_environment() -> Iterator[Finding]:
    """Return the environment variables that change what runs do, and the output's encoding."""
    yield Finding("environment", "standard output", f"{sys.stdout.encoding}, terminal: {sys.stdout.isatty()}")
    for name in sorted(name for name in os.environ if VARIABLES.fullmatch(name)):
        value, advice = os.environ[name], ""
        if name.endswith("_NUM_THREADS") and value.isdecimal() and int(value) > system.num_cores():
            advice = f"{value} threads on {system.num_cores()} cores are slow; unset it"
        yield Finding("environment", name, value or "(empty)", *(("warning", advice) if advice else ()))


def _error_if(holds: bool, advice: str) -> tuple[str, str]:
    return ("error", advice) if holds else ("ok", "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _short(path: Path) -> str:
    """Return the path with ~ for the user's home folder, because users add the output to bug reports."""
    text = str(path)
    home = os.path.expanduser("~")  # noqa: PTH111 Path.home() raises an error for a user without a home
    return "~" + text[len(home) :] if home not in ("~", "/") and text.startswith(home + os.sep) else text
