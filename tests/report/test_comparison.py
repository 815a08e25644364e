"""Comparison of two studies, and of the settings of one study."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from roadmap.analysis.table import read_study
from roadmap.commands.report import report_command
from roadmap.config.designs import Layout
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import SpecError
from roadmap.records.manifest import add_runs
from roadmap.report.comparison import write_comparison
from roadmap.report.wording import setting_sentences
from tests.helpers import write_run


def test_two_sizes_in_one_study_are_compared(tmp_path: Path) -> None:
    for factor, gain in ((1, 1.0), (2, 3.0)):
        for seed in (0, 1):
            for i, step in enumerate(("training_recipe", "increase_width", "inverted_bottleneck")):
                overrides = (f"+step={step}", f"base.width_factor={factor}", f"seed={seed}")
                write_run(tmp_path, 80 + gain * i + 0.1 * seed, *overrides)
    study = read_study(tmp_path / "runs")
    assert study.table["label"].tolist()[:2] == [
        f"{x} base.width_factor=1" for x in ("enhanced recipe", "increase width")
    ]
    assert setting_sentences(study) == [
        "base.width_factor=1 compared with base.width_factor=2: 2 of 2 gains have the same sign."
        " No gain is resolved in both."
    ]


def test_two_studies_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    top1 = {"digits": [0.0, 2.0, 3.0, 2.0], "fashion_mnist": [0.0, 1.0, 3.0, 4.0]}
    for data, values in top1.items():
        specs = []
        for seed in range(8):
            for step, value in zip(load_roadmap().step_names, values, strict=False):
                overrides = (f"+step={step}", f"data={data}", f"seed={seed}", f"study={data}")
                specs.append(write_run(tmp_path, 80 + value + 0.01 * seed * (1 + value), *overrides))
        add_runs([(spec, [f"data={data}"]) for spec in specs], Layout())
    text = write_comparison(tmp_path / "digits", tmp_path / "fashion_mnist", tmp_path / "comparison")
    table = pd.read_csv(tmp_path / "comparison" / "compare.csv")
    assert table["step"].tolist() == ["enhanced recipe", "stage ratio", "patchify stem"]
    assert table["say"].tolist() == ["agree", "agree", "contradict"]
    assert "First study compared with second study: 2 of 3 gains have the same sign, Kendall's tau is" in text
    assert "Gains resolved in both: 3, of which 2 agree." in text
    for kind in ("csv", "md", "png", "svg"):
        assert (tmp_path / "comparison" / f"compare.{kind}").stat().st_size > 300
    head, alignment = (tmp_path / "comparison" / "compare.md").read_text(encoding="utf-8").splitlines()[:2]
    assert (
        head.count("verdict") == 2 and alignment == "| :--- | :--- | ---: | ---: | :--- | ---: | ---: | :--- | :--- |"
    )

    monkeypatch.chdir(tmp_path)
    shutil.copytree(tmp_path / "runs", tmp_path / "later" / "runs")
    shutil.copytree(tmp_path / "digits", tmp_path / "later" / "digits")
    assert report_command(["digits", "later/digits"]) == 0  # two studies of the same name
    assert (tmp_path / "reports" / f"{tmp_path.name}-digits-and-later-digits" / "compare.md").is_file()
    capsys.readouterr()
    write_run(tmp_path / "empty", 50.0, "+step=baseline")
    with pytest.raises(SpecError) as caught:
        report_command(["digits", "empty/runs"])
    assert str(caught.value) == (
        "digits and empty/runs: the studies have no comparison of the same two networks in common"
    )
    assert not (tmp_path / "reports" / "digits-and-runs").exists()
