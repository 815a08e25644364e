"""LaTeX compiles the report's table."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from roadmap.report.writer import write_report
from tests.helpers import make_study, write_run

DOCUMENT = r"\documentclass{article}\usepackage{booktabs}\begin{document}\small\input{roadmap}\end{document}"


def test_the_table_compiles(tmp_path: Path) -> None:
    booktabs = shutil.which("kpsewhich") and subprocess.run(
        ["kpsewhich", "booktabs.sty"], capture_output=True, check=False
    )
    if not shutil.which("pdflatex") or not booktabs or booktabs.returncode:
        pytest.skip("pdflatex or booktabs is not installed (Debian: texlive-latex-base, texlive-latex-recommended)")
    study = make_study(tmp_path)
    write_run(tmp_path, 90.0, "+step=gelu", "network.drop_path=0.1")  # a label with an underscore
    write_run(tmp_path, 91.0, "+step=gelu")
    write_report(study, tmp_path)
    (tmp_path / "paper.tex").write_text(DOCUMENT, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:]
    assert "Warning" not in result.stdout
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF-")
