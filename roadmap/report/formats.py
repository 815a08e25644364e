"""Tables as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Container

import pandas as pd

from roadmap.config.names import one_line
from roadmap.report.columns import TEXT_HEADERS

TEX_SIGNS = {
    "\\": r"\textbackslash{}",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "…": r"\ldots{}",
}
# Characters with a meaning in Markdown. An escaped `<` does not begin an HTML element.
MARKDOWN_SIGNS = str.maketrans({sign: f"\\{sign}" for sign in "\\`*<[]~$"})


def markdown(table: pd.DataFrame, notes: list[str], text_headers: Container[str] = TEXT_HEADERS) -> str:
    """Return a table of text cells as Markdown, and a paragraph for each note.

    Columns in `text_headers` are aligned to the left, all others to the right.
    """
    alignment = [":---" if header in text_headers else "---:" for header in table.columns]
    lines = [list(table.columns), alignment, *table.to_numpy().tolist()]
    rows = ["| " + " | ".join(_escape_markdown(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join(rows) + "\n\n" + "\n\n".join(map(_escape_markdown, notes)) + "\n"


def _escape_markdown(text: str) -> str:
    return one_line(text).translate(MARKDOWN_SIGNS)


def latex(table: pd.DataFrame, notes: list[str]) -> str:
    """Return a table of text cells as LaTeX, with the notes as comments. It needs `\\usepackage{booktabs}`."""
    alignment = "".join("l" if header in TEXT_HEADERS else "r" for header in table.columns)
    headers = [_escape_tex(header) for header in table.columns]
    comments = "".join(f"% {one_line(note)}\n" for note in notes)
    cells = table.map(_escape_tex)
    return comments + str(cells.to_latex(index=False, header=headers, column_format=alignment, escape=False))


def _escape_tex(text: str) -> str:
    return "".join(TEX_SIGNS.get(sign, sign) for sign in one_line(text))
