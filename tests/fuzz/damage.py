"""Strategies that damage a file: its bytes, its JSON values, or the file itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

JUNK: list[Any] = [
    None, True, False, 0, -1, 3, 1e308, 2**70, "", "x", "é\n|<b>", "../..", [], [[]], {}, {"a": 1}, [None], ["x"],
    "NaN", "completed", "failed", "gelu", "\x1b[31m", "x" * 2000,
]  # fmt: skip
BYTES = [
    b"", b"\xff\xfe", b"\0" * 100, b"[" * 20000, b"{}", b"[]", b"null", b"1", b'"x"', b"\n", b"\t", b"a: b: c", b"- x",
    b"!!python/object/apply:os.system [x]", b"\x93NUMPY\x01\x00", b"&a [*a]", b"defaults: [nope]\n", b"NaN", b"GIF89a",
    b"%",
]  # fmt: skip


class Damage(NamedTuple):
    """A change of a file; `text` describes it."""

    text: str
    apply: Callable[[Path], object]

    def __repr__(self) -> str:
        return self.text


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every entry of nested containers."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *places(item, (*path, key))]]


@st.composite
def json_damage(draw: st.DrawFn) -> Damage:
    """Replace or delete one or two entries of a JSON file; half of them are at the top level."""
    change = st.tuples(st.integers(0, 400), st.booleans(), st.sampled_from(["delete", *JUNK]))
    changes = draw(st.lists(change, min_size=1, max_size=2))

    def apply(path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        for number, top, junk in changes:
            every = [place for place in places(content) if not top or len(place) == 1]
            if not every:
                continue
            *parents, key = every[number % len(every)]
            container = content
            for parent in parents:
                container = container[parent]
            if junk == "delete":
                del container[key]
            else:
                container[key] = junk
        path.write_text(json.dumps(content), encoding="utf-8")

    return Damage(f"json {changes}", apply)


@st.composite
def byte_damage(draw: st.DrawFn) -> Damage:
    """Truncate a file, flip a bit, insert or remove bytes, or replace its whole content."""
    kind = draw(st.sampled_from(["truncate", "flip", "insert", "remove", "replace"]))
    at = draw(st.sampled_from([0, 1, 2, 5, 10, 20, 30, 45, 60, 75, 90, 99, 100]))  # percent of the file
    other = draw(st.one_of(st.sampled_from(BYTES), st.binary(min_size=1, max_size=20)))

    def apply(path: Path) -> None:
        raw = path.read_bytes()
        i = min(at * len(raw) // 100, max(len(raw) - 1, 0))
        if kind == "truncate":
            content = raw[:i]
        elif kind == "flip":
            content = raw[:i] + bytes(byte ^ (1 << len(other) % 8) for byte in raw[i : i + 1]) + raw[i + 1 :]
        elif kind == "insert":
            content = raw[:i] + other + raw[i:]
        elif kind == "remove":
            content = raw[:i] + raw[i + len(other) :]
        else:
            content = other
        path.unlink()  # not in place: another name can be a hard link to the same file
        path.write_bytes(content)

    return Damage(f"{kind} at {at} % {other[:40]!r}", apply)


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.unlink()
        make(path)

    return apply


FILE_DAMAGES = [
    Damage("missing", Path.unlink),
    Damage("a folder", _instead(Path.mkdir)),
    Damage("a dangling link", _instead(lambda path: path.symlink_to("nowhere"))),
    Damage("a loop of links", _instead(lambda path: path.symlink_to(path.name))),
    Damage("a link to /dev/null", _instead(lambda path: path.symlink_to("/dev/null"))),
    Damage("empty", _instead(Path.touch)),
]
any_damage = st.one_of(byte_damage(), byte_damage(), st.sampled_from(FILE_DAMAGES))
record_damage = st.one_of(json_damage(), json_damage(), byte_damage(), st.sampled_from(FILE_DAMAGES))
