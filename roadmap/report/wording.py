"""The sentences of a report."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from roadmap.analysis import published, statistics
from roadmap.analysis.agreement import Agreement, agreement, resolved_by_paper
from roadmap.analysis.comparison import compare_gains, comparison_sentence, study_gains
from roadmap.analysis.statistics import GAIN, LOSS, NOT_RESOLVED, Comparison
from roadmap.analysis.table import Records, Row, Study
from roadmap.config.schedule import REFERENCE_EPOCHS
from roadmap.records.record import COMPLETED
from roadmap.report.columns import format_interval


def study_summary(study: Study) -> str:
    """What was trained, on what."""
    budgets = ", ".join(dict.fromkeys(_budget(content["config"]["budget"]) for content in study.records))
    return f"{_all(study.records, 'data')}, base {_all(study.records, 'base')}, budget {budgets}"


def _budget(config: dict[str, Any]) -> str:
    if config["epochs"] is None:
        return str(config["name"])
    of = "" if config["equal_epochs"] else f" of {REFERENCE_EPOCHS:g}"
    return f"{config['name']} ({config['epochs']:g}{of} epochs)"


def notes(study: Study) -> list[str]:
    """What a reader has to know of the numbers."""
    records, table = study.records, study.table
    seeds = sorted({content["seed"] for content in records})
    runs = f"{len(records)} runs" + (f" ({study.unfinished} more not finished)" if study.unfinished else "")
    lines = [f"Study {study.name}: {study_summary(study)}; {runs}, seeds {', '.join(map(str, seeds))}."]
    held = sorted({content["config"]["data"]["holdout"] or 0 for content in records})
    images = ", ".join(f"{count:,} held-out training images" if count else "the test set" for count in held)
    lines.append(
        f"top-1 on {images} after the last epoch: mean ± standard deviation over seeds. GMACs: multiply-adds / 1e9"
        " of convolutions and linear layers, one image. The paper's figures are ImageNet-1K's."
    )
    if table["delta"].notna().any():
        lines += _comparison_notes(study)
    lines += unchanged_lines(study)
    places = sorted({f"{c['device']['name']}, {c['device']['precision']}" for c in records if c.get("device")})
    if places:
        lines.append(f"Trained on {'; '.join(places)}.")
    tables = {(content["config"]["base"]["paper_table"], content["name"]) for content in records}
    if any((10, name) in tables for _, name in published.SLIPS):
        lines.append(published.SLIP_NOTE)
    return lines


def unchanged_lines(study: Study) -> list[str]:
    """The changes for which this base, data or budget has no use."""
    same = [row.label for row, other in zip(study.rows, study.against, strict=True) if _equal(study, row, other)]
    told = f"Changes that change nothing here (each run ends with the loss of its pair): {'; '.join(same)}."
    return [told] if same else []


def _equal(study: Study, row: Row, against: int | None) -> bool:
    """Whether each run ends with the very loss of its pair."""
    if against is None:
        return False
    mine, theirs = ({c["seed"]: c["loss"] for c in each.done} for each in (row, study.rows[against]))
    return bool(mine) and mine.items() <= theirs.items()


def failure_lines(study: Study) -> list[str]:
    """What failed or diverged, and why."""
    lines = []
    for content in study.records:
        if content["status"] != COMPLETED:
            reason = " ".join(str(content["error"]).split())  # one line, also in LaTeX's comments
            lines.append(f"{content['name']} seed={content['seed']} {content['status']}: {reason}")
    return lines


COMPARED_WITH = {
    "leave_one_out": "the network with nothing left out",
    "add_one_in": "the network with nothing added",
    "recipe": "“nothing added” for what is added, to “nothing left out” for what is left out",
}


def _comparison_notes(study: Study) -> list[str]:
    whom = COMPARED_WITH.get(study.manifest.design, "the row before it on its path")
    lines = [
        f"gain: to {whom}, over the seeds that both have; its 95 % interval by bootstrap over seeds and test images"
        " together. p: exact paired permutation test over the seeds, Holm-adjusted over the study. gain or loss where"
        " that and the bootstrap, adjusted likewise, are at most 0.05: of twenty studies at most one has a false one."
    ]
    pairs = study.table["n_pairs"].dropna()
    least = study.table["smallest_p"].min()
    if not pd.isna(least):
        lines.append(f"With {int(pairs.max())} seeds the smallest p is {least:.2g} before Holm's adjustment.")
    few = f"Fewer than {statistics.FEWEST} seeds: descriptive"
    if pairs.max() < statistics.FEWEST:
        lines.append(f"{few}; no difference here is shown to be more than noise.")
    elif pairs.min() < statistics.FEWEST:
        lines.append(f"{few}, and no claim: so some rows.")
    if study.table["p"].notna().any() and study.table["p_images"].isna().all():
        lines.append("The correctness of single test images is not at hand; without it no difference is resolved.")
    return lines


def comparison_sentences(study: Study) -> list[str]:
    """What each comparison says, a sentence each."""
    lines = []
    for row, other, comparison in zip(study.rows, study.against, study.comparisons, strict=True):
        if comparison is not None and other is not None and comparison.n:
            lines.append(f"{row.label}, against {study.rows[other].label}: {verdict_sentence(comparison)}")
    return lines


def setting_sentences(study: Study) -> list[str]:
    """Of a study of several settings, as two sizes: do the first one's conclusions hold at the others?"""
    first, *others = dict.fromkeys(row.setting for row in study.rows)
    lines = []
    for setting in others:
        table = compare_gains(study_gains(study, first), study_gains(study, setting))
        if len(table):
            lines.append(comparison_sentence(table, first or "The plain setting", setting or "the plain setting"))
    return lines


def verdict_sentence(found: Comparison) -> str:
    seeds = f"{found.n} seed{'s' * (found.n > 1)}"
    text = f"{found.delta:+.2f} points ({seeds}"
    if not math.isnan(found.low):
        text += f", 95 % interval {format_interval(found.low, found.high)}, p = {found.p_holm:.2g}"
    text += f"): {found.verdict}."
    if found.verdict not in (statistics.GAIN, statistics.LOSS):
        if found.p_holm <= statistics.LEVEL < found.p_images_holm:
            text += f" The choice of test images may explain it (p = {found.p_images_holm:.2g})."
        if found.delta == 0:
            text += " No difference."
        elif math.isinf(found.seeds_needed):
            text += " More seeds alone would not resolve it: it takes more test images, or is too small to tell."
        elif not math.isnan(found.seeds_needed):
            text += f" About {found.seeds_needed:.0f} seeds would resolve a difference of this size."
    return text


def agreement_sentences(study: Study) -> list[str]:
    """For each setting that holds a stretch of the road of Table 10 or 11."""
    lines = []
    for setting in dict.fromkeys(row.setting for row in study.rows):
        table, found = study_agreement(study, setting)
        if found is None:
            continue
        text = f"With the paper's Table {table}{f' ({setting})' if setting else ''}: "
        if found.steps:
            text += f"of the {found.steps} steps that it resolves itself, {found.same_sign} have its sign here"
            text += f"{_percent(found.sign_low, found.sign_high)}; "
        text += f"Kendall's tau of the gains of all {found.all_steps} is {found.tau:.2f}"
        if not math.isnan(found.tau_low):
            text += f" ({found.tau_low:.2f} to {found.tau_high:.2f})"
        text += f", as far from zero as orders by chance with p = {found.tau_p:.2g}"
        lines.append(text + ". Intervals: 95 %, over seeds.")
        if table is not None and (by_step := _with_paper(study, setting, table)):
            lines.append(by_step)
    return lines


def _with_paper(study: Study, setting: str, table: int) -> str:
    """Which of the paper's resolved steps are resolved here, and with which sign; empty with too few seeds."""
    found: dict[str, list[str]] = {"the same sign": [], "the other sign": [], "": []}
    resolved, printed, before = resolved_by_paper(table), published.gains(table), published.before(table)
    for row, other, comparison in zip(study.rows, study.against, study.comparisons, strict=True):
        if row.setting != setting or row.name not in resolved or other is None or comparison is None:
            continue
        if study.rows[other].name == before[row.name] and comparison.verdict in (GAIN, LOSS, NOT_RESOLVED):
            sign = {GAIN: 1, LOSS: -1}.get(comparison.verdict, 0) * printed[row.name]
            found["the same sign" if sign > 0 else "the other sign" if sign < 0 else ""].append(row.label)
    parts = [f"resolved here with {how}: {', '.join(labels)}" for how, labels in found.items() if how and labels]
    parts += [f"not resolved here: {', '.join(found[''])}"] if found[""] else []
    return f"Of the paper's resolved steps, {'; '.join(parts)}." if parts else ""


def _percent(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" (interval {low:.0%} to {high:.0%})"


def study_agreement(study: Study, setting: str = "") -> tuple[int | None, Agreement | None]:
    """The number of the paper's table, and the agreement of the road's gains with it; None where the study is no road,
    or holds less than three of its gains."""
    rows = {row.name: row for row in study.rows if row.setting == setting and row.done}
    if study.manifest.design != "grid" or not rows:
        return None, None
    table = next(iter(rows.values())).records[0]["config"]["base"]["paper_table"]
    if table is None:
        return None, None
    path = {name: statistics.as_array(rows[name].top1) for name in published.path(table) if name in rows}
    return table, agreement(path, table)


def _all(records: Records, key: str) -> str:
    return ", ".join(sorted({content[key] for content in records}))


SHAPLEY_NOTE = (
    "worth: the Shapley value, a step's mean gain over sampled orders of all steps, each order with its opposite; its"
    " 95 % interval is for other orders and other seeds. A step that needs another has no effect before it is there."
)


def shapley_sentences(study: Study, worth: pd.DataFrame) -> list[str]:
    """What the Shapley values are, and what had to be left out of them."""
    orders = len(study.manifest.layout.orders)
    lines = [SHAPLEY_NOTE] if len(worth) else []
    for setting in dict.fromkeys(row.setting for row in study.rows) if orders else ():
        records = [content for row in study.rows if row.setting == setting for content in row.records]
        seeds = len({content["seed"] for content in records})
        found = worth[worth["setting"] == setting]
        used = (int(found["n_orders"].max()), int(found["n_seeds"].max())) if len(found) else (0, 0)
        if used != (orders, seeds):
            which = f" ({setting})" if setting else ""
            text = f"Counted{which} are {used[0]} of {orders} orders and {used[1]} of {seeds} seeds, those of which"
            lost = any(content["status"] != COMPLETED for content in records)
            lines.append(f"{text} every network is completed.{LEFT_OUT_NOTE if lost else ''}")
    return lines


LEFT_OUT_NOTE = (
    " Leaving out what did not learn flatters the rest: where networks are no better than chance,"
    " budget.allow_chance=true counts them as they are."
)
