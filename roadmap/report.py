"""From records to a table, a picture and a page: reads what runs left behind, needs neither Hydra nor torch.

    python -m roadmap.report experiments/STUDY [--to reports/STUDY]

Rows are networks, in the order of the road; the seeds of one network under one setting make one row. What the paper
says stands in columns of its own.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from roadmap import paper, record

COLUMNS = [
    "step", "label", "n_seeds", "top1_mean", "top1_std", "delta", "params", "gmacs", "images_per_second",
    "paper_top1", "paper_gmacs", "status",
    "top1_low", "top1_high", "top5_mean", "loss_mean", "wall_seconds", "peak_memory_mib",
    "n_failed", "n_diverged", "variant", "section",
]  # fmt: skip
CONFIDENCE = 0.95
TITLES = {
    "label": "step",
    "n_seeds": "seeds",
    "top1": "top-1 (%)",
    "delta": "gain",
    "params": "params (M)",
    "gmacs": "GMACs",
    "images_per_second": "images/s",
    "paper_top1": "paper top-1",
    "paper_gmacs": "paper GMACs",
    "status": "status",
}
Records = list[dict[str, Any]]


def read_study(folder: Path) -> Records:
    """The records of all runs in a study's folder, in the order of their folders' names."""
    found = (record.read(path.parent) for path in sorted(folder.glob("*/record.json")))
    return [content for content in found if content is not None]


def rows_of(records: Records) -> list[Records]:
    """The records of each row (one network, one setting, its seeds), rows in the order of the road."""
    groups: dict[str, Records] = defaultdict(list)
    for content in sorted(records, key=lambda content: content["seed"]):
        groups[content["config_hash"]].append(content)
    settings = settings_of(list(groups.values()))

    def place(group: Records) -> tuple[Any, ...]:
        first = group[0]
        table = first["config"]["base"]["paper_table"]
        row = paper.position(table, first["name"])
        return settings[first["config_hash"]], len(first["transforms"]), row, first["name"]

    return sorted(groups.values(), key=place)


def settings_of(groups: list[Records]) -> dict[str, str]:
    """What sets rows of the same step apart, as `budget.epochs=3`, by config hash; empty where a step has one row."""
    by_name: dict[str, Records] = defaultdict(list)
    for group in groups:
        by_name[group[0]["name"]].append(group[0])
    apart: set[str] = set()
    flat = {group[0]["config_hash"]: _flatten(group[0]["config"]) for group in groups}
    for same in by_name.values():
        configs = [flat[content["config_hash"]] for content in same]
        for path in sorted({path for config in configs for path in config}):
            if len({repr(config.get(path)) for config in configs}) > 1:
                apart.add(path)
    # Of settings that follow from one another the names suffice: a base makes widths, a dataset sizes and epochs.
    follow: dict[str, tuple[str, ...]] = {
        "base.name": ("base.", "network.", "recipe."),
        "data.name": ("data.", "network.", "budget."),
    }
    follow |= {"recipe.name": ("recipe.", "network."), "budget.name": ("budget.",)}
    names = [path for path in follow if path in apart]
    made = tuple(prefix for path in names for prefix in follow[path])
    shown = names + sorted(path for path in apart if path not in names and not path.startswith(made))
    shown = [path for path in shown if path not in (*record.ASIDE, "base.start_width")]
    return {key: " ".join(f"{path}={config.get(path)}" for path in shown) for key, config in flat.items()}


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key != "transforms":
            flat |= _flatten(value, f"{prefix}{key}.")
        elif key != "transforms":
            flat[prefix + key] = value
    return flat


def tabulate(records: Records) -> pd.DataFrame:
    """One line per row of the study; the columns are COLUMNS. Percent, millions nowhere: plain numbers.

    `top1_low` and `top1_high` are Student's t interval of the mean over seeds. `delta` is the difference of the mean
    to that of the network without this row's last transform, where the study has it. Failed and diverged seeds are
    counted, not averaged.
    """
    groups = rows_of(records)
    settings = settings_of(groups)
    means: dict[tuple[str, tuple[str, ...]], float] = {}
    lines = []
    for group in groups:
        first, setting = group[0], settings[group[0]["config_hash"]]
        done = [content for content in group if content["status"] == record.COMPLETED]
        top1 = pd.Series([content["top1"] for content in done], dtype=float)
        names = tuple(info["name"] for info in first["transforms"])
        means[setting, names] = top1.mean()
        before = means.get((setting, names[:-1]), math.nan) if names else math.nan
        low, high = t_interval(top1)
        fact = paper.row(first["config"]["base"]["paper_table"], first["name"])
        last = first["transforms"][-1] if names else {"section": "", "variant": False}
        costs = next((content for content in group if "params" in content), {})
        counts = {status: sum(content["status"] == status for content in group) for status in STATUSES}
        lines.append(
            {
                "step": f"{first['name']} {setting}".strip(),
                "label": f"{first['label']} {setting}".strip(),
                "n_seeds": len(done),
                "top1_mean": top1.mean(),
                "top1_std": top1.std(),
                "delta": top1.mean() - before,
                "params": costs.get("params"),
                "gmacs": costs.get("gmacs"),
                "images_per_second": _mean(done, "images_per_second"),
                "paper_top1": fact.top1 if fact else math.nan,
                "paper_gmacs": fact.gmacs if fact else math.nan,
                "status": next(status for status in STATUSES if counts[status]),
                "top1_low": low,
                "top1_high": high,
                "top5_mean": _mean(done, "top5"),
                "loss_mean": _mean(done, "loss"),
                "wall_seconds": _mean(done, "wall_seconds"),
                "peak_memory_mib": _mean(done, "peak_memory_mib"),
                "n_failed": counts[record.FAILED],
                "n_diverged": counts[record.DIVERGED],
                "variant": any(info["variant"] for info in first["transforms"]),
                "section": last["section"],
            }
        )
    table = pd.DataFrame(lines, columns=COLUMNS)
    table["params"] = table["params"].astype("Int64")
    return table


STATUSES = (record.FAILED, record.DIVERGED, record.COMPLETED)  # a row's status is the first that one of its seeds has


def t_interval(values: pd.Series) -> tuple[float, float]:
    """The 95 % interval of the mean by Student's t; not a number for fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std() / math.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def _mean(records: Records, key: str) -> float:
    return float(pd.Series([content[key] for content in records], dtype=float).mean())


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it: the main columns, rounded, as text."""

    def number(form: str, value: Any) -> str:
        return "–" if pd.isna(value) else form.format(value)

    shown = pd.DataFrame()
    shown["label"] = table["label"].where(~table["variant"], table["label"] + " (variant)")
    shown["n_seeds"] = table["n_seeds"].astype(str)
    shown["top1"] = [
        number("{:.2f}", mean) + ("" if pd.isna(std) else f" ± {std:.2f}")
        for mean, std in zip(table["top1_mean"], table["top1_std"], strict=True)
    ]
    shown["delta"] = [number("{:+.2f}", value) for value in table["delta"]]
    shown["params"] = [number("{:.2f}", value / 1e6) for value in table["params"]]
    shown["gmacs"] = [number("{:.3g}", value) for value in table["gmacs"]]
    shown["images_per_second"] = [number("{:,.0f}", value) for value in table["images_per_second"]]
    shown["paper_top1"] = [number("{:.2f}", value) for value in table["paper_top1"]]
    shown["paper_gmacs"] = [number("{:.2f}", value) for value in table["paper_gmacs"]]
    shown["status"] = [
        row.status + ("" if row.status == record.COMPLETED else f" ({row.n_failed + row.n_diverged} of {row.n_all})")
        for row in table.assign(n_all=table["n_seeds"] + table["n_failed"] + table["n_diverged"]).itertuples()
    ]
    return shown.rename(columns=TITLES)


def notes(records: Records, table: pd.DataFrame) -> list[str]:
    """What a reader has to know of the numbers."""
    first = records[0]
    seeds = sorted({content["seed"] for content in records})
    what = f"{_all(records, 'data')}, base {_all(records, 'base')}, budget "
    what += ", ".join(dict.fromkeys(content["config"]["budget"]["name"] for content in records))
    lines = [f"Study {first['study']}: {what}; {len(records)} runs, seeds {', '.join(map(str, seeds))}."]
    lines.append(
        "top-1 on the test set after the last epoch: mean ± standard deviation over seeds; gain: to the row without"
        " this step. GMACs: multiply-adds / 1e9 of convolutions and linear layers, one image. The paper's figures are"
        " ImageNet-1K's."
    )
    if table["n_seeds"].max() < 5:
        lines.append("Fewer than 5 seeds: descriptive; no difference here is shown to be more than noise.")
    places = sorted({f"{c['device']['name']}, {c['device']['precision']}" for c in records if c.get("device")})
    if places:
        lines.append(f"Trained on {'; '.join(places)}.")
    lines += failures(records)
    if {("resnet50", content["name"]) for content in records} & paper.SLIPS and first["config"]["base"][
        "paper_table"
    ] == 10:
        lines.append(paper.SLIP_NOTE)
    return lines


def failures(records: Records) -> list[str]:
    """What failed or diverged, and why."""
    lines = []
    for content in records:
        if content["status"] != record.COMPLETED:
            reason = " ".join(str(content["error"]).split())  # one line, also in LaTeX's comments
            lines.append(f"{content['name']} seed={content['seed']} {content['status']}: {reason}")
    return lines


def before(rows: list[Records]) -> list[int | None]:
    """For each row the one that it is compared with: without its last transform, under the same setting."""
    settings = settings_of(rows)
    place: dict[tuple[str, tuple[str, ...]], int] = {}
    found: list[int | None] = []
    for i, group in enumerate(rows):
        names, setting = tuple(info["name"] for info in group[0]["transforms"]), settings[group[0]["config_hash"]]
        found.append(place.get((setting, names[:-1])) if names else None)
        place[setting, names] = i
    return found


def _all(records: Records, key: str) -> str:
    return ", ".join(sorted({content[key] for content in records}))


def write(study: Path, to: Path) -> str:
    """Write the report of the study in `study` to the folder `to`; the table and the paths, as text.

    Raises FileNotFoundError where the study has no records.
    """
    from roadmap import page, picture

    records = read_study(study)
    if not records:
        raise FileNotFoundError(f"{study}: holds no records of runs")
    table = tabulate(records)
    shown, said = readable(table), notes(records, table)
    to.mkdir(parents=True, exist_ok=True)
    written = [to / f"roadmap.{kind}" for kind in ("csv", "md", "tex", "png", "svg")]
    written.append(to / "index.html")
    table.to_csv(written[0], index=False, lineterminator="\n")
    written[1].write_text(markdown(shown, said), encoding="utf-8")
    written[2].write_text(latex(shown, said), encoding="utf-8")
    title = f"{_all(records, 'data')} · base {_all(records, 'base')} · {records[0]['study']}"
    rows = rows_of(records)
    picture.draw(table, rows, title, written[3:5])
    page.write(written[5], title, table, rows, [line for line in said if line not in failures(records)], before(rows))
    paths = "\n".join(f"  {path}" for path in written)
    return f"\n{shown.to_string(index=False)}\n\n" + "\n".join(said) + f"\n\nreport:\n{paths}"


def markdown(shown: pd.DataFrame, said: list[str]) -> str:
    right = set(shown.columns) - {TITLES["label"], TITLES["status"]}
    lines = [list(shown.columns), ["---:" if name in right else ":---" for name in shown.columns]]
    lines += shown.to_numpy().tolist()
    rows = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join(rows) + "\n\n" + "\n\n".join(said) + "\n"


def latex(shown: pd.DataFrame, said: list[str]) -> str:
    """A booktabs table; `\\usepackage{booktabs}` is all that it needs."""
    form = "".join("l" if name in (TITLES["label"], TITLES["status"]) else "r" for name in shown.columns)
    columns = [_tex(name) for name in shown.columns]
    body = shown.map(_tex)
    comments = "".join(f"% {line}\n" for line in said)
    return comments + str(body.to_latex(index=False, header=columns, column_format=form, escape=False))


def _tex(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "%": r"\%", "&": r"\&", "#": r"\#", "_": r"\_", "→": r"$\rightarrow$"}
    signs |= {"±": r"$\pm$", "–": "--", "{": r"\{", "}": r"\}", "$": r"\$", "~": r"\textasciitilde{}"}
    return "".join(signs.get(sign, sign) for sign in text)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m roadmap.report", description="Table, picture and page of a study.")
    parser.add_argument("study", type=Path, help="folder of the runs, as experiments/roadmap")
    parser.add_argument("--to", type=Path, help="folder of the report; by default reports/STUDY")
    options = parser.parse_args(arguments)
    try:
        print(write(options.study, options.to or Path("reports") / options.study.resolve().name))
    except OSError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
