"""Diagrams of a block, or of a chain of layers, before and after a change: positions of shapes and texts.

The layers are drawn from top to bottom. The width of a shape is proportional to its channels, with one scale for both
diagrams.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import SequenceMatcher

from roadmap.models.structure import Block, Layer

WIDTH = 360.0  # of a diagram, in CSS pixels
SHORTCUT_X, CENTRE_X, MAX_SHAPE_WIDTH, TEXT_X = 10.0, 92.0, 132.0, 172.0
LINE_HEIGHT = 17.0  # of text
SHAPE_HEIGHTS = {"conv": 26.0, "linear": 26.0, "pool": 20.0, "mean": 20.0}  # by kind of layer
SMALL_SHAPE_HEIGHT = 10.0  # of all other kinds
DEPTHWISE_BARS = 9
ADDED, REMOVED, MOVED, CHANGED = "new", "removed", "moved", "changed"

Span = tuple[str, str]  # a piece of text and its CSS class


@dataclass(frozen=True)
class LayerChain:
    """Layers one after another, optionally followed by a block."""

    layers: list[Layer]
    block: Block | None = None

    @property
    def path(self) -> list[Layer]:
        """The layers and the block's main path, in order."""
        return self.layers + (self.block.branch + self.block.after if self.block else [])

    @property
    def shortcut(self) -> list[Layer]:
        """The layers of the block's shortcut."""
        return self.block.shortcut if self.block else []


@dataclass
class Diagram:
    """A finished diagram."""

    description: str  # for screen readers
    height: float = 0.0
    shapes: list[tuple[str, str]] = field(default_factory=list)  # SVG path data, CSS class
    texts: list[tuple[float, list[Span]]] = field(default_factory=list)  # y and the text


@dataclass(frozen=True)
class Mark:
    """What a change does to a layer; `other` is the corresponding layer in the other diagram."""

    change: str = ""
    other: Layer | None = None

    def differs(self, layer: Layer, attribute: str) -> bool:
        """Return whether the corresponding layer has another value of `attribute`."""
        return self.other is not None and getattr(self.other, attribute) != getattr(layer, attribute)


def draw_diagrams(before: LayerChain | None, after: LayerChain) -> list[Diagram]:
    """Return the diagrams of both chains, or of `after` alone."""
    if before is None:
        unmarked = [Mark()] * len(after.path), [Mark()] * len(after.shortcut)
        return [_draw(after, *unmarked, _max_width(after), is_before=False)]
    before_marks, after_marks = match_layers(before.path, after.path)
    before_shortcut, after_shortcut = match_layers(before.shortcut, after.shortcut)
    max_width = max(_max_width(before), _max_width(after))
    return [
        _draw(before, before_marks, before_shortcut, max_width, is_before=True),
        _draw(after, after_marks, after_shortcut, max_width, is_before=False),
    ]


def match_layers(before: list[Layer], after: list[Layer]) -> tuple[list[Mark], list[Mark]]:
    """Return the marks of both lists of layers. Layers correspond if they have the same name and the same order."""
    before_names, after_names = [layer.name for layer in before], [layer.name for layer in after]
    before_marks = [Mark(MOVED if name in after_names else REMOVED) for name in before_names]
    after_marks = [Mark(MOVED if name in before_names else ADDED) for name in after_names]
    for match in SequenceMatcher(None, before_names, after_names, autojunk=False).get_matching_blocks():
        for offset in range(match.size):
            i, j = match.a + offset, match.b + offset
            same = (before[i].title, before[i].detail) == (after[j].title, after[j].detail)
            before_marks[i] = Mark("" if same else CHANGED, after[j])
            after_marks[j] = Mark("" if same else CHANGED, before[i])
    return before_marks, after_marks


def _max_width(chain: LayerChain) -> int:
    return max(max(layer.w_in, layer.w_out) for layer in chain.path)


def _draw(
    chain: LayerChain, marks: list[Mark], shortcut_marks: list[Mark], max_width: int, *, is_before: bool
) -> Diagram:
    canvas = _Canvas(max_width, is_before)
    canvas.draw_channels("in", chain.path[0].w_in)
    branch_end = len(chain.layers) + (len(chain.block.branch) if chain.block else 0)
    for i, (layer, mark) in enumerate(zip(chain.path, marks, strict=True)):
        if chain.block and i == len(chain.layers):
            canvas.begin_shortcut()
        if chain.block and i == branch_end:
            canvas.add_shortcut(chain.shortcut, shortcut_marks)
        canvas.draw_layer(layer, mark)
    if chain.block and branch_end == len(chain.path):
        canvas.add_shortcut(chain.shortcut, shortcut_marks)
    canvas.draw_channels("out", chain.path[-1].w_out, "class" if chain.path[-1].kind == "linear" else "channel")
    description = _describe(chain, marks, shortcut_marks, is_before)
    return Diagram(description, canvas.y + 16, canvas.shapes, canvas.texts)


class _Canvas:
    """Adds shapes and texts from top to bottom; `y` is the current position."""

    def __init__(self, max_width: int, is_before: bool) -> None:
        self.y = 4.0
        self.scale, self.is_before = MAX_SHAPE_WIDTH / max_width, is_before
        self.shapes: list[tuple[str, str]] = []
        self.texts: list[tuple[float, list[Span]]] = []

    def draw_channels(self, prefix: str, channels: int, noun: str = "channel") -> None:
        """Write the number of channels at the begin or end."""
        plural = ("es" if noun == "class" else "s") * (channels > 1)
        self.texts.append((self.y + 12, [(f"{prefix}: {channels:,} {noun}{plural}", "faint")]))
        if prefix == "in":
            self._move_down(20)

    def draw_layer(self, layer: Layer, mark: Mark) -> None:
        """Draw the shape of a layer with its text."""
        lines = _text_lines(layer, mark, self.is_before)
        shape_height = SHAPE_HEIGHTS.get(layer.kind, SMALL_SHAPE_HEIGHT)
        height = max(shape_height, LINE_HEIGHT * len(lines))
        top = self.y + (height - shape_height) / 2
        self._move_down(height)
        state = self._state(bool(mark.change))
        outline = self._outline(layer, top, shape_height)
        if layer.depthwise:
            self.shapes.append((self._bars(layer, top, shape_height), "depthwise"))
            self.shapes.append((outline, f"frame {state}".strip()))
        else:
            self.shapes.append((outline, f"{layer.kind} {state}".strip()))
        first_line = self.y - height / 2 - LINE_HEIGHT * (len(lines) - 1) / 2 + 4.5
        self.texts += [(first_line + LINE_HEIGHT * i, line) for i, line in enumerate(lines)]
        self._move_down(9)

    def begin_shortcut(self) -> None:
        """Remember where the shortcut begins."""
        self.shortcut_top = self.y
        self._move_down(10)

    def add_shortcut(self, shortcut: list[Layer], marks: list[Mark]) -> None:
        """Draw the shortcut up to here, the sum, and the text of the shortcut's layers."""
        lines: list[list[Span]] = [[("add the shortcut:" if shortcut else "add the input", "")]]
        for layer, mark in zip(shortcut, marks, strict=True):
            lines += _text_lines(layer, mark, self.is_before)
        y = self.y + 9
        line = f"M{CENTRE_X:g} {self.shortcut_top:g}H{SHORTCUT_X:g}V{y:g}H{CENTRE_X - 8:g}"
        self.shapes.insert(0, (line, "flow"))
        if shortcut:
            middle, state = (self.shortcut_top + y) / 2, self._state(any(mark.change for mark in marks))
            box = f"M{SHORTCUT_X - 6:g} {middle - 14:g}h12v28h-12z"
            self.shapes.append((box, f"conv {state}".strip()))
        circle = f"M{CENTRE_X - 8:g} {y:g}a8 8 0 1 0 16 0a8 8 0 1 0 -16 0"
        plus = f"M{CENTRE_X - 4:g} {y:g}h8M{CENTRE_X:g} {y - 4:g}v8"
        self.shapes.append((circle + plus, "sum"))
        self.texts += [(y + 4.5 + LINE_HEIGHT * i, line) for i, line in enumerate(lines)]
        self.y += 18
        self._move_down(max(9.0, LINE_HEIGHT * len(lines) - 8))

    def _state(self, changed: bool) -> str:
        return ("before" if self.is_before else "after") if changed else ""

    def _outline(self, layer: Layer, top: float, height: float) -> str:
        """Return a trapezoid from the input channels to the output channels."""
        a, b = self._half_width(layer.w_in), self._half_width(layer.w_out)
        corners = [
            (CENTRE_X - a, top),
            (CENTRE_X + a, top),
            (CENTRE_X + b, top + height),
            (CENTRE_X - b, top + height),
        ]
        return "M" + "L".join(f"{x:.2f} {y:g}" for x, y in corners) + "z"

    def _bars(self, layer: Layer, top: float, height: float) -> str:
        """Return separate bars, for channels that are not mixed."""
        spacing = 2 * self._half_width(layer.w_in) / DEPTHWISE_BARS
        bar = f"h{0.6 * spacing:.2f}v{height:g}h{-0.6 * spacing:.2f}z"
        left = CENTRE_X - self._half_width(layer.w_in)
        return "".join(f"M{left + (i + 0.2) * spacing:.2f} {top:g}{bar}" for i in range(DEPTHWISE_BARS))

    def _half_width(self, channels: int) -> float:
        return max(6.0, self.scale * channels) / 2

    def _move_down(self, height: float) -> None:
        self.shapes.insert(0, (f"M{CENTRE_X:g} {self.y:g}v{height:g}", "flow"))
        self.y += height


def _text_lines(layer: Layer, mark: Mark, is_before: bool) -> list[list[Span]]:
    """Return the text beside a layer. Class `after`: new or changed; class `before`: removed."""
    tag = mark.change if mark.change in (ADDED, REMOVED, MOVED) else ""

    def css_class(attribute: str, default: str = "") -> str:
        return "after" if not is_before and mark.differs(layer, attribute) else default

    title_class = "before" if tag == REMOVED else "after" if tag and not is_before else css_class("title")
    lines = [[(layer.title, title_class)]]
    if layer.widths or layer.detail:
        lines.append([(layer.widths, css_class("widths", "faint"))] if layer.widths else [])
    if layer.detail:
        separator = ", " if layer.widths else ""
        lines[1].append((separator + layer.detail, css_class("detail", "faint")))
    if tag:
        lines[-1].append((f" {tag}", "tag" if is_before else "after tag"))
    return lines


def _describe(chain: LayerChain, marks: list[Mark], shortcut_marks: list[Mark], is_before: bool) -> str:
    """Return the diagram as a sentence."""

    def describe_layers(layers: list[Layer], layer_marks: list[Mark]) -> list[str]:
        return [
            layer.description + (f" ({mark.change})" if mark.change else "")
            for layer, mark in zip(layers, layer_marks, strict=True)
        ]

    parts = describe_layers(chain.path, marks)
    if chain.block:
        shortcut = "; ".join(describe_layers(chain.shortcut, shortcut_marks))
        parts.insert(
            len(chain.layers) + len(chain.block.branch),
            f"add the shortcut ({shortcut})" if shortcut else "add the input",
        )
        parts.insert(len(chain.layers), "the shortcut begins")
    return f"{'Before' if is_before else 'After'}, from top to bottom: {'; '.join(parts)}."
