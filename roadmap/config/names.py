"""Names that the user chooses: of studies, of YAML files, and labels."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

STUDY_RULE = "must be 1 to 64 ASCII letters, digits, '_', '-' or '.', and start with a letter or a digit"
FILE_RULE = "the name of the file must be 1 to 64 ASCII letters, digits, '_' or '-'"
LABEL_RULE = "must be 1 to 80 printable characters in one line"


def is_study_name(name: str) -> bool:
    """Return whether `name` can be the name of a study, which is also the name of two folders."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name) is not None


def is_file_name(name: str) -> bool:
    """Return whether `name` can be the name of a YAML file, without its ending."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) is not None


def is_label(text: str) -> bool:
    """Return whether `text` can be the label of a transform."""
    return 1 <= len(text) <= 80 and text.isprintable() and bool(text.strip())


def one_line(text: object) -> str:
    """Return the text in one line, with single spaces instead of line breaks, tabs and other characters that cannot be
    printed. Such characters could break a table or the terminal."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())


def printable(text: str, longest: int = 1000) -> str:
    """Return `text` with escapes for control characters, such as \\n for a new line; at most `longest` characters."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return escaped if len(escaped) <= longest else f"{escaped[: longest - 4]} ..."


def suggest(name: str, known: Sequence[str]) -> str:
    """Return a hint: the most similar of the known names, or all of them."""
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"use one of {', '.join(known)}"
