"""Damaged records, study lists, checkpoints, weights, configs and images: they are named in one line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st

from roadmap.config import paths
from roadmap.config.files import read_yaml
from roadmap.config.schema import SpecError
from roadmap.records.record import run_folder
from tests.conftest import TINY
from tests.fuzz.damage import FILE_DAMAGES, Damage, any_damage, byte_damage, record_damage
from tests.fuzz.invariants import Violation, Workplace
from tests.fuzz.prepared import TRAINED
from tests.fuzz.settings import fuzz, parts
from tests.helpers import make_spec

KIND = "damaged files"
PLANS = (
    ["+step=baseline", "study=demo", "plan=true", "plan_device=none"],
    ["-m", "+step=baseline,training_recipe", "plan=true", "plan_device=none"],
)
REPORTS = (
    ["report", "experiments/runs"],
    ["report", "experiments/demo"],
    ["report", "experiments/demo", "experiments/runs"],
)
LISTS = (
    ["runs"],
    ["runs", "demo", "--wide"],
    ["runs", "--json"],
    ["watch", "--once"],
    ["runs", "--compare", "RUN0", "RUN1"],
)


@parts(18, 320, 4)
def test_damaged_records_and_study_lists(workplace: Workplace, part: int, num_cases: int) -> None:
    runs = workplace.folder / "experiments"
    names = ("record.json", "correct.npy", "history.csv", "progress.json")
    files = [str(path.relative_to(runs)) for path in sorted(runs.glob("*/*/*")) if path.name in names]
    files += ["demo/study.json"] * 5
    folders = sorted(path.name for path in (runs / "runs").glob("*-seed*"))
    numbered = dict(zip(("RUN0", "RUN1"), folders, strict=False))

    def check(name: str, damage: Damage, command: list[str]) -> None:
        if damage.text.startswith("json") and not name.endswith(".json"):
            damage = FILE_DAMAGES[len(damage.text) % len(FILE_DAMAGES)]
        damage.apply(workplace.folder / "experiments" / name)
        words = [numbered.get(word, word) for word in command]
        workplace.check(*words, dry=command[0] != "report", note=f"{name}: {damage}")

    commands = st.sampled_from([*PLANS, *PLANS, *LISTS, *LISTS, *LISTS, *REPORTS])
    fuzz(KIND, check, num_cases, part, st.sampled_from(files), record_damage, commands)


@parts(4, 50, 1)
def test_damaged_checkpoints_and_weights(workplace: Workplace, part: int, num_cases: int) -> None:
    """A run whose checkpoint is damaged starts again or resumes from the previous one; damaged weights are refused."""
    folder = run_folder(make_spec(Path("experiments"), *TRAINED))
    again = list(TRAINED)
    starts = [*TINY, "+step=gelu", f"weights={folder / 'model.pt'}", "out=other"]
    targets = {"checkpoint.pt": again, "checkpoint.previous.pt": again, "model.pt": starts}

    def check(name: str, damage: Damage) -> None:
        if name != "model.pt":
            (workplace.folder / folder / "record.json").unlink()  # not finished
        damage.apply(workplace.folder / folder / name)
        result = workplace.check(*targets[name], note=f"{name}: {damage}")
        if name != "model.pt" and result is not None and result.code != 0:
            raise Violation(f"{name}: {damage}: the run does not complete: {result.err}")

    fuzz(KIND, check, num_cases, part, st.sampled_from(sorted(targets)), byte_damage())


# File in conf/ -> overrides that use it.
CONFIGS = {
    "transform/grn.yaml": ["+step=grn"],
    "transform/kernel_9.yaml": ["+transform=[depthwise_conv,kernel_9]"],
    "roadmap/resnet_rs.yaml": ["roadmap=resnet_rs", "+step=dropout"],
    "roadmap/resnet_rs.csv": ["roadmap=resnet_rs", "+step=dropout"],
    "ingredient/cutmix.yaml": ["+ingredient=[cutmix]"],
    "budget/paper.yaml": ["budget=paper"],
    "base/pico.yaml": ["base=pico"],
    "data/cifar10.yaml": ["data=cifar10"],
    "recipe/modern.yaml": ["+step=training_recipe"],
    "preset/fashion_mnist.yaml": ["+preset=fashion_mnist"],
    "study/kernel_sizes.yaml": ["+study=kernel_sizes"],
}
UNUSED = ["+step=stage_ratio"]


def is_valid(path: Path) -> bool:
    """Return whether a file of conf/ can be read; nearly every text is a valid CSV file."""
    try:
        if path.suffix == ".yaml":
            read_yaml(path)
    except SpecError:
        return False
    return True


def clear_caches() -> None:
    """Forget what was read from conf/."""
    for name, module in list(sys.modules.items()):
        if name.startswith("roadmap."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a copy of conf/, which the package reads until the test has ended."""
    shutil.copytree(paths.CONF, tmp_path / "conf")
    shutil.copytree(paths.CONF, tmp_path / "intact")
    monkeypatch.setattr(paths, "CONF", tmp_path / "conf")
    clear_caches()
    yield tmp_path / "conf"
    monkeypatch.undo()
    clear_caches()


@parts(5, 120, 1)
def test_damaged_configs(workplace: Workplace, conf: Path, part: int, num_cases: int) -> None:
    """A damaged file is named by a command that uses it; another command works."""

    def check(name: str, damage: Damage, used: bool) -> None:
        shutil.rmtree(conf)
        shutil.copytree(conf.with_name("intact"), conf)
        damage.apply(conf / name)
        clear_caches()
        command = [*(CONFIGS[name] if used else UNUSED), "plan=true", "plan_device=none"]
        uses = used or name in ("recipe/modern.yaml",)  # `stage_ratio` includes the enhanced recipe
        result = workplace.check(*command, dry=True, note=f"conf/{name}: {damage}")
        if result is not None and not uses and result.code != 0:
            raise Violation(f"{command} does not use conf/{name} ({damage}): {result.err}")
        if result is not None and used and not is_valid(conf / name) and Path(name).stem not in result.err:
            raise Violation(f"{command} does not name conf/{name} ({damage}): {result.err}")

    fuzz(KIND, check, num_cases, part, st.sampled_from(sorted(CONFIGS)), any_damage, st.booleans())


@parts(3, 40, 1)
def test_damaged_images(workplace: Workplace, part: int, num_cases: int) -> None:
    """An unreadable image fails the run with its path, or is skipped."""
    images = sorted(str(path.relative_to(workplace.folder)) for path in workplace.folder.glob("images/*/*/*.png"))
    command = [
        *TINY, "+step=gelu", "data=folder", "data.root=images", "data.image_size=16", "data.stem_stride=1",
        "data.workers=0", "budget.train_images=null", "budget.test_images=null", "budget.batch_size=2",
    ]  # fmt: skip
    intact = workplace.check(*command)
    assert intact is not None and intact.code == 0

    def check(name: str, damage: Damage, on_error: str) -> None:
        damage.apply(workplace.folder / name)
        workplace.check(*command, f"data.on_error={on_error}", note=f"{name}: {damage}")

    fuzz(KIND, check, num_cases, part, st.sampled_from(images), any_damage, st.sampled_from(["raise", "skip"]))
