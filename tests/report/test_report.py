"""Reports: from records to tables, figures and notes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from roadmap.analysis.table import COLUMNS, read_study
from roadmap.commands.report import report_command
from roadmap.config.schema import SpecError
from roadmap.records.record import FORMAT
from roadmap.report import figures
from roadmap.report.columns import readable_table
from roadmap.report.wording import agreement_sentences, notes
from roadmap.report.writer import write_report
from tests.conftest import ROOT
from tests.helpers import make_study, write_run

RELEASE = Path(__file__).parent.parent / "records" / "release_0_2_0"


def test_steps_that_the_paper_resolves_are_listed_by_their_result(tmp_path: Path) -> None:
    # Table 10: stage ratio +0.54, depthwise conv -1.11, increase width +2.19, all beyond its noise; patchify is not.
    gains = {"training_recipe": 80.0, "stage_ratio": 2.0, "patchify_stem": 2.0, "depthwise_conv": 2.0}
    gains["increase_width"] = 0.0
    for seed in range(10):
        top1 = 0.0
        for i, (step, gain) in enumerate(gains.items()):
            top1 += gain
            write_run(tmp_path, top1 + 0.1 * (seed * (i + 3) % 5), f"+step={step}", f"seed={seed}")
    agreement, steps = agreement_sentences(read_study(tmp_path / "runs"))
    assert agreement.startswith(
        "Agreement with the paper's Table 10: of the 3 steps that the paper's own numbers resolve, "
    )
    assert steps == (
        "Steps that the paper's own numbers resolve: resolved here with the same sign: stage ratio; resolved here with"
        " the opposite sign: depthwise conv; not resolved here: increase width."
    )


def test_runs_of_release_0_2_0_give_their_report(tmp_path: Path) -> None:
    """Two published runs of that release: correct.npy has one byte for each image, quick_lr_multiplier is a field."""
    text = write_report(RELEASE / "roadmap", tmp_path)
    table = pd.read_csv(tmp_path / "roadmap.csv")
    for path in (RELEASE / "runs").glob("*/record.json"):
        record = json.loads(path.read_text("utf-8"))
        assert table.set_index("step").loc[record["name"], "top1_mean"] == pytest.approx(record["top1"])
    assert len(table) == 2 and "(record format 3)" in text and "Only the accuracy" not in text


def test_records_of_an_earlier_format_are_used_alone_or_left_out(tmp_path: Path) -> None:
    """Versions with different formats train differently: their runs are not compared with each other."""
    study = make_study(tmp_path)
    paths = sorted(study.parent.glob("*/*/record.json"))

    def set_format(number: int, chosen: list[Path]) -> str:
        for path in chosen:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"format": number}))
        write_report(study, tmp_path / "report")
        return (tmp_path / "report" / "roadmap.md").read_text()

    note = "The runs are of an earlier version of roadmap (record format 3), whose training differs in details."
    assert "earlier version" not in set_format(FORMAT, paths)
    table = (tmp_path / "report" / "roadmap.csv").read_bytes()
    page = tmp_path / "report" / "index.html"
    assert "conf/transform/" in page.read_text(encoding="utf-8")
    assert note in set_format(3, paths)
    assert "conf/transform/" not in page.read_text(encoding="utf-8")  # the files may have been others
    assert (tmp_path / "report" / "roadmap.csv").read_bytes() == table
    mixed = set_format(FORMAT, paths[:-1])
    assert "Left out: 1 run of an earlier version of roadmap" in mixed and note not in mixed
    set_format(3, paths)
    failed = [path for path in paths if json.loads(path.read_text())["status"] == "failed"]
    text = set_format(FORMAT, failed)  # a failed run does not hide the results of an earlier version
    assert "Left out: 1 failed run of a later version of roadmap." in text and note in text and "94.00" in text


def test_a_change_without_effect_is_noted(tmp_path: Path) -> None:
    for seed, top1 in enumerate((90.0, 91.0)):
        for step, gain in (("baseline", 0.0), ("training_recipe", 0.0), ("stage_ratio", 1.0)):
            loss = 0.5 + gain + seed
            write_run(tmp_path, top1 + gain, f"+step={step}", f"seed={seed}", "data.holdout=500", loss=loss)
    lines = notes(read_study(tmp_path / "runs"))
    assert (
        "Changes without effect (every run ends with the loss of the run it is compared with): enhanced recipe."
        in lines
    )
    assert "budget quick (300 epochs scaled to 10); 6 runs" in lines[0]
    assert lines[1].startswith("top-1: accuracy on 500 held-out training images after the last epoch")


def test_a_change_that_leaves_the_config_equal_is_noted(tmp_path: Path) -> None:
    """Nano has no stochastic depth, and a processor with other rounding has other losses."""
    for step, loss in (("baseline", 0.5), ("baseline +ingredient=[stochastic_depth]", 0.6), ("gelu", 0.7)):
        write_run(tmp_path, 90.0, *f"+step={step} base=nano seed=0".split(), loss=loss)
    (line,) = [line for line in notes(read_study(tmp_path / "runs")) if "without effect" in line]
    assert line.startswith("Changes without effect (the resolved configs are equal, ")
    assert line.endswith("): baseline with stochastic depth.")


def test_notes_describe_the_budget(tmp_path: Path) -> None:
    write_run(tmp_path, 50.0, "+step=gelu", "budget.epochs=7", "budget.equal_epochs=true")
    assert "budget quick (7 epochs); 1 run, seed 0." in notes(read_study(tmp_path / "runs"))[0]
    write_run(tmp_path / "paper", 50.0, "+step=gelu", "budget=paper")
    assert "budget paper; 1 run, seed 0." in notes(read_study(tmp_path / "paper" / "runs"))[0]


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
    diverged = table.loc["stage_ratio"]
    assert (diverged.n_seeds, diverged.top1_mean, diverged.status, diverged.n_diverged) == (1, 94.0, "diverged", 1)
    failed = table.loc["patchify_stem"]
    assert (failed.n_seeds, failed.status) == (0, "failed") and pd.isna(failed.top1_mean)


def test_all_files_are_written_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, to = make_study(tmp_path), tmp_path / "report"
    assert report_command([str(study), "--to", str(to)]) == 0
    output = capsys.readouterr().out
    table = pd.read_csv(to / "roadmap.csv", dtype={"section": str}, keep_default_na=False, na_values=[""])
    for name in ("section", "against", "verdict"):
        table[name] = table[name].fillna("")
    pd.testing.assert_frame_equal(table, read_study(study).table, check_dtype=False)
    text = (to / "roadmap.md").read_text(encoding="utf-8")
    assert "93.00 ± 2.00" in text and "+2.00" in text and "diverged (1 of 2)" in text and "descriptive" in text
    assert "MemoryError: too | large_" in text and "the loss is nan" in text
    tex = (to / "roadmap.tex").read_text(encoding="utf-8")
    assert r"\toprule" in tex and r"93.00 $\pm$ 2.00" in tex and r"top-1 (\%)" in tex
    assert "±" not in tex[tex.index(r"\begin") :]
    image = Image.open(to / "roadmap.png")
    assert image.width > 1500 and len(image.convert("L").getcolors() or []) > 50
    svg = (to / "roadmap.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml") and "</svg>" in svg
    for name in ("roadmap.csv", "roadmap.md", "roadmap.tex", "roadmap.png", "roadmap.svg", "index.html"):
        assert f"  {to / name}\n" in output


WITHOUT_DIAGRAMS = """
import sys
from pathlib import Path
from roadmap.report.writer import write_report
write_report(Path(sys.argv[1]), Path(sys.argv[2]))
print(*sorted({"torch", "hydra", "omegaconf"} & sys.modules.keys()))
"""


def test_the_package_imports_neither_torch_nor_hydra(tmp_path: Path) -> None:
    study, to = make_study(tmp_path), tmp_path / "report"
    command = [sys.executable, "-c", WITHOUT_DIAGRAMS, str(study), str(to)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "\n"
    page = (to / "index.html").read_text(encoding="utf-8")
    assert "This page has no diagrams of the networks." in page and 'class="diagram"' not in page


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    for name in ("one", "two"):
        assert report_command([str(study), "--to", str(tmp_path / name)]) == 0
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_rows_of_one_step_under_two_settings_are_separate(tmp_path: Path) -> None:
    for width in (8, 16):
        for step in ("baseline", "training_recipe"):
            write_run(tmp_path, 50.0 + width + len(step), f"+step={step}", f"network.width={width}")
    table = read_study(tmp_path / "runs").table
    assert table["step"].tolist() == [
        "baseline network.width=8", "training_recipe network.width=8",
        "baseline network.width=16", "training_recipe network.width=16",
    ]  # fmt: skip
    assert table["delta"].tolist()[1::2] == [7.0, 7.0]


def test_two_bases_and_two_datasets_make_four_roadmaps(tmp_path: Path) -> None:
    for base in ("nano", "micro"):
        for data in ("digits", "fashion_mnist"):
            for i, step in enumerate(("training_recipe", "stage_ratio", "increase_width")):
                write_run(tmp_path, 50.0 + i, f"+step={step}", f"base={base}", f"data={data}")
    study = read_study(tmp_path / "runs")
    steps = study.table["step"].tolist()
    assert steps[:2] == [f"{step} base=micro data=digits" for step in ("training_recipe", "stage_ratio")]
    assert study.table["delta"].dropna().tolist() == [1.0] * 8
    assert notes(study)[0].startswith("Study runs: digits, fashion_mnist, base micro, nano, ")


def test_labels_mark_what_the_paper_does_not_have(tmp_path: Path) -> None:
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
    assert table.loc[table["step"] == "grn", ["paper_top1", "paper_gmacs"]].isna().all(axis=None)
    assert set(readable_table(table)["step"]) == {
        "baseline", "separate downsampling", "global response norm (beyond the paper)",
        "baseline with ReLU → GELU, global response norm (beyond the paper)",
        "kernel size → 5 (variant)",
        "baseline with global response norm, kernel size → 5 (variant) (beyond the paper)",
        "Swin Transformer (reference)",
    }  # fmt: skip
    write_report(tmp_path / "runs", tmp_path / "report")
    assert has_colour_of_beyond((tmp_path / "report" / "roadmap.svg").read_text(encoding="utf-8"))


def has_colour_of_beyond(svg: str) -> bool:
    title, colour = figures.BEYOND.title, figures.BEYOND.color
    assert (colour in svg) is (title in svg)
    return colour in svg


def test_row_0_belongs_to_the_paper_under_every_setting(tmp_path: Path) -> None:
    for width in (8, 16):
        write_run(tmp_path, 50.0, "+step=baseline", f"network.width={width}")
    write_report(tmp_path / "runs", tmp_path / "report")
    assert not has_colour_of_beyond((tmp_path / "report" / "roadmap.svg").read_text(encoding="utf-8"))


def test_an_error_of_several_lines_is_one_comment_in_latex(tmp_path: Path) -> None:
    write_run(tmp_path, None, "+step=gelu", status="failed", error="one\ntwo_")
    write_report(tmp_path / "runs", tmp_path / "report")
    tex = (tmp_path / "report" / "roadmap.tex").read_text(encoding="utf-8").splitlines()
    begin = next(i for i, line in enumerate(tex) if "begin{tabular}" in line)
    assert begin and all(line.startswith("%") for line in tex[:begin])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no such folder"),
        ({"runs/other.txt": ""}, "contains no records of runs"),
        ({"runs/study.json": "{"}, "study.json: "),
    ],
)
def test_invalid_input_is_one_line_and_writes_nothing(
    files: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    with pytest.raises(SpecError) as caught:
        report_command([str(tmp_path / "runs"), "--to", str(tmp_path / "report")])
    error = str(caught.value)
    assert error.startswith(str(tmp_path / "runs")) and message in error and "\n" not in error
    assert not (tmp_path / "report").exists()


def test_a_study_of_failed_runs_has_a_report(tmp_path: Path) -> None:
    write_run(tmp_path, None, "+step=gelu", status="failed", error="killed")
    assert "failed (1 of 1)" in write_report(tmp_path / "runs", tmp_path / "report")


def test_invalid_records_are_left_out(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    count = len(read_study(study).records)
    (study / "broken").mkdir()
    (study / "broken" / "record.json").write_text(json.dumps({"format": FORMAT})[:-3])
    assert len(read_study(study).records) == count
