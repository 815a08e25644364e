"""Studies through the command line: dry runs, shared runs, every shipped study."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest

from roadmap.records.manifest import read_manifest
from tests.conftest import ROOT, TINY, CommandLine, background
from tests.helpers import call_main, write_run


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["design.full=gelo"], "design.full=gelo: unknown step; use one of baseline, training_recipe"),
        (["design.orders=3"], "design.orders=3: must be a positive even number, because each order is"),
        (["reference=swim"], "reference=swim: unknown reference network; use swin, or null"),
        (["design.full=baseline"], "design.full=baseline: has no transform to remove or to add; use a later step"),
        (["out=a,b"], "out=a,b: a sweep has one value; run one command for each"),
        (["design.full=gelu,layer_norm"], "design.full=gelu,layer_norm: a study has one design; give one value"),
        (
            ["+design.needs.gelu=[grn],[swin]"],
            "+design.needs.gelu=[grn],[swin]: a study has one design; give one value",
        ),
        (["+step=gelu"], "+step=gelu: design.name=leave_one_out chooses the networks itself; set design.full=STEP for"),
    ],
)
def test_invalid_studies_exit_with_one_line(
    command_line: CommandLine, tmp_path: Path, overrides: list[str], message: str
) -> None:
    done = command_line("+study=leave_one_out", *overrides)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and message in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_study_with_its_reference(command_line: CommandLine, tmp_path: Path) -> None:
    done = command_line("-m", "+step=baseline", "seed=0", "reference=swin", *TINY)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "reports" / "runs" / "roadmap.csv")
    assert table["step"].tolist() == ["baseline", "swin"] and table["reference"].tolist() == [False, True]
    assert table["paper_top1"].tolist() == [76.13, 81.3] and pd.isna(table["delta"]).all()
    assert "Swin Transformer (reference)" in done.stdout
    alone = command_line("+step=baseline", "reference=swin", *TINY)
    assert alone.returncode == 2 and "needs a study; for one run use +transform=swin" in alone.stderr


def test_a_single_run_has_no_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = {
        "design.name=add_one_in": "design.name=add_one_in: needs a study, as +study=add_one_in",
        "+design.needs.gelu=[large_kernel]": "design.needs: needs a study, as +study=leave_one_out; leave it out",
    }
    for override, message in refused.items():
        done = call_main("+step=gelu", override)
        assert done.code == 2 and message in done.err
    assert not list(tmp_path.iterdir())


def test_a_dry_run_starts_nothing_and_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    overrides = ("+study=leave_one_out", "seed=0,1", "plan=true", "plan_device=none", "device=cpu", "data=digits")
    out, err = background(*overrides, PYTHONPATH=str(tmp_path)).communicate(timeout=100)
    assert "leave_one_out: 28 runs, 0 done, 28 to do" in out, err
    assert "time, cost: unknown until a run with this data, base and budget is completed" in out
    assert out.count("to do         ?") == 28
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sitecustomize.py"]

    fields = {"wall_seconds": 30.0, "plan": {"epochs": 10}}
    write_run(tmp_path / "experiments", 90.0, "+step=separate_downsampling", "seed=0", **fields)
    out, err = background(*overrides, "parallel=3", PYTHONPATH=str(tmp_path)).communicate(timeout=100)
    assert "leave_one_out: 28 runs, 1 done, 27 to do" in out, err
    assert "done       0:30  separate_downsampling seed=0: top-1 90.00 %" in out
    # 25 runs of 10 epochs, and two of the baseline's recipe with 3 epochs
    assert out.count("to do     ~0:30") == 25 and out.count("to do     ~0:09") == 2
    assert "time: 12:48 of run time, 4:30 with 3 at once\ncost: 0.21 core-hours" in out
    assert "estimated from 1 records, on a processor" in out
    out, _ = background("+step=gelu", "plan=true", "plan_device=none", "parallel=8").communicate(timeout=100)
    assert "time: 0:30\ncost: 0.017 core-hours" in out  # on the whole machine
    sweep = ("-m", "+step=baseline,gelu", "budget.epochs=3,4", "budget.batch_size=32", "plan=true", "plan_device=none")
    out, _ = background(*sweep).communicate(timeout=100)
    for name in ("baseline budget.epochs=3 seed=0", "gelu budget.epochs=4 seed=0"):
        assert f"?  {name}\n" in out  # the titles hold the overrides that differ
    assert not (tmp_path / "reports").exists() and not (tmp_path / "experiments" / "leave_one_out").exists()


@pytest.mark.slow
def test_studies_share_their_runs(command_line: CommandLine, tmp_path: Path) -> None:
    overrides = ("seed=0", *TINY)
    first = command_line("+study=leave_one_out", "design.full=patchify_stem", *overrides)
    assert first.returncode == 0, first.stderr
    # patchify_stem, stage_ratio, (training_recipe, patchify_stem), (stage_ratio, patchify_stem)
    assert "leave_one_out: 4 runs" in first.stdout
    second = command_line("-m", "+step=stage_ratio,patchify_stem", "study=other", *overrides)
    assert second.returncode == 0 and "2 of them already finished" in second.stdout, second.stderr
    third = command_line("+study=leave_one_out", "design.full=patchify_stem", *overrides)
    assert "4 of them already finished" in third.stdout
    assert len(list((tmp_path / "experiments" / "runs").glob("*/record.json"))) == 4

    manifest = read_manifest(tmp_path / "experiments" / "leave_one_out")
    assert manifest is not None and manifest.design == "leave_one_out" and len(manifest.runs) == 4
    command = ["python", "run_roadmap.py", "+study=leave_one_out", "design.full=patchify_stem", *overrides]
    assert manifest.commands == [shlex.join(command)]
    table = pd.read_csv(tmp_path / "reports" / "leave_one_out" / "roadmap.csv")
    pictures = [tmp_path / "reports" / name / "roadmap.svg" for name in ("leave_one_out", "other")]
    assert ["paper: ImageNet" in path.read_text("utf-8") for path in pictures] == [False, True]  # beside a road alone
    labels = ["nothing left out", "without enhanced recipe", "without stage ratio", "without patchify stem"]
    assert table["label"].tolist() == labels
    assert table["against"].fillna("").tolist() == ["", *["nothing left out"] * 3]
    means = table["top1_mean"]
    assert table["delta"][1:].tolist() == pytest.approx((means[1:] - means[0]).tolist())
    assert (table["verdict"][1:] == "descriptive").all()
    assert pd.read_csv(tmp_path / "reports" / "other" / "roadmap.csv")["step"].tolist() == [
        "stage_ratio",
        "patchify_stem",
    ]


def test_the_shipped_studies_are_documented() -> None:
    shipped = {path.stem for path in (ROOT / "conf" / "study").glob("*.yaml")}
    listed = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {
        "roadmap",
        "leave_one_out",
        "add_one_in",
        "attribution",
        "recipe",
        "kernel_sizes",
        "widths_and_depths",
    } <= shipped
    assert all(f"`{name}`" in listed for name in shipped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "runs", "overrides"),
    [
        ("add_one_in", 3, ["design.full=patchify_stem"]),
        ("attribution", 6, ["design.full=patchify_stem", "design.orders=2"]),
        ("recipe", 24, []),
        ("kernel_sizes", 5, []),
        ("widths_and_depths", 16, ["base.width_factor=1,1.5"]),
    ],
)
def test_each_study_end_to_end(
    command_line: CommandLine, tmp_path: Path, study: str, runs: int, overrides: list[str]
) -> None:
    done = command_line(f"+study={study}", *TINY, "seed=0", "save_weights=false", *overrides)
    assert done.returncode == 0, done.stderr
    assert f"{study}: {runs} runs" in done.stdout
    message = f"2 orders of 3 steps (design.orders) need {runs} networks, {runs} runs"
    assert (message in done.stdout) == (study == "attribution")
    record = json.loads((tmp_path / "experiments" / study / "study.json").read_text())
    assert len(record["runs"]) == runs
    table = pd.read_csv(tmp_path / "reports" / study / "roadmap.csv")
    assert len(table) == runs and (table["status"] == "completed").all()
    compared = table["delta"].notna().sum()
    assert compared == {"attribution": 0, "recipe": runs - 2, "widths_and_depths": runs - 4}.get(study, runs - 1)
