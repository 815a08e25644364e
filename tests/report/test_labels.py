"""Labels in reports: overrides that all rows share, paths, and characters that are special in a format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roadmap.analysis.settings import settings_of
from roadmap.analysis.table import read_study
from roadmap.records.record import RUNS_FOLDER
from roadmap.report.wording import notes
from roadmap.report.writer import write_report
from tests.helpers import write_run

ACTIVE = 'a|b\nc \\ <script>alert(1)</script> `x` *y* [z](w) & "q" \u202e\x07'
ONE_LINE = 'a|b c \\ <script>alert(1)</script> `x` *y* [z](w) & "q"'


def settings(*words: list[str]) -> list[str]:
    groups: list[list[dict[str, Any]]] = [
        [{"config_hash": str(i), "name": str(i), "setting": setting}] for i, setting in enumerate(words)
    ]
    return list(settings_of(groups).values())


def test_labels_leave_out_paths_and_what_all_rows_share() -> None:
    shared = "budget.epochs=2"
    assert settings([shared, "data=folder", "data.root=/home/me/images"], [shared]) == ["data=folder", ""]
    roots = [["data=folder", f"data.root=/home/{name}"] for name in ("a/x", "b/x", "b/y")]
    assert settings(*roots) == ["data.root=a/x", "data.root=b/x", "data.root=b/y"]
    assert settings(["data.root=/a"], ["data.root=/b"]) == ["data.root=a", "data.root=b"]
    assert settings(["data.root=/a"], ["data.root=a"]) == ["data.root=/a", "data.root=a"]
    assert settings(["weights=/w/x.pt"], []) == ["weights=x.pt", ""]
    assert settings(["weights=timm/resnet18"], []) == ["weights=timm/resnet18", ""]


def test_a_folder_that_does_not_decide_the_result_is_not_a_setting(tmp_path: Path) -> None:
    write_run(tmp_path, 80.0, "+step=baseline", "data=fashion_mnist", f"data.root={tmp_path}", "data.workers=1")
    write_run(tmp_path, 81.0, "+step=gelu", "data=fashion_mnist")
    table = read_study(tmp_path / RUNS_FOLDER).table
    assert table["label"].tolist() == ["baseline", "ReLU → GELU"]
    assert table["delta"].tolist()[1] == 1.0  # the rows are compared


def test_special_characters_of_a_label_do_not_break_any_format(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"label": ACTIVE, "data": "da\nta"}
    write_run(tmp_path, 80.0, "+step=baseline", **fields)
    write_run(tmp_path, None, "+step=gelu", status="failed", error=ACTIVE, **fields)
    text = write_report(tmp_path / RUNS_FOLDER, tmp_path / "report", width=200)
    assert ONE_LINE in text
    md = (tmp_path / "report" / "roadmap.md").read_text("utf-8")
    rows = [line for line in md.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({row.replace("\\|", "").count("|") for row in rows}) == 1
    assert "a\\|b c \\\\ \\<script>alert(1)\\</script> \\`x\\` \\*y\\* \\[z\\](w)" in rows[2]
    assert "<script>" not in md.replace("\\<script>", "")
    tex = (tmp_path / "report" / "roadmap.tex").read_text("utf-8")
    table = tex[tex.index(r"\midrule") : tex.index(r"\bottomrule")].splitlines()
    assert len(table) == 3 and all(
        line.endswith(r"\\") and line.count(" & ") == table[1].count(" & ") for line in table[1:]
    )
    assert all(line.startswith("%") for line in tex[: tex.index(r"\begin{tabular}")].splitlines())
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


def test_a_device_without_a_name_is_not_in_the_notes(tmp_path: Path) -> None:
    write_run(tmp_path, 80.0, "+step=baseline")
    write_run(tmp_path, None, "+step=gelu", status="failed", error="x", device={"name": "", "precision": ""})
    study = read_study(tmp_path / RUNS_FOLDER)
    assert "Trained on a processor, fp32." in notes(study)
