"""The tables of published studies as Markdown, for `docs/fill.py`: from records, nothing is trained."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from roadmap import create_model
from roadmap.analysis.agreement import agreement
from roadmap.analysis.gaps import Effect, Gap, Network, measure_effect, scores_of
from roadmap.analysis.shapley import shapley_values
from roadmap.analysis.statistics import GAIN, LOSS, as_array, difference
from roadmap.analysis.table import Study, read_study
from roadmap.report.columns import SHAPLEY, format_interval, format_value, readable_table
from roadmap.report.comparison import compared_gains, readable_comparison
from roadmap.report.explanations import explanations_table, read_explanations
from roadmap.report.formats import markdown
from roadmap.report.search import ENDS, RESULT_NAME, read_search
from roadmap.report.unchanged import unchanged_lines
from roadmap.report.wording import agreement_sentences, failure_lines, needs_lines, study_agreement

LEAVE_ONE_OUT_SEEDS = set(range(5))  # of the study that suggested the explanation with the patchify stem
LOW_TOP1 = 80  # percent
EXPLANATIONS = Path(__file__).parent.parent / "experiments/why.yaml"


def results(folder: Path, part: str) -> list[str]:
    """Return a part of the published studies in a folder, tables and notes, as paragraphs.

    `part` is a study, two studies of ingredients or steps joined by a plus, a benchmark NAME whose table is in NAME.md,
    `why` for the table of explanations, `STUDY:FOLDER` for a search beside the one on the dataset of another folder,
    `STUDY:summary` for the most important rows of a roadmap, or `STUDY:top1` for the top-1 of each step at each
    setting.
    """
    name, _, form = part.partition(":")
    if (folder / f"{name}.md").is_file():
        return [(folder / f"{name}.md").read_text(encoding="utf-8").strip()]
    if name == "why":
        held_out, test = (read_study(folder / study) for study in ("why_held_out", "why"))
        failures = [line for study in (held_out, test) for line in failure_lines(study)]
        sentences = [*sentences_of_causes(test), gap_with_baseline_recipe(folder)]
        return [explanations_table(EXPLANATIONS, [held_out], [test]), *sentences, *failures]
    other = folder.parent / form / name
    if form and (other / RESULT_NAME).is_file():
        return beside([folder / name, other])
    studies = [read_study(folder / study) for study in name.split("+")]
    notes = [
        line for study in studies for line in (*needs_lines(study), *unchanged_lines(study), *failure_lines(study))
    ]
    first = studies[0]
    if form == "summary":
        return [table_of_steps(first, summary(first), with_compared=True)]
    if form == "top1":
        return [table_of_top1(first), *notes]
    values = shapley_values(first)
    if len(values):
        return [markdown(readable_table(values, SHAPLEY), []).strip(), *inaccurate_networks(first), *notes]
    result, sentences = read_search(first, folder / name)
    if result is not None:
        return [table_of_steps(first, first.table), *sentences, *notes]
    if first.manifest.design != "grid":
        return [table_of_parts(pd.concat([study.table for study in studies], ignore_index=True)), *notes]
    return [table_of_steps(first, first.table), *agreement_sentences(first), *unplanned_comparisons(first), *notes]


def summary(study: Study) -> pd.DataFrame:
    """Return the rows that are resolved, the first row, and the two ends that designs compare."""
    file = study.roadmap.file
    ends = {next(iter(file.steps)), file.start, file.full}
    return study.table[study.table["verdict"].isin((GAIN, LOSS)) | study.table["step"].isin(ends)]


def table_of_steps(study: Study, table: pd.DataFrame, with_compared: bool = False) -> str:
    """Return rows of the study's table as Markdown, with multiply-adds and, if known, the gains in the paper."""
    wanted = ("step", "top-1 (%)", "gain", "95 % interval", "p (Holm)", "verdict")  # no p in a descriptive study
    shown = readable_table(table).filter(wanted)
    printed = study.table.set_index("label")["paper_top1"]
    paper_gains = table["paper_top1"] - table["against"].map(printed)
    if paper_gains.notna().any():
        shown["gain in the paper"] = [format_value("{:+.2f}", gain) for gain in paper_gains]
    shown["MMACs"] = [f"{1000 * gmacs:.2f}" for gmacs in table["gmacs"]]
    if with_compared:  # the row above is not always the one
        shown.insert(2, "compared with", table["against"].tolist())
    return markdown(shown, []).strip()


def table_of_top1(study: Study) -> str:
    """Return the mean top-1 of each step at each setting as Markdown, with the change if there are two settings."""
    cells: dict[str, dict[str, float]] = defaultdict(dict)
    for row in study.rows:
        step, setting = row.label.removesuffix(row.setting).strip(), row.setting.removeprefix("budget.")
        cells[step][setting] = mean(row.top1 or [math.nan])
    table = pd.DataFrame.from_dict(cells, orient="index")
    shown = table.map(partial(format_value, "{:.2f}"))
    if table.shape[1] == 2:
        shown["change"] = (table.iloc[:, 1] - table.iloc[:, 0]).map(partial(format_value, "{:+.2f}"))
    return markdown(shown.rename_axis("step").reset_index(), []).strip()


def inaccurate_networks(study: Study) -> list[str]:
    """Return a sentence on the networks of an attribution with a low top-1: what all of them have, and none of them."""
    tops = [(mean(row.top1), row) for row in study.rows if row.top1]
    low = [row for top1, row in tops if top1 < LOW_TOP1]
    if not low:
        return []
    labels = {
        name: study.roadmap.transforms[name].label for name in study.roadmap.sort(study.manifest.layout.orders[0])
    }
    all_have = ", ".join(label for name, label in labels.items() if all(name in row.transforms for row in low))
    none_has = ", ".join(label for name, label in labels.items() if all(name not in row.transforms for row in low))
    lowest = min(top1 for row in low for top1 in row.top1)
    text = f"Of the {len(tops)} networks, {len(low)} have a top-1 below {LOW_TOP1} % (lowest run: {lowest:.2f} %)."
    return [f"{text} In all of them: {all_have or 'no common step'}. In none of them: {none_has or 'no step'}."]


def beside(folders: Sequence[Path]) -> list[str]:
    """Return the gains of two searches beside each other, and each found network on the dataset of the other search."""
    studies = [read_study(folder) for folder in folders]
    searches = [read_search(study, folder)[0] for study, folder in zip(studies, folders, strict=True)]
    results = [result for result in searches if result is not None]
    table, notes = compared_gains(studies, folders)
    names = [result["data"] for result in results]
    text_headers = {"step", "compared with", "both", *(f"{name}: verdict" for name in names)}
    return [
        markdown(readable_comparison(table, names), [], text_headers).strip(),
        f"The first study is the search on {names[0]}, the second the search on {names[1]}.",
        *notes,
        on_the_other_dataset(studies[0], results[0], results[1]),
        on_the_other_dataset(studies[1], results[1], results[0]),
    ]


def on_the_other_dataset(study: Study, result: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return what the network that the other search has found gains over both ends and the found network here."""
    compared = {f"the {label}": result[key] for key, label in ENDS.items()}
    compared[f"the network found on {result['data']}"] = result["candidates"][0]["transforms"]
    found = Network(frozenset(other["candidates"][0]["transforms"]))
    gaps = {name: Gap(found, Network(frozenset(transforms))) for name, transforms in compared.items()}
    gains = "; ".join(f"{gap_points(measure_effect([study], gap, gap))} over {name}" for name, gap in gaps.items())
    return f"On {result['data']}, the network found on {other['data']}: {gains}. These comparisons are descriptive."


def sentences_of_causes(test: Study) -> list[str]:
    """Return how many activations the networks have, and the gap on the test set without the steps that are causes."""
    networks = {
        "the ResNet": create_model("training_recipe", "nano"),
        "ConvNeXt": create_model("separate_downsampling", "nano"),
        "ConvNeXt without fewer activations": create_model("separate_downsampling", "nano", fewer_activations=False),
    }
    counts = ", ".join(
        f"{name} {sum(isinstance(layer, nn.ReLU | nn.GELU) for layer in network.modules())}"
        for name, network in networks.items()
    )
    network, other = read_explanations(EXPLANATIONS).standard
    gaps: list[str] = []
    for left_out in (["fewer_activations"], ["patchify_stem"], ["patchify_stem", "fewer_activations"]):
        without = Gap(network._replace(transforms=network.transforms.difference(left_out)), other)
        effect = measure_effect([test], without, without)
        gaps.append(f"without {test.roadmap.joined_labels(left_out)} {gap_points(effect)}")
    without_stem = scores_of([test], network._replace(transforms=network.transforms - {"patchify_stem"}))
    fresh = sorted(without_stem.keys() - LEAVE_ONE_OUT_SEEDS)
    own = scores_of([test], network)
    stem = difference(np.stack([without_stem[seed] - own[seed] for seed in fresh]))
    return [
        f"Number of activations: {counts}.",
        f"ConvNeXt minus the ResNet: {'; '.join(gaps)}.",
        f"ConvNeXt without patchify stem minus ConvNeXt, seeds {fresh[0]} to {fresh[-1]} only, which had no part in the"
        f" choice of this explanation: {stem.mean:+.2f} points (95 % interval {format_interval(stem.low, stem.high)}).",
    ]


def gap_with_baseline_recipe(folder: Path) -> str:
    """Return a sentence with ConvNeXt minus the ResNet under the baseline recipe, which is no planned comparison."""
    network, other = read_explanations(EXPLANATIONS).standard
    transforms = network.transforms - {"training_recipe"}
    baseline = Gap(network._replace(transforms=transforms), other._replace(transforms=frozenset()))
    effect = measure_effect([read_study(folder / name) for name in ("leave_one_out", "roadmap")], baseline, baseline)
    return f"With the baseline recipe, ConvNeXt minus the ResNet: {gap_points(effect)}, not a planned comparison."


def gap_points(effect: Effect) -> str:
    """Return the gap without the cause in points of top-1, with its number of seeds and its interval."""
    interval = format_interval(effect.gap.low, effect.gap.high)
    return f"{effect.gap.mean:+.2f} points ({effect.num_seeds} seeds, 95 % interval {interval})"


def table_of_parts(table: pd.DataFrame) -> str:
    """Return the rows of studies that add parts and leave them out as Markdown, one line for each part.

    Multiply-adds are left out if all networks have the same.
    """
    headers = ["gain", "95 % interval", "MMACs"] if table["gmacs"].nunique() > 1 else ["gain", "95 % interval"]
    cells: dict[str, dict[str, list[str]]] = defaultdict(dict)
    shown = readable_table(table).assign(MMACs=[f"{1000 * gmacs:.2f}" for gmacs in table["gmacs"]])
    for row in shown.to_dict("records"):
        change, part = row["step"].split(" ", 1)  # as "with AdamW", "without AdamW", "nothing added"
        if change == "nothing":
            cells["nothing: top-1 (%)"][part] = [row["top-1 (%)"], "", row["MMACs"]][: len(headers)]
        else:
            cells[part]["added" if change == "with" else "left out"] = [row[header] for header in headers]
    sides = [side for side in ("added", "left out") if any(side in changes for changes in cells.values())]
    empty = [""] * len(headers)
    lines = [[part, *(cell for side in sides for cell in changes.get(side, empty))] for part, changes in cells.items()]
    columns = ["step", *(column for side in sides for column in (side, *headers[1:]))]
    return markdown(pd.DataFrame(lines, columns=columns), []).strip()


def unplanned_comparisons(study: Study) -> list[str]:
    """Return a sentence with two comparisons that the rule did not plan, nothing without published gains.

    They are Kendall's tau of the steps that change the network, and ConvNeXt minus the ResNet.
    """
    reference, all_steps = study_agreement(study)
    if reference is None or all_steps is None:
        return []
    rows = {row.name: row for row in study.rows}
    steps = agreement(
        {name: as_array(rows[name].top1) for name in list(reference.steps)[1:] if name in rows}, reference
    )
    standard = read_explanations(EXPLANATIONS).standard
    effect = measure_effect([study], standard, standard)
    assert steps is not None
    return [
        f"Without the first gain, Kendall's tau of the other {steps.all_steps} gains is {steps.tau:.2f} (95 % interval"
        f" {steps.tau_low:.2f} to {steps.tau_high:.2f}, p = {steps.tau_p:.2g}). ConvNeXt minus the ResNet with the"
        f" enhanced recipe: {gap_points(effect)}. Neither is one of this table's planned comparisons."
    ]
