"""Tables as Markdown and LaTeX."""

from __future__ import annotations

import pandas as pd

from roadmap.report.columns import TEXT_COLUMNS


def markdown(shown: pd.DataFrame, said: list[str]) -> str:
    lines = [list(shown.columns), [":---" if name in TEXT_COLUMNS else "---:" for name in shown.columns]]
    lines += shown.to_numpy().tolist()
    rows = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join(rows) + "\n\n" + "\n\n".join(said) + "\n"


def latex(shown: pd.DataFrame, said: list[str]) -> str:
    """A booktabs table; `\\usepackage{booktabs}` is all that it needs."""
    form = "".join("l" if name in TEXT_COLUMNS else "r" for name in shown.columns)
    columns = [_tex(name) for name in shown.columns]
    body = shown.map(_tex)
    comments = "".join(f"% {line}\n" for line in said)
    return comments + str(body.to_latex(index=False, header=columns, column_format=form, escape=False))


def _tex(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "%": r"\%", "&": r"\&", "#": r"\#", "_": r"\_", "→": r"$\rightarrow$"}
    signs |= {
        "±": r"$\pm$",
        "–": "--",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    return "".join(signs.get(sign, sign) for sign in text)
