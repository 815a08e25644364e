"""The report of a search (`+study=tune`): all trials as a table, and the importance of each field as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

TRIALS_NAME, FIGURE_NAME = "trials.csv", "importance"


def write_tuning(results: Sequence[dict[str, Any]], to: Path) -> list[Path]:
    """Write trials.csv, and importance.png and .svg if a network has enough trials; return the files.

    A result has `step`, `trials` (trial, state, top1 and the values of the fields) and `importances`: the share of the
    variance of the held-out top-1 that each field explains (functional ANOVA: Hutter et al., ICML 2014).
    """
    lines = [{"step": result["step"]} | trial for result in results for trial in result["trials"]]
    table, path = pd.DataFrame(lines), to / TRIALS_NAME
    if path.exists():  # keep those of other steps
        earlier = pd.read_csv(path)
        if "step" in earlier:
            table = pd.concat([earlier[~earlier["step"].isin(table["step"])], table], ignore_index=True)
    table.to_csv(path, index=False, lineterminator="\n", float_format="%.6g")
    shown = [result for result in results if result["importances"]]
    if not shown:
        return [to / TRIALS_NAME]
    names = sorted({name for result in shown for name in result["importances"]})
    height = 1.0 + 0.3 * len(names) * len(shown)
    figure, axes = plt.subplots(figsize=(6.5, height), layout="constrained")
    size = 0.8 / len(shown)
    for i, result in enumerate(shown):
        places = [j + i * size for j in range(len(names))]
        values = [100 * result["importances"].get(name, 0.0) for name in names]
        axes.barh(places, values, size * 0.9, label=f"{result['step']}, {len(result['trials'])} trials")
    axes.set_yticks([j + size * (len(shown) - 1) / 2 for j in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel("importance: share of the variance of held-out top-1 (%)")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    paths = [to / f"{FIGURE_NAME}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return [to / TRIALS_NAME, *paths]
