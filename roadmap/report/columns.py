"""The columns of a report's table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

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
SHAPLEY_TITLES = {
    "label": "step",
    "value": "worth",
    "interval": "95 % interval",
    "n_orders": "orders",
    "n_seeds": "seeds",
}
TEXT_COLUMNS = {TITLES["label"], TITLES["verdict"], TITLES["status"]}


def or_dash(form: str, value: Any) -> str:
    """The value by its format; a dash where there is none."""
    return "–" if pd.isna(value) else form.format(value)


def format_interval(low: float, high: float) -> str:
    return "–" if pd.isna(low) else f"{low:+.2f} to {high:+.2f}"


MARKS = {"variant": " (variant)", "reference": " (reference)", "beyond": " (beyond the paper)"}


def marked_label(line: Mapping[str, Any]) -> str:
    """The label of a line of the table, with what sets it apart from the paper's path."""
    return str(line["label"]) + "".join(text for name, text in MARKS.items() if line[name])


def status_text(line: Mapping[str, Any]) -> str:
    """Of a line of the table, with how many of its seeds have it where not all completed."""
    bad = line["n_failed"] + line["n_diverged"]
    return str(line["status"]) + (f" ({bad} of {line['n_seeds'] + bad})" if bad else "")


def readable_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it: the main columns, rounded, as text."""
    shown = pd.DataFrame()
    shown["label"] = [marked_label(line) for line in table.to_dict("records")]
    shown["n_seeds"] = table["n_seeds"].astype(str)
    shown["top1"] = [
        or_dash("{:.2f}", mean) + ("" if pd.isna(std) else f" ± {std:.2f}")
        for mean, std in zip(table["top1_mean"], table["top1_std"], strict=True)
    ]
    shown["delta"] = [or_dash("{:+.2f}", value) for value in table["delta"]]
    shown["interval"] = [format_interval(*ends) for ends in zip(table["delta_low"], table["delta_high"], strict=True)]
    shown["p_holm"] = [or_dash("{:.2g}", value) for value in table["p_holm"]]
    shown["verdict"] = table["verdict"].where(table["verdict"] != "", "–")
    shown["params"] = [or_dash("{:.2f}", value / 1e6) for value in table["params"]]
    shown["gmacs"] = [or_dash("{:.3g}", value) for value in table["gmacs"]]
    shown["images_per_second"] = [or_dash("{:,.0f}", value) for value in table["images_per_second"]]
    shown["paper_top1"] = [or_dash("{:.2f}", value) for value in table["paper_top1"]]
    shown["paper_gmacs"] = [or_dash("{:.2f}", value) for value in table["paper_gmacs"]]
    shown["status"] = [status_text(line) for line in table.to_dict("records")]
    if table["delta"].isna().all():
        shown = shown.drop(columns=["delta", "interval", "p_holm", "verdict"])
    return shown.rename(columns=TITLES)


def readable_shapley(worth: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame()
    shown["label"] = (worth["label"] + " " + worth["setting"]).str.strip()
    shown["value"] = [or_dash("{:+.2f}", value) for value in worth["value"]]
    shown["interval"] = [format_interval(*ends) for ends in zip(worth["low"], worth["high"], strict=True)]
    for name in ("n_orders", "n_seeds"):
        shown[name] = worth[name].astype(str)
    return shown.rename(columns=SHAPLEY_TITLES)
