"""The notes and sentences of a report."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from roadmap.analysis import statistics
from roadmap.analysis.agreement import Agreement, agreement, resolved_by_reference
from roadmap.analysis.comparison import compare_gains, comparison_sentence, study_gains
from roadmap.analysis.statistics import GAIN, LOSS, NOT_RESOLVED, Comparison
from roadmap.analysis.table import Records, Study
from roadmap.config.names import one_line
from roadmap.config.reference import ReferenceTable
from roadmap.config.schedule import REFERENCE_EPOCHS
from roadmap.records.record import COMPLETED
from roadmap.report.columns import format_interval
from roadmap.report.unchanged import changes_only_average, unchanged_lines

COMPARED_WITH = {
    "leave_one_out": "the network with nothing left out",
    "add_one_in": "the network with nothing added",
    "search": "the found network",
    "recipe": "“nothing added” for added ingredients, and to “nothing left out” for ingredients left out",
}
DESCRIPTIVE_NOTES = {
    "search_found": "These gains are descriptive. They come from the same runs as the claims of the search, which are"
    " in the report of the found network.",
    "search_race": "A race gives more seeds to networks with better results. The gains are therefore biased, and"
    " descriptive.",
}
SHAPLEY_NOTE = (
    "Shapley value: mean gain of a step, in points of top-1, over sampled orders of all steps; each order is used"
    " together with its reverse. The 95 % interval is for other orders and other seeds. A step that needs another step"
    " has no effect before that step."
)
LEFT_OUT_NOTE = (
    "Leaving out runs that did not learn biases the estimates upward. If networks are not better than predicting the"
    " majority class, budget.allow_chance=true includes them."
)


def joined_values(records: Records, key: str) -> str:
    """Return the values that the records have under `key`, each once, in one text."""
    return ", ".join(sorted({record[key] for record in records}))


def study_summary(study: Study) -> str:
    """Return data, base and budget of the study."""
    budgets = ", ".join(dict.fromkeys(_describe_budget(record["config"]["budget"]) for record in study.records))
    return f"{joined_values(study.records, 'data')}, base {joined_values(study.records, 'base')}, budget {budgets}"


def _describe_budget(budget: dict[str, Any]) -> str:
    if budget["epochs"] is None:
        return str(budget["name"])
    if budget["equal_epochs"]:
        return f"{budget['name']} ({budget['epochs']:g} epochs)"
    return f"{budget['name']} ({REFERENCE_EPOCHS:g} epochs scaled to {budget['epochs']:g})"


def notes(study: Study) -> list[str]:
    """Return what a reader needs to know about the numbers. The first note says what was run."""
    records = study.records
    seeds = sorted({record["seed"] for record in records})
    runs = f"{len(records)} run{'s' * (len(records) > 1)}"
    runs += f" ({study.unfinished} more not finished)" if study.unfinished else ""
    seed_list = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    lines = [f"Study {study.name}: {study_summary(study)}; {runs}, {seed_list}."]
    holdouts = sorted({record["config"]["data"]["holdout"] or 0 for record in records})
    images = ", ".join(f"{count:,} held-out training images" if count else "the test set" for count in holdouts)
    lines.append(
        f"top-1: accuracy on {images} after the last epoch, mean ± standard deviation over seeds. GMACs: multiply-adds"
        " / 1e9 of convolutions and linear layers for one image."
        + (" The paper's numbers are for ImageNet-1K." if study.roadmap.has_papers_numbers else "")
    )
    if "ema_top1_mean" in study.table:
        lines.append(
            "top-1 of the EMA: accuracy of the exponential moving average of the weights. All other results are those"
            " of the weights themselves, which the average does not change."
        )
    if study.table["delta"].notna().any():
        lines += _comparison_notes(study)
    lines += needs_lines(study) + unchanged_lines(study)
    devices = {tuple(filter(None, (r["device"]["name"], r["device"]["precision"]))) for r in records if r.get("device")}
    if any(devices):  # a run that failed early has no device name
        lines.append(f"Trained on {'; '.join(sorted(', '.join(device) for device in devices if device))}.")
    shown = {(record["config"]["base"]["paper_table"], record["name"]): None for record in records}
    rows = [study.roadmap.reference(table).row(name) for table, name in shown]
    lines += dict.fromkeys(row.note for row in rows if row is not None and row.note)
    return lines + study.problems


def needs_lines(study: Study) -> list[str]:
    """Return for each transform that `design.needs` names which others it needs; empty if there is none."""
    transforms = study.roadmap.transforms
    return [
        f"The design of the study {study.name} has {transforms[name].label} only together with"
        f" {study.roadmap.joined_labels(others)}."
        for name, others in study.manifest.layout.needs.items()
        if {name, *others} <= transforms.keys()
    ]


def _comparison_notes(study: Study) -> list[str]:
    other = COMPARED_WITH.get(study.manifest.design, "the row that it builds on")
    gain = (
        f"gain: difference of a row to {other}, in points of top-1, over the seeds that both have. The 95 % interval is"
        " from a bootstrap over seeds and test images."
    )
    if study.manifest.is_descriptive:
        return [f"{gain} {DESCRIPTIVE_NOTES[study.manifest.design]}"]
    lines = [
        f"{gain} p: exact paired permutation test over the seeds, with Holm's"
        " correction over the study. The verdict is gain or loss if this p and the p of the bootstrap, with the same"
        " correction, are both at most 0.05. The probability that a study has any false verdict is at most 5 %."
    ]
    pairs, smallest_p = study.table["n_pairs"].dropna(), study.table["smallest_p"].min()
    if not pd.isna(smallest_p):
        count = int(pairs.max())
        lines.append(f"With {count} seeds, the smallest possible p is {smallest_p:.2g} before Holm's correction.")
    few = f"fewer than {statistics.MIN_SEEDS} seeds"
    if pairs.max() < statistics.MIN_SEEDS:
        lines.append(f"All comparisons have {few}. They are descriptive: no difference is shown to be more than noise.")
    elif pairs.min() < statistics.MIN_SEEDS:
        lines.append(f"Some comparisons have {few}. They are descriptive and support no claim.")
    if study.table["p"].notna().any() and study.table["p_images"].isna().all():
        lines.append(
            "The records do not contain the correctness of each test image. Without it, no difference is resolved."
        )
    return lines


def failure_lines(study: Study) -> list[str]:
    """Return a line with the reason for each run that failed or diverged."""
    lines = []
    for record in study.records:
        if record["status"] != COMPLETED:
            reason = one_line(str(record["error"]))  # one line, also in LaTeX's comments
            lines.append(f"{record['name']} seed={record['seed']} {record['status']}: {reason}")
    return lines


def comparison_sentences(study: Study) -> list[str]:
    """Return a sentence for each comparison."""
    lines = []
    for i, (row, other) in enumerate(zip(study.rows, study.against, strict=True)):
        if other is not None and (sentence := gain_sentence(study, i)):
            lines.append(f"{row.label}, compared with {study.rows[other].label}: {sentence}")
    return lines


def gain_sentence(study: Study, i: int) -> str:
    """Return what the comparison of row `i` says; empty if the row is compared with no other row."""
    comparison = study.comparisons[i]
    if comparison is None or not comparison.n:
        return ""
    if changes_only_average(study, i):
        return "the weights are the same. The effect of the moving average is in the column top-1 of the EMA."
    return verdict_sentence(comparison)


def verdict_sentence(comparison: Comparison) -> str:
    """Return difference, interval, p and verdict of a comparison, and how many seeds would resolve the difference."""
    seeds = f"{comparison.n} seed{'s' * (comparison.n > 1)}"
    text = f"{comparison.delta:+.2f} points ({seeds}"
    if not math.isnan(comparison.low):
        interval = format_interval(comparison.low, comparison.high)
        text += f", 95 % interval {interval}"
        text += "" if math.isnan(comparison.p_holm) else f", p = {comparison.p_holm:.2g}"
    text += f"): {comparison.verdict}."
    if comparison.verdict not in (GAIN, LOSS):
        if comparison.p_holm <= statistics.LEVEL < comparison.p_images_holm:
            text += f" The choice of test images may explain the difference (p = {comparison.p_images_holm:.2g})."
        if comparison.delta == 0:
            text += " There is no difference."
        elif math.isinf(comparison.seeds_needed):
            text += (
                " More seeds alone would not resolve a difference of this size: it needs more test images, or it is too"
                " small to detect."
            )
        elif not math.isnan(comparison.seeds_needed):
            text += f" About {comparison.seeds_needed:.0f} seeds would resolve a difference of this size."
    return text


def setting_sentences(study: Study) -> list[str]:
    """Return for each further setting of a study whether the gains of the first setting hold there."""
    first, *others = dict.fromkeys(row.setting for row in study.rows)
    lines = []
    for setting in others:
        table = compare_gains(study_gains(study, first), study_gains(study, setting))
        if len(table):
            lines.append(comparison_sentence(table, first or "Default setting", setting or "the default setting"))
    return lines


def agreement_sentences(study: Study) -> list[str]:
    """Return the agreement with the published gains, for each setting that has at least three of them."""
    lines = []
    for setting in dict.fromkeys(row.setting for row in study.rows):
        reference, result = study_agreement(study, setting)
        if result is None or reference is None:
            continue
        text = f"Agreement with {reference.source}{f' ({setting})' if setting else ''}: "
        if result.steps:
            numbers = _reference_numbers(study)
            text += f"of the {result.steps} steps that {numbers} resolve, {result.same_sign} have the"
            text += f" same sign here{_interval_note(f'{result.sign_low:.0%}', f'{result.sign_high:.0%}')}. "
        published = "in the paper" if study.roadmap.has_papers_numbers else "the published ones"
        text += f"Kendall's tau between the {result.all_steps} gains here and {published} is {result.tau:.2f}"
        text += f"{_interval_note(f'{result.tau_low:.2f}', f'{result.tau_high:.2f}')}. A random order of the steps has"
        text += f" a tau at least as far from zero with p = {result.tau_p:.2g}."
        if not math.isnan(result.tau_low):
            text += " The intervals are over seeds."
        lines.append(text)
        if sentence := _steps_resolved_by_reference(study, setting, reference):
            lines.append(sentence)
    return lines


def _interval_note(low: str, high: str) -> str:
    return "" if "nan" in low else f" (95 % interval {low} to {high})"


def _steps_resolved_by_reference(study: Study, setting: str, reference: ReferenceTable) -> str:
    """Return which of the steps that the published numbers resolve are resolved here, and with which sign.

    Empty with too few seeds.
    """
    same_sign, opposite_sign, not_resolved = "the same sign", "the opposite sign", ""
    labels: dict[str, list[str]] = {same_sign: [], opposite_sign: [], not_resolved: []}
    resolved, printed, previous = resolved_by_reference(reference), reference.gains, reference.previous_steps
    for row, other, comparison in zip(study.rows, study.against, study.comparisons, strict=True):
        if row.setting != setting or row.name not in resolved or other is None or comparison is None:
            continue
        if study.rows[other].name == previous[row.name] and comparison.verdict in (GAIN, LOSS, NOT_RESOLVED):
            sign = {GAIN: 1, LOSS: -1}.get(comparison.verdict, 0) * printed[row.name]
            labels[same_sign if sign > 0 else opposite_sign if sign < 0 else not_resolved].append(row.label)
    parts = [
        f"resolved here with {group}: {', '.join(names)}" if group else f"not resolved here: {', '.join(names)}"
        for group, names in labels.items()
        if names
    ]
    return f"Steps that {_reference_numbers(study)} resolve: {'; '.join(parts)}." if parts else ""


def _reference_numbers(study: Study) -> str:
    return "the paper's own numbers" if study.roadmap.has_papers_numbers else "the published numbers"


def study_agreement(study: Study, setting: str = "") -> tuple[ReferenceTable | None, Agreement | None]:
    """Return the reference table of the study's base and the agreement of the study's gains with it.

    The agreement is None if the study has a design, no reference table, or fewer than three of its gains.
    """
    rows = {row.name: row for row in study.rows if row.setting == setting and row.completed}
    if study.manifest.design != "grid" or not rows:
        return None, None
    table = next(iter(rows.values())).records[0]["config"]["base"]["paper_table"]
    reference = study.roadmap.reference(table)
    accuracies = {name: statistics.as_array(rows[name].top1) for name in reference.steps if name in rows}
    return reference, agreement(accuracies, reference)


def shapley_sentences(study: Study, values: pd.DataFrame) -> list[str]:
    """Return what the Shapley values are, and which orders and seeds had to be left out."""
    num_orders = len(study.manifest.layout.orders)
    lines = [SHAPLEY_NOTE] if len(values) else []
    if values["start_value"].notna().any():
        labels = study.roadmap.joined_labels(study.roadmap.steps[study.roadmap.file.start].transforms)
        lines.append(
            f"With start: the mean of only the gains in networks with {labels}."
            " In some orders, a step has no such gain."
        )
    for setting in dict.fromkeys(row.setting for row in study.rows) if num_orders else ():
        records = [record for row in study.rows if row.setting == setting for record in row.records]
        num_seeds = len({record["seed"] for record in records})
        own = values[values["setting"] == setting]
        used = (int(own["n_orders"].max()), int(own["n_seeds"].max())) if len(own) else (0, 0)
        if used != (num_orders, num_seeds):
            text = f"Used{f' ({setting})' if setting else ''}: {used[0]} of {num_orders} orders and {used[1]} of"
            text += f" {num_seeds} seeds, those for which every network is completed."
            lost = any(record["status"] != COMPLETED for record in records)
            lines.append(f"{text} {LEFT_OUT_NOTE}" if lost else text)
    return lines
