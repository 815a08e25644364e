"""From records to table and picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from roadmap.analysis.table import COLUMNS, read_study
from roadmap.records.record import FORMAT
from roadmap.report import figures
from roadmap.report.columns import readable_table
from roadmap.report.wording import agreement_sentences, notes
from roadmap.report.writer import write_report
from tests.conftest import ROOT
from tests.helpers import make_study, write_run


def test_steps_that_the_paper_resolves_are_named_by_what_came_of_them(tmp_path: Path) -> None:
    # Table 10: stage ratio +0.54, depthwise conv -1.11, increase width +2.19, all beyond its noise; patchify is not.
    gains = {"training_recipe": 80.0, "stage_ratio": 2.0, "patchify_stem": 2.0, "depthwise_conv": 2.0}
    gains["increase_width"] = 0.0
    for seed in range(10):
        top1 = 0.0
        for i, (step, gain) in enumerate(gains.items()):
            top1 += gain
            write_run(tmp_path, top1 + 0.1 * (seed * (i + 3) % 5), f"+step={step}", f"seed={seed}")
    (told,) = [line for line in agreement_sentences(read_study(tmp_path / "runs")) if "resolved here" in line]
    assert told == (
        "Of the paper's resolved steps, resolved here with the same sign: stage ratio; resolved here with the other"
        " sign: depthwise conv; not resolved here: increase width."
    )


def test_a_step_that_changed_nothing_is_named(tmp_path: Path) -> None:
    for seed, top1 in enumerate((90.0, 91.0)):
        for step, gain in (("baseline", 0.0), ("training_recipe", 0.0), ("stage_ratio", 1.0)):
            loss = 0.5 + gain + seed
            write_run(tmp_path, top1 + gain, f"+step={step}", f"seed={seed}", "data.holdout=500", loss=loss)
    told = notes(read_study(tmp_path / "runs"))
    assert "Changes that change nothing here (each run ends with the loss of its pair): enhanced recipe." in told
    assert "budget quick (10 of 300 epochs); 6 runs" in told[0]
    assert told[1].startswith("top-1 on 500 held-out training images after the last epoch")


def test_records_to_table(tmp_path: Path) -> None:
    table = read_study(make_study(tmp_path)).table.set_index("step")
    first = "step label n_seeds top1_mean top1_std delta params gmacs images_per_second paper_top1 paper_gmacs status"
    assert COLUMNS[:12] == first.split()
    assert table.index.tolist() == ["baseline", "training_recipe", "stage_ratio", "patchify_stem"]
    row = table.loc["training_recipe"]
    assert (row.n_seeds, row.top1_mean, row.top1_std, row.delta) == (3, 93.0, 2.0, 2.0)
    assert (row.top1_low, row.top1_high) == pytest.approx((93 - 4.968275, 93 + 4.968275))  # t(2) at 97.5 %: 4.302653
    assert (row.paper_top1, row.paper_gmacs, row.status) == (78.82, 4.09, "completed")
    assert pd.isna(table.loc["baseline"].delta)
    half = table.loc["stage_ratio"]
    assert (half.n_seeds, half.top1_mean, half.status, half.n_diverged) == (1, 94.0, "diverged", 1)
    failed = table.loc["patchify_stem"]
    assert (failed.n_seeds, failed.status) == (0, "failed") and pd.isna(failed.top1_mean)


def test_the_command_writes_all_files_and_says_where(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    command = [sys.executable, "-X", "importtime", "-m", "roadmap.report", str(study), "--to", str(tmp_path / "told")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    for module in ("torch", "hydra"):
        assert f" {module}\n" not in done.stderr, f"a report needs no {module}"
    read = pd.read_csv(tmp_path / "told" / "roadmap.csv", dtype={"section": str}, keep_default_na=False, na_values=[""])
    for name in ("section", "against", "verdict"):
        read[name] = read[name].fillna("")
    pd.testing.assert_frame_equal(read, read_study(study).table, check_dtype=False)
    text = (tmp_path / "told" / "roadmap.md").read_text(encoding="utf-8")
    assert "93.00 ± 2.00" in text and "+2.00" in text and "diverged (1 of 2)" in text and "descriptive" in text
    assert "MemoryError: too | large_" in text and "the loss is nan" in text
    tex = (tmp_path / "told" / "roadmap.tex").read_text(encoding="utf-8")
    assert (
        r"\toprule" in tex
        and r"93.00 $\pm$ 2.00" in tex
        and "±" not in tex[tex.index(r"\begin") :]
        and r"top-1 (\%)" in tex
    )
    picture = Image.open(tmp_path / "told" / "roadmap.png")
    assert picture.width > 1500 and len(picture.convert("L").getcolors() or []) > 50
    svg = (tmp_path / "told" / "roadmap.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml") and "</svg>" in svg
    for kind in ("csv", "md", "tex", "png", "svg"):
        assert str(tmp_path / "told" / f"roadmap.{kind}") in done.stdout
    assert str(tmp_path / "told" / "index.html") in done.stdout


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    for name in ("one", "two"):
        write_report(study, tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_rows_of_one_step_under_two_settings_are_told_apart(tmp_path: Path) -> None:
    for width in (8, 16):
        for step in ("baseline", "training_recipe"):
            write_run(tmp_path, 50.0 + width + len(step), f"+step={step}", f"network.width={width}")
    table = read_study(tmp_path / "runs").table
    assert table["step"].tolist() == [
        "baseline network.width=8", "training_recipe network.width=8",
        "baseline network.width=16", "training_recipe network.width=16",
    ]  # fmt: skip
    assert table["delta"].tolist()[1::2] == [7.0, 7.0]


def test_two_bases_and_two_datasets_make_two_roads_each(tmp_path: Path) -> None:
    for base in ("nano", "micro"):
        for data in ("digits", "fashion_mnist"):
            for i, step in enumerate(("training_recipe", "stage_ratio", "increase_width")):
                write_run(tmp_path, 50.0 + i, f"+step={step}", f"base={base}", f"data={data}")
    study = read_study(tmp_path / "runs")
    table = study.table
    assert table["step"].tolist()[:2] == [
        f"{step} base=micro data=digits" for step in ("training_recipe", "stage_ratio")
    ]
    assert table["delta"].dropna().tolist() == [1.0] * 8
    assert notes(study)[0].startswith("Study runs: digits, fashion_mnist, base micro, nano, ")


def test_what_the_paper_does_not_have_is_marked(tmp_path: Path) -> None:
    for step in ("baseline", "kernel_5", "separate_downsampling", "grn"):
        write_run(tmp_path, 50.0, f"+step={step}")
    for names in ("gelu,grn", "grn,kernel_5", "swin"):
        write_run(tmp_path, 50.0, f"+transform=[{names}]")
    table = read_study(tmp_path / "runs").table
    of_the_paper = {"baseline", "kernel_5", "separate_downsampling", "swin"}
    assert set(table["step"]) == of_the_paper | {"grn", "baseline+gelu+grn", "baseline+grn+kernel_5"}
    assert table["beyond"].tolist() == [step not in of_the_paper for step in table["step"]]
    sections = table.set_index("step")["section"]
    assert (sections["baseline"], sections["grn"], sections["kernel_5"]) == ("2", "", "2.5")
    assert table.set_index("step").loc["grn", ["paper_top1", "paper_gmacs"]].isna().all()
    assert set(readable_table(table)["step"]) == {
        "baseline", "separate downsampling", "global response norm (beyond the paper)",
        "baseline with ReLU → GELU, global response norm (beyond the paper)",
        "kernel size → 5 (variant)",
        "baseline with global response norm, kernel size → 5 (variant) (beyond the paper)",
        "Swin Transformer (reference)",
    }  # fmt: skip
    write_report(tmp_path / "runs", tmp_path / "told")
    assert is_beyond((tmp_path / "told" / "roadmap.svg").read_text(encoding="utf-8"))


def is_beyond(svg: str) -> bool:
    name, colour = figures.BEYOND
    assert (colour in svg) is (name in svg)
    return colour in svg


def test_row_0_is_the_papers_wherever_it_stands(tmp_path: Path) -> None:
    for width in (8, 16):
        write_run(tmp_path, 50.0, "+step=baseline", f"network.width={width}")
    write_report(tmp_path / "runs", tmp_path / "told")
    assert not is_beyond((tmp_path / "told" / "roadmap.svg").read_text(encoding="utf-8"))


def test_an_error_of_many_lines_stays_one_comment_in_latex(tmp_path: Path) -> None:
    write_run(tmp_path, None, "+step=gelu", status="failed", error="one\ntwo_")
    write_report(tmp_path / "runs", tmp_path / "told")
    tex = (tmp_path / "told" / "roadmap.tex").read_text(encoding="utf-8").splitlines()
    assert all(
        line.startswith("%") for line in tex[: tex.index(next(line for line in tex if "begin{tabular}" in line))]
    )


def test_a_folder_without_records_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "roadmap.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}: holds no records of runs\n"


def test_a_study_of_failures_only_is_still_reported(tmp_path: Path) -> None:
    write_run(tmp_path, None, "+step=gelu", status="failed", error="killed")
    assert "failed (1 of 1)" in write_report(tmp_path / "runs", tmp_path / "told")


def test_broken_records_are_left_out(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    count = len(read_study(study).records)
    (study / "broken").mkdir()
    (study / "broken" / "record.json").write_text(json.dumps({"format": FORMAT})[:-3])
    assert len(read_study(study).records) == count
