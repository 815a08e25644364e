"""The drawing of a block, or of any chain of layers, before and after a change: where its shapes and words stand.

From top to bottom; a shape is as wide as it has channels, on one scale for both drawings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import SequenceMatcher

from roadmap.models.structure import Block, Layer

WIDTH = 360.0  # of a drawing, in CSS pixels
RAIL, CENTRE, SPAN, WORDS = 10.0, 92.0, 132.0, 172.0  # x of the shortcut, of the shapes, their widest, x of the words
LINE = 17.0  # of text
NEW, GONE, MOVED, CHANGED = "new", "gone", "moved", "changed"


@dataclass(frozen=True)
class LayerChain:
    """Layers one after another, then perhaps a block."""

    layers: list[Layer]
    block: Block | None = None

    @property
    def path(self) -> list[Layer]:
        return self.layers + (self.block.branch + self.block.after if self.block else [])

    @property
    def shortcut(self) -> list[Layer]:
        return self.block.shortcut if self.block else []


@dataclass
class Diagram:
    said: str  # the drawing in words
    height: float = 0.0
    shapes: list[tuple[str, str]] = field(default_factory=list)  # SVG path data, class
    texts: list[tuple[float, list[tuple[str, str]]]] = field(default_factory=list)  # y, words with their class


@dataclass(frozen=True)
class Mark:
    """What a change does to a layer; `other` is the layer in its place in the other drawing."""

    change: str = ""
    other: Layer | None = None

    def differs(self, layer: Layer, what: str) -> bool:
        return self.other is not None and getattr(self.other, what) != getattr(layer, what)


def draw_diagrams(before: LayerChain | None, after: LayerChain) -> list[Diagram]:
    """The drawings of both, or of `after` alone."""
    if before is None:
        nothing = [Mark()] * len(after.path), [Mark()] * len(after.shortcut)
        return [_draw(after, *nothing, _widest(after), old=False)]
    old, new = match_layers(before.path, after.path)
    old_short, new_short = match_layers(before.shortcut, after.shortcut)
    widest = max(_widest(before), _widest(after))
    return [_draw(before, old, old_short, widest, old=True), _draw(after, new, new_short, widest, old=False)]


def match_layers(before: list[Layer], after: list[Layer]) -> tuple[list[Mark], list[Mark]]:
    """What became of each layer of `before`, and what each of `after` was."""
    names, others = [layer.name for layer in before], [layer.name for layer in after]
    old = [Mark(MOVED if name in others else GONE) for name in names]
    new = [Mark(MOVED if name in names else NEW) for name in others]
    for block in SequenceMatcher(None, names, others, autojunk=False).get_matching_blocks():
        for i, j in zip(range(block.a, block.a + block.size), range(block.b, block.b + block.size), strict=True):
            here, there = before[i], after[j]
            same = (here.title, here.detail) == (there.title, there.detail)
            old[i], new[j] = Mark("" if same else CHANGED, there), Mark("" if same else CHANGED, here)
    return old, new


def _widest(chain: LayerChain) -> int:
    return max(max(layer.w_in, layer.w_out) for layer in chain.path)


def _draw(chain: LayerChain, marks: list[Mark], shortcut_marks: list[Mark], widest: int, *, old: bool) -> Diagram:
    sketch, pen = Diagram(_words(chain, marks, shortcut_marks, old)), _Canvas(widest, old)
    sketch.shapes, sketch.texts = pen.shapes, pen.texts
    pen.end("in", chain.path[0].w_in)
    last = len(chain.layers) + (len(chain.block.branch) if chain.block else 0)
    for i, (layer, mark) in enumerate(zip(chain.path, marks, strict=True)):
        if chain.block and i == len(chain.layers):
            pen.split()
        if chain.block and i == last:
            pen.add(chain.shortcut, shortcut_marks)
        pen.layer(layer, mark)
    if chain.block and last == len(chain.path):
        pen.add(chain.shortcut, shortcut_marks)
    pen.end("out", chain.path[-1].w_out, "class" if chain.path[-1].kind == "linear" else "channel")
    sketch.height = pen.y + 16
    return sketch


class _Canvas:
    """Goes down the page, shape by shape."""

    def __init__(self, widest: int, old: bool) -> None:
        self.y = 4.0
        self.scale, self.old = SPAN / widest, old
        self.shapes: list[tuple[str, str]] = []
        self.texts: list[tuple[float, list[tuple[str, str]]]] = []

    def end(self, word: str, channels: int, what: str = "channel") -> None:
        plural = ("es" if what == "class" else "s") * (channels > 1)
        self.texts.append((self.y + 12, [(f"{word}: {channels:,} {what}{plural}", "faint")]))
        if word == "in":
            self._flow(20)

    def layer(self, layer: Layer, mark: Mark) -> None:
        lines = _lines(layer, mark, self.old)
        high = {"conv": 26.0, "linear": 26.0, "pool": 20.0, "mean": 20.0}.get(layer.kind, 10.0)
        height = max(high, LINE * len(lines))
        top = self.y + (height - high) / 2
        self._flow(height)
        state = ("old" if self.old else "hot") if mark.change else ""
        shape = self._shape(layer, top, high)
        if layer.depthwise:
            self.shapes.append((self._bars(layer, top, high), "depthwise"))
            self.shapes.append((shape, f"frame {state}".strip()))
        else:
            self.shapes.append((shape, f"{layer.kind} {state}".strip()))
        middle = self.y - height / 2 - LINE * (len(lines) - 1) / 2 + 4.5
        self.texts += [(middle + LINE * i, line) for i, line in enumerate(lines)]
        self._flow(9)

    def _shape(self, layer: Layer, top: float, high: float) -> str:
        a, b = self._half(layer.w_in), self._half(layer.w_out)
        ends = [(CENTRE - a, top), (CENTRE + a, top), (CENTRE + b, top + high), (CENTRE - b, top + high)]
        return "M" + "L".join(f"{x:.2f} {y:g}" for x, y in ends) + "z"

    def _bars(self, layer: Layer, top: float, high: float, bars: int = 9) -> str:
        """Channels that do not see one another."""
        step = 2 * self._half(layer.w_in) / bars
        bar = f"h{0.6 * step:.2f}v{high:g}h{-0.6 * step:.2f}z"
        left = CENTRE - self._half(layer.w_in)
        return "".join(f"M{left + (i + 0.2) * step:.2f} {top:g}{bar}" for i in range(bars))

    def _half(self, channels: int) -> float:
        return max(6.0, self.scale * channels) / 2

    def split(self) -> None:
        """Where the shortcut leaves."""
        self.left_at = self.y
        self._flow(10)

    def add(self, shortcut: list[Layer], marks: list[Mark]) -> None:
        """Where the shortcut comes back; what it holds stands beside."""
        gone = any(mark.change for mark in marks)
        lines: list[list[tuple[str, str]]] = [[("add the shortcut:" if shortcut else "add the input", "")]]
        for layer, mark in zip(shortcut, marks, strict=True):
            lines += _lines(layer, mark, self.old)
        y = self.y + 9
        rail = f"M{CENTRE:g} {self.left_at:g}H{RAIL:g}V{y:g}H{CENTRE - 8:g}"
        self.shapes.insert(0, (rail, "flow"))
        if shortcut:
            middle, state = (self.left_at + y) / 2, ("old" if self.old else "hot") if gone else ""
            box = f"M{RAIL - 6:g} {middle - 14:g}h12v28h-12z"
            self.shapes.append((box, f"conv {state}".strip()))
        circle = f"M{CENTRE - 8:g} {y:g}a8 8 0 1 0 16 0a8 8 0 1 0 -16 0M{CENTRE - 4:g} {y:g}h8M{CENTRE:g} {y - 4:g}v8"
        self.shapes.append((circle, "sum"))
        self.texts += [(y + 4.5 + LINE * i, line) for i, line in enumerate(lines)]
        self.y += 18
        self._flow(max(9.0, LINE * len(lines) - 8))

    def _flow(self, height: float) -> None:
        self.shapes.insert(0, (f"M{CENTRE:g} {self.y:g}v{height:g}", "flow"))
        self.y += height


def _lines(layer: Layer, mark: Mark, old: bool) -> list[list[tuple[str, str]]]:
    """The words beside a layer; of class hot what is new, of class old what goes."""
    tag = mark.change if mark.change in (NEW, GONE, MOVED) else ""

    def loud(what: str, otherwise: str = "") -> str:
        return "hot" if not old and mark.differs(layer, what) else otherwise

    lines = [[(layer.title, "old" if tag == GONE else "hot" if tag and not old else loud("title"))]]
    if layer.widths or layer.detail:
        lines.append([(layer.widths, loud("widths", "faint"))] if layer.widths else [])
    if layer.detail:
        lines[1].append(((", " if layer.widths else "") + layer.detail, loud("detail", "faint")))
    if tag:
        lines[-1].append((f" {tag}", "tag" if old else "hot tag"))
    return lines


def _words(chain: LayerChain, marks: list[Mark], shortcut_marks: list[Mark], old: bool) -> str:
    def word(layer: Layer, mark: Mark) -> str:
        return layer.words + (f" ({mark.change})" if mark.change else "")

    words = [word(layer, mark) for layer, mark in zip(chain.path, marks, strict=True)]
    if chain.block:
        held = [word(layer, mark) for layer, mark in zip(chain.shortcut, shortcut_marks, strict=True)]
        added = f"add the shortcut ({'; '.join(held)})" if held else "add the input"
        words.insert(len(chain.layers) + len(chain.block.branch), added)
        words.insert(len(chain.layers), "the shortcut leaves")
    return f"{'Before' if old else 'After'}, from top to bottom: {'; '.join(words)}."
