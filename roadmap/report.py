"""The report of a study: tables, picture and page, from what its runs left behind. Needs neither Hydra nor torch.

    python -m roadmap.report experiments/STUDY [--to reports/STUDY]
    python -m roadmap.report experiments/A experiments/B     # do their conclusions agree?

What the paper says stands in columns of its own.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from roadmap import compare, paper, record, statistics
from roadmap.attribution import attribute
from roadmap.budget import REFERENCE_EPOCHS
from roadmap.results import Records, Row, Study, read_study, write_csv
from roadmap.statistics import GAIN, LOSS, NOT_RESOLVED, Comparison

TITLES = {
    "label": "step",
    "n_seeds": "seeds",
    "top1": "top-1 (%)",
    "delta": "gain",
    "interval": "95 % interval",
    "p_holm": "p (Holm)",
    "verdict": "verdict",
    "params": "params (M)",
    "gmacs": "GMACs",
    "images_per_second": "images/s",
    "paper_top1": "paper top-1",
    "paper_gmacs": "paper GMACs",
    "status": "status",
}
WORTH = {"label": "step", "value": "worth", "interval": "95 % interval", "n_orders": "orders", "n_seeds": "seeds"}
TEXT_COLUMNS = {TITLES["label"], TITLES["verdict"], TITLES["status"]}


def or_dash(form: str, value: Any) -> str:
    """The value by its format; a dash where there is none."""
    return "–" if pd.isna(value) else form.format(value)


def interval(low: float, high: float) -> str:
    return "–" if pd.isna(low) else f"{low:+.2f} to {high:+.2f}"


MARKS = {"variant": " (variant)", "reference": " (reference)", "beyond": " (beyond the paper)"}


def marked(line: Mapping[str, Any]) -> str:
    """The label of a line of the table, with what sets it apart from the paper's path."""
    return str(line["label"]) + "".join(text for name, text in MARKS.items() if line[name])


def status(line: Mapping[str, Any]) -> str:
    """Of a line of the table, with how many of its seeds have it where not all completed."""
    bad = line["n_failed"] + line["n_diverged"]
    return str(line["status"]) + (f" ({bad} of {line['n_seeds'] + bad})" if bad else "")


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it: the main columns, rounded, as text."""
    shown = pd.DataFrame()
    shown["label"] = [marked(line) for line in table.to_dict("records")]
    shown["n_seeds"] = table["n_seeds"].astype(str)
    shown["top1"] = [
        or_dash("{:.2f}", mean) + ("" if pd.isna(std) else f" ± {std:.2f}")
        for mean, std in zip(table["top1_mean"], table["top1_std"], strict=True)
    ]
    shown["delta"] = [or_dash("{:+.2f}", value) for value in table["delta"]]
    shown["interval"] = [interval(*ends) for ends in zip(table["delta_low"], table["delta_high"], strict=True)]
    shown["p_holm"] = [or_dash("{:.2g}", value) for value in table["p_holm"]]
    shown["verdict"] = table["verdict"].where(table["verdict"] != "", "–")
    shown["params"] = [or_dash("{:.2f}", value / 1e6) for value in table["params"]]
    shown["gmacs"] = [or_dash("{:.3g}", value) for value in table["gmacs"]]
    shown["images_per_second"] = [or_dash("{:,.0f}", value) for value in table["images_per_second"]]
    shown["paper_top1"] = [or_dash("{:.2f}", value) for value in table["paper_top1"]]
    shown["paper_gmacs"] = [or_dash("{:.2f}", value) for value in table["paper_gmacs"]]
    shown["status"] = [status(line) for line in table.to_dict("records")]
    if table["delta"].isna().all():
        shown = shown.drop(columns=["delta", "interval", "p_holm", "verdict"])
    return shown.rename(columns=TITLES)


def readable_worth(worth: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame()
    shown["label"] = (worth["label"] + " " + worth["setting"]).str.strip()
    shown["value"] = [or_dash("{:+.2f}", value) for value in worth["value"]]
    shown["interval"] = [interval(*ends) for ends in zip(worth["low"], worth["high"], strict=True)]
    for name in ("n_orders", "n_seeds"):
        shown[name] = worth[name].astype(str)
    return shown.rename(columns=WORTH)


def what(study: Study) -> str:
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
    lines = [f"Study {study.name}: {what(study)}; {runs}, seeds {', '.join(map(str, seeds))}."]
    held = sorted({content["config"]["data"]["holdout"] or 0 for content in records})
    images = ", ".join(f"{count:,} held-out training images" if count else "the test set" for count in held)
    lines.append(
        f"top-1 on {images} after the last epoch: mean ± standard deviation over seeds. GMACs: multiply-adds / 1e9"
        " of convolutions and linear layers, one image. The paper's figures are ImageNet-1K's."
    )
    if table["delta"].notna().any():
        lines += _how_compared(study)
    lines += unchanged(study)
    places = sorted({f"{c['device']['name']}, {c['device']['precision']}" for c in records if c.get("device")})
    if places:
        lines.append(f"Trained on {'; '.join(places)}.")
    tables = {(content["config"]["base"]["paper_table"], content["name"]) for content in records}
    if any((10, name) in tables for _, name in paper.SLIPS):
        lines.append(paper.SLIP_NOTE)
    return lines


def unchanged(study: Study) -> list[str]:
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


def failures(study: Study) -> list[str]:
    """What failed or diverged, and why."""
    lines = []
    for content in study.records:
        if content["status"] != record.COMPLETED:
            reason = " ".join(str(content["error"]).split())  # one line, also in LaTeX's comments
            lines.append(f"{content['name']} seed={content['seed']} {content['status']}: {reason}")
    return lines


WHOM = {
    "leave_one_out": "the network with nothing left out",
    "add_one_in": "the network with nothing added",
    "recipe": "“nothing added” for what is added, to “nothing left out” for what is left out",
}


def _how_compared(study: Study) -> list[str]:
    whom = WHOM.get(study.manifest.design, "the row before it on its path")
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


def in_words(study: Study) -> list[str]:
    """What each comparison says, a sentence each."""
    lines = []
    for row, other, comparison in zip(study.rows, study.against, study.comparisons, strict=True):
        if comparison is not None and other is not None and comparison.n:
            lines.append(f"{row.label}, against {study.rows[other].label}: {sentence(comparison)}")
    return lines


def settings_in_words(study: Study) -> list[str]:
    """Of a study of several settings, as two sizes: do the first one's conclusions hold at the others?"""
    first, *others = dict.fromkeys(row.setting for row in study.rows)
    lines = []
    for setting in others:
        table = compare.beside(compare.gains(study, first), compare.gains(study, setting))
        if len(table):
            lines.append(compare.in_words(table, first or "The plain setting", setting or "the plain setting"))
    return lines


def sentence(found: Comparison) -> str:
    seeds = f"{found.n} seed{'s' * (found.n > 1)}"
    text = f"{found.delta:+.2f} points ({seeds}"
    if not math.isnan(found.low):
        text += f", 95 % interval {interval(found.low, found.high)}, p = {found.p_holm:.2g}"
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


def agreement_in_words(study: Study) -> list[str]:
    """For each setting that holds a stretch of the road of Table 10 or 11."""
    lines = []
    for setting in dict.fromkeys(row.setting for row in study.rows):
        table, found = agreement(study, setting)
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
    resolved, printed, before = statistics.resolved_by_paper(table), paper.gains(table), paper.before(table)
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


def agreement(study: Study, setting: str = "") -> tuple[int | None, statistics.Agreement | None]:
    """The number of the paper's table, and the agreement of the road's gains with it; None where the study is no road,
    or holds less than three of its gains."""
    rows = {row.name: row for row in study.rows if row.setting == setting and row.done}
    if study.manifest.design != "grid" or not rows:
        return None, None
    table = next(iter(rows.values())).records[0]["config"]["base"]["paper_table"]
    if table is None:
        return None, None
    path = {name: statistics.array(rows[name].top1) for name in paper.path(table) if name in rows}
    return table, statistics.agreement(path, table)


def _all(records: Records, key: str) -> str:
    return ", ".join(sorted({content[key] for content in records}))


def write(folder: Path, to: Path) -> str:
    """Write the report of the study in `folder` to the folder `to`; the table and the paths, as text.

    Raises FileNotFoundError where the study has no records.
    """
    from roadmap import page, picture

    study = read_study(folder)
    worth = attribute(study)
    shown, bad = readable(study.table), failures(study)
    said = [*worth_in_words(study, worth), *notes(study), *settings_in_words(study), *agreement_in_words(study)]
    to.mkdir(parents=True, exist_ok=True)
    written = [to / f"roadmap.{kind}" for kind in ("csv", "md", "tex", "png", "svg")]
    written.append(to / "index.html")
    write_csv(study.table, written[0])
    texts = [markdown(shown, [*said, *bad, *in_words(study)])]
    title = f"{_all(study.records, 'data')} · base {_all(study.records, 'base')} · {study.name}"
    if len(worth):
        written.append(to / "attribution.csv")
        write_csv(worth, written[-1])
        shown_worth = readable_worth(worth)
        texts.insert(0, markdown(shown_worth, [WORTH_NOTE]))
        picture.draw_worth(worth, title, written[3:5])
    else:
        picture.draw(study, title, written[3:5])
    written[1].write_text("\n".join(texts), encoding="utf-8")
    written[2].write_text(latex(shown, [*said, *bad]), encoding="utf-8")
    page.write(written[5], title, study, worth, said)
    paths = "\n".join(f"  {path}" for path in written)
    tables = ([shown_worth.to_string(index=False)] if len(worth) else []) + [shown.to_string(index=False)]
    text = "\n\n".join(tables) + "\n\n" + "\n".join([*said, *bad])
    return f"\n{text}\n\nreport:\n{paths}"


WORTH_NOTE = (
    "worth: the Shapley value, a step's mean gain over sampled orders of all steps, each order with its opposite; its"
    " 95 % interval is for other orders and other seeds. A step that needs another has no effect before it is there."
)


def worth_in_words(study: Study, worth: pd.DataFrame) -> list[str]:
    """What the Shapley values are, and what had to be left out of them."""
    orders = len(study.manifest.layout.orders)
    lines = [WORTH_NOTE] if len(worth) else []
    for setting in dict.fromkeys(row.setting for row in study.rows) if orders else ():
        records = [content for row in study.rows if row.setting == setting for content in row.records]
        seeds = len({content["seed"] for content in records})
        found = worth[worth["setting"] == setting]
        used = (int(found["n_orders"].max()), int(found["n_seeds"].max())) if len(found) else (0, 0)
        if used != (orders, seeds):
            which = f" ({setting})" if setting else ""
            text = f"Counted{which} are {used[0]} of {orders} orders and {used[1]} of {seeds} seeds, those of which"
            lost = any(content["status"] != record.COMPLETED for content in records)
            lines.append(f"{text} every network is completed.{LEFT_OUT if lost else ''}")
    return lines


LEFT_OUT = (
    " Leaving out what did not learn flatters the rest: where networks are no better than chance,"
    " budget.allow_chance=true counts them as they are."
)


def markdown(shown: pd.DataFrame, said: list[str]) -> str:
    lines = [list(shown.columns), [":---" if name in TEXT_COLUMNS else "---:" for name in shown.columns]]
    lines += shown.to_numpy().tolist()
    rows = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join(rows) + "\n\n" + "\n\n".join(said) + "\n"


def latex(shown: pd.DataFrame, said: list[str]) -> str:
    """A booktabs table; `\\usepackage{booktabs}` is all that it needs."""
    form = "".join("l" if name in TEXT_COLUMNS else "r" for name in shown.columns)
    columns = [_tex(name) for name in shown.columns]
    body = shown.map(_tex)
    comments = "".join(f"% {line}\n" for line in said)
    return comments + str(body.to_latex(index=False, header=columns, column_format=form, escape=False))


def _tex(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "%": r"\%", "&": r"\&", "#": r"\#", "_": r"\_", "→": r"$\rightarrow$"}
    signs |= {
        "±": r"$\pm$",
        "–": "--",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    return "".join(signs.get(sign, sign) for sign in text)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m roadmap.report", description="The report of a study, or two studies side by side."
    )
    parser.add_argument("study", type=Path, nargs="+", help="its folder, as experiments/roadmap; two to compare them")
    parser.add_argument("--to", type=Path, help="folder of the report; by default reports/STUDY, or reports/A-and-B")
    options = parser.parse_args(arguments)
    if len(options.study) > 2:
        parser.error("give one study, or two to compare them")
    names = [folder.resolve().name for folder in options.study]
    if len(set(names)) < len(names):
        names = ["-".join(folder.resolve().parts[-2:]) for folder in options.study]
    to = options.to or Path("reports") / "-and-".join(names)
    try:
        if len(names) == 2:
            print(compare.write(options.study[0], options.study[1], to))
        else:
            print(write(options.study[0], to))
    except OSError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
