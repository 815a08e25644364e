"""The report of a search (`+study=search`): what it says, its candidates and the front of accuracy against cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from roadmap.analysis.comparison import Gain, GainKey
from roadmap.analysis.statistics import GAIN, LOSS, Comparison
from roadmap.analysis.table import Row, Study
from roadmap.config.schema import SpecError
from roadmap.report.columns import format_interval
from roadmap.runtime.files import write_atomically

RESULT_NAME = "search.json"  # in the study's folder
CANDIDATES_NAME, FIGURE_NAME = "candidates.csv", "front"
NOT_COMPARED = "not compared (beyond a bound on the cost, impossible or not completed)"
FOUND_PATH = Path("conf/roadmap/found.yaml")  # in the folder of the report
WITHOUT = "without"  # the label of the other network, in a comparison of a network with a transform
FOUND, ENDS = "found network", {"start": "start of the search", "full": "last step"}  # labels


def read_search(study: Study, folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the result of the search in the study's folder, and its sentences; None if the study is no search.

    Raises SpecError for a damaged file.
    """
    path = folder / RESULT_NAME
    if not path.exists():
        return None, []
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = content["roadmap"].encode(), content["max_macs"] / 1
        return content, search_sentences(study, content)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SpecError(f"{path}: cannot be used; the command of the search writes it again") from error


def candidates_table(result: dict[str, Any]) -> pd.DataFrame:
    """Return a line for each candidate of the race, the winner first.

    Columns: transforms, label, mmacs (10^6 multiply-adds per image), seeds, top1_mean (of the race's seeds, percent),
    estimate (percent; between this mean and what similar candidates reach), in_race, failed (a run has no result),
    on_front (whether no candidate with at most its cost has a higher estimate; never one that failed).
    """
    table = pd.DataFrame(
        {
            "transforms": " ".join(line["transforms"]),
            "label": line["label"],
            "mmacs": line["mmacs"],
            "seeds": len(line["top1"]),
            "top1_mean": np.mean(line["top1"]),
            "estimate": line["estimate"],
            "in_race": line["in_race"],
            "failed": line["failed"],
        }
        for line in result["candidates"]
    )
    by_cost = table[~table["failed"]].sort_values(["mmacs", "estimate"], ascending=[True, False])
    on_front = by_cost["estimate"] > by_cost["estimate"].cummax().shift(fill_value=-np.inf)
    return table.assign(on_front=on_front.reindex(table.index, fill_value=False))


def search_sentences(study: Study, result: dict[str, Any]) -> list[str]:
    """Return which transforms to take, how the found network compares with both ends, and what the selection cost."""
    lines = [_conclusion(study, result), *_ends(study, result)]
    front = candidates_table(result).query("on_front").sort_values("mmacs")
    points = ", ".join(f"{line.label} ({line.mmacs:.3g} MMACs, {line.estimate:.2f} %)" for line in front.itertuples())
    lines.append(f"Front of estimated held-out top-1 against multiply-adds, not confirmed on the test set: {points}.")
    lines.append(
        f"The found roadmap is {FOUND_PATH.as_posix()}, beside this report. This command trains its steps:"
        f" {result['command']}"
    )
    return lines


class _Change(NamedTuple):
    """A transform, and the network that is one change away from the found network."""

    label: str
    changed: frozenset[str]  # the transform, and if the networks are compared, those that change together with it
    is_in_found: bool
    comparison: Comparison | None  # of that network with the found one; None if they are not compared


def search_gains(study: Study, result: dict[str, Any]) -> dict[GainKey, Gain]:
    """Return the gain of each transform, and of the found network over both ends, in percentage points.

    The gain of a transform is that of the network with it over the network without it. One of the two is the found
    network. Networks that are not compared are left out. The key of a transform is (the transforms that change, none,
    ""), that of an end is (none, the transforms of the end, ""), so that searches that found different networks have
    keys in common.
    """
    gains: dict[GainKey, Gain] = {}
    for change in _single_changes(study, result):
        if change.comparison is not None:
            gain = _reversed(change.comparison) if change.is_in_found else change.comparison
            gains[change.changed, frozenset(), ""] = Gain(f"with {change.label}", WITHOUT, gain)
    for key, name in ENDS.items():
        end = _row(study, result[key])
        if end is not None and end[1] is not None and end[1].n:
            gains[frozenset(), frozenset(result[key]), ""] = Gain(f"{FOUND} over the {name}", name, _reversed(end[1]))
    return gains


def _single_changes(study: Study, result: dict[str, Any]) -> Iterator[_Change]:
    """Yield for each transform of the search what its single change does to the found network."""
    winner, roadmap = frozenset(result["candidates"][0]["transforms"]), study.roadmap
    least = result.get("min_images_per_second")  # an earlier search.json does not have it
    for name, network in result["changes"].items():
        row, comparison = (None, None) if network is None else _row(study, network) or (None, None)
        label, changed = roadmap.transforms[name].label, frozenset({name})
        if row is None or comparison is None or not comparison.n or _is_slow(row, least):
            comparison = None
        else:
            changed |= frozenset(row.transforms) ^ winner
            others = roadmap.sort(changed - {name})
            label += f" (together with {roadmap.joined_labels(others)})" if others else ""
        yield _Change(label, changed, name in winner, comparison)


def _reversed(comparison: Comparison) -> Comparison:
    """Return the comparison with both networks exchanged."""
    return replace(
        comparison,
        delta=0.0 - comparison.delta,
        low=0.0 - comparison.high,
        high=0.0 - comparison.low,
        verdict={LOSS: GAIN, GAIN: LOSS}.get(comparison.verdict, comparison.verdict),
    )


def found_network(result: dict[str, Any]) -> str:
    """Return the label of the found network, and its 10^6 multiply-adds per image."""
    best = result["candidates"][0]
    return f"{best['label']}, {best['mmacs']:.3g} MMACs"


def _row(study: Study, transforms: Sequence[str]) -> tuple[Row, Comparison | None] | None:
    """Return the network of these transforms, and its comparison with the found network."""
    for row, comparison in zip(study.rows, study.comparisons, strict=True):
        if set(row.transforms) == set(transforms):
            return row, comparison
    return None


def _is_slow(row: Row, least: float | None) -> bool:
    """Return whether a run is below the bound on the throughput."""
    return least is not None and any((record["images_per_second"] or 0) < least for record in row.completed)


def _conclusion(study: Study, result: dict[str, Any]) -> str:
    groups: dict[str, list[str]] = {"take": [], "leave out": [], "not resolved": [], NOT_COMPARED: []}
    for change in _single_changes(study, result):
        if change.comparison is None:
            group = NOT_COMPARED
        else:
            better = {LOSS: "take", GAIN: "leave out"} if change.is_in_found else {LOSS: "leave out", GAIN: "take"}
            group = better.get(change.comparison.verdict, "not resolved")
        groups[group].append(change.label)
    parts = [f"{what} {', '.join(labels)}" for what, labels in groups.items() if labels]
    return f"On {result['data']} at this budget: {'; '.join(parts)}."


def _ends(study: Study, result: dict[str, Any]) -> list[str]:
    """Return a sentence for each end, with the gain of the found network over it on both sets of images."""
    best = result["candidates"][0]
    found, held_out = _row(study, best["transforms"]), {frozenset(c["transforms"]): c for c in result["candidates"]}
    lines = [f"Found network: {found_network(result)}."]
    for key, end_name in ENDS.items():
        name, end, raced = f"the {end_name}", _row(study, result[key]), held_out.get(frozenset(result[key]))
        if set(result[key]) == set(best["transforms"]):
            lines.append(f"It is {name}: the search found nothing better.")
        elif found is None or not found[0].completed:
            lines.append(f"It has no completed runs, and was not compared with {name}.")
        elif end is None or end[1] is None or not end[1].n:
            lines.append(f"It was not compared with {name}, which has no completed runs.")
        else:
            gain = _reversed(end[1])
            verdict = f"a {gain.verdict}" if gain.verdict in (GAIN, LOSS) else gain.verdict
            line = (
                f"Gain over {name} with fresh seeds on the test set: {gain.delta:+.2f} points"
                f" ({format_interval(gain.low, gain.high)}), {verdict}."
            )
            if raced is not None:
                pairs = list(zip(best["top1"], raced["top1"], strict=False))  # by seed, from 0
                before = float(np.mean([one - other for one, other in pairs]))
                line += (
                    f" In the race it was {before:+.2f} ({len(pairs)} seed{'s' * (len(pairs) > 1)}). The difference,"
                    f" {before - gain.delta:+.2f}, contains what the selection cost, the noise of both numbers, and the"
                    " effect of other images and of training on all of them."
                )
            lines.append(line)
    return lines


def write_search(result: dict[str, Any], title: str, to: Path) -> list[Path]:
    """Write candidates.csv, front.png and front.svg to the folder `to`, and return their paths."""
    from roadmap.report.front import draw_front

    table, path = candidates_table(result), to / CANDIDATES_NAME
    table.to_csv(path, index=False, lineterminator="\n", float_format="%.6g")
    images = [to / f"{FIGURE_NAME}.{kind}" for kind in ("png", "svg")]
    max_macs = result["max_macs"]
    draw_front(table, None if max_macs is None else max_macs / 1e6, title, images)
    return [path, *images]


def write_found(result: dict[str, Any], to: Path) -> Path:
    """Write the found roadmap to the folder of the report, and return its path."""
    path = to / FOUND_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, result["roadmap"].encode())
    return path
