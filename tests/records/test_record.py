"""Records: their files, the hash that names a run, defaults of newer fields."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.choices import Optimizer, Precision
from roadmap.config.compose import compose
from roadmap.config.schema import DataSpec, RunSpec
from roadmap.records.record import (
    FORMAT,
    config_hash,
    config_of,
    new_record,
    read_record,
    run_folder,
    run_name,
    write_record,
)
from tests.helpers import make_image_folder


@pytest.fixture(scope="module")
def gelu() -> RunSpec:
    return compose("+step=gelu")


def changed(spec: RunSpec, path: str, value: Any) -> RunSpec:
    """Return a copy of `spec` with another value of one field, as `budget.epochs`."""
    spec = copy.deepcopy(spec)
    *sections, name = path.split(".")
    section: Any = spec
    for part in sections:
        section = getattr(section, part)
    assert getattr(section, name) != value
    setattr(section, name, value)
    return spec


def test_a_new_field_does_not_change_the_hashes_of_runs_that_do_not_use_it(
    gelu: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclasses.dataclass
    class LaterData(DataSpec):
        novel: bool = False

    @dataclasses.dataclass
    class LaterRun(RunSpec):
        data: DataSpec = dataclasses.field(default_factory=LaterData)
        unheard: int | None = None

    before = config_hash(gelu)
    monkeypatch.setattr("roadmap.records.record.RunSpec", LaterRun)
    later = LaterRun(**(vars(gelu) | {"data": LaterData(**vars(gelu.data))}))
    assert config_hash(later) == before
    later.data = LaterData(**vars(gelu.data), novel=True)
    with_field = config_hash(later)
    later.unheard = 1
    assert len({before, with_field, config_hash(later)}) == 3


def test_a_changed_default_needs_a_new_format(golden: Callable[[str, Any], Any]) -> None:
    """The hash leaves defaults out, and old records get them: if a default changes, FORMAT must be raised, or old runs
    would be taken for new ones. For a new field it is enough to regenerate the golden."""
    content = {"format": FORMAT, "defaults": config_of(RunSpec())}
    assert golden("defaults", content) == content


def test_the_hash_depends_only_on_what_determines_the_result(gelu: RunSpec) -> None:
    for path, value in {
        "budget.lr_multiplier.sgd": 3.0,  # of an optimizer that it does not use
        "seed": 4,
        "parallel": 2,
        "out": "elsewhere",
        "checkpoint_steps": 9,
    }.items():
        assert config_hash(changed(gelu, path, value)) == config_hash(gelu), path
    for path, value in {
        "budget.lr_multiplier.adamw": 3.0,
        "recipe.mixup": 0.0,
        "network.width": 40,
        "precision": Precision.fp32,
        "data.flip": 0.5,
    }.items():
        assert config_hash(changed(gelu, path, value)) != config_hash(gelu), path
    assert gelu.recipe.optimizer is Optimizer.adamw


def test_the_folder_depends_on_the_hash_the_seed_and_out(gelu: RunSpec) -> None:
    for path, value in {"force": True, "reports": "x", "data.workers": 3, "parallel": 2}.items():
        assert run_folder(changed(gelu, path, value)) == run_folder(gelu), path
    others = {"seed": 1, "network.width": 20, "budget.epochs": 3, "recipe.lr": 1.0, "out": "x"}
    folders = {run_folder(changed(gelu, path, value)) for path, value in others.items()}
    assert len({run_folder(gelu), *folders}) == 6


def test_overrides_reach_the_hash(gelu: RunSpec) -> None:
    assert run_folder(compose("+step=gelu", "device=cpu", "force=true")) == run_folder(gelu)
    assert run_name(compose("+step=gelu", "budget.epochs=3")) != run_name(gelu)


def test_image_folders_and_weight_files_determine_the_hash(tmp_path: Path) -> None:
    roots = [make_image_folder(tmp_path / name, {"a": 1, "b": 1}) for name in ("one", "other")]
    spec = compose("data=folder", f"data.root={roots[0]}")
    assert run_folder(spec) != run_folder(changed(spec, "data.root", str(roots[1])))
    path = tmp_path / "w.pt"
    path.write_bytes(b"before")
    spec = compose(f"weights={path}")
    before = run_folder(spec)
    path.write_bytes(b"after")
    assert run_folder(spec) != before
    spec = compose("data=fashion_mnist", f"data.root={roots[0]}")
    assert run_folder(spec) == run_folder(changed(spec, "data.root", str(roots[1])))  # the same images in any folder


def test_a_record_that_is_older_than_a_field_has_its_default(tmp_path: Path) -> None:
    spec = compose("+step=gelu", "budget.lr_multiplier.adamw=3", "data.holdout=9")
    record = new_record(spec, "")
    del record["config"]["budget"]["lr_multiplier"]["sgd"], record["config"]["network"]["grn"]
    del record["config"]["deterministic"]
    write_record(tmp_path, record)
    read = read_record(tmp_path)
    assert read is not None and read["config"] == config_of(spec)


def test_records_are_written_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path, {"format": FORMAT, "loss": float("nan")})
    assert json.loads((tmp_path / "record.json").read_text()) == {"format": FORMAT, "loss": None}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_record(tmp_path, {"format": FORMAT, "loss": 1.0})
    assert json.loads((tmp_path / "record.json").read_text()) == {"format": FORMAT, "loss": None}
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": -1}'])
def test_an_invalid_record_is_not_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    assert read_record(tmp_path) is None
