"""Diagrams of blocks before and after a change."""

from __future__ import annotations

from typing import Any

from roadmap.config.compose import compose_network
from roadmap.config.schema import RunSpec
from roadmap.models.inspection import structure_of_config
from roadmap.models.structure import Structure
from roadmap.records.record import config_of
from roadmap.report import diagrams


def structure(step: str, **fields: Any) -> Structure:
    spec = RunSpec(network=compose_network(step, "resnet50", **fields))
    result = structure_of_config(config_of(spec)["network"])
    assert result is not None
    return result


def block_marks(before: str, after: str) -> tuple[dict[str, str], dict[str, str]]:
    """The changes of the layers of a block, by title and widths, in both diagrams."""
    old, new = (structure(step).stages[2].blocks[-1].branch for step in (before, after))
    first, second = (
        {f"{layer.title} {layer.widths}": mark.change for layer, mark in zip(layers, marks, strict=True) if mark.change}
        for layers, marks in zip((old, new), diagrams.match_layers(old, new), strict=True)
    )
    return first, second


def test_changes_are_marked() -> None:
    assert block_marks("move_up_depthwise", "large_kernel") == (
        {"3×3 depthwise conv 384 → 384": "changed"}, {"7×7 depthwise conv 384 → 384": "changed"},
    )  # fmt: skip
    old, new = block_marks("inverted_bottleneck", "move_up_depthwise")
    assert old["3×3 depthwise conv 1,536 → 1,536"] == new["3×3 depthwise conv 384 → 384"] == "moved"
    assert set(block_marks("gelu", "fewer_activations")[0].values()) == {"removed"}
    assert list(block_marks("fewer_activations", "fewer_norms")[1]) == [
        "BatchNorm ", "1×1 conv 384 → 1,536", "1×1 conv 1,536 → 384",
    ]  # fmt: skip


def test_a_diagram_has_a_description() -> None:
    chains = [
        diagrams.LayerChain(body.stages[1].downsample, body.stages[1].blocks[0])
        for body in map(structure, ("layer_norm", "separate_downsampling"))
    ]
    before, after = diagrams.draw_diagrams(*chains)
    assert before.description.startswith(
        "Before, from top to bottom: the shortcut begins; 7×7 depthwise conv 96 → 96, stride 2, bias (changed); "
    )
    shortcut = "add the shortcut (1×1 conv 96 → 192, stride 2, bias (removed); LayerNorm (removed))"
    assert shortcut in before.description
    assert after.description.startswith(
        "After, from top to bottom: LayerNorm (new); 2×2 conv 96 → 192, stride 2, bias (new); the shortcut begins; "
    )
    assert after.description.endswith("; add the input.")
    heights = [y for y, _ in after.texts]
    assert heights == sorted(heights) and heights[-1] < after.height
