"""Write into the pages what they take from elsewhere: configs and costs into docs/steps.md, results into
reports/README.md. `python docs/fill.py`, or `--check` to see whether they are there."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import mean

import pandas as pd

from roadmap.analysis.table import Study, read_study
from roadmap.config.compose import compose_network
from roadmap.config.paths import CONF
from roadmap.config.steps import all_steps
from roadmap.models.complexity import Cost, measure
from roadmap.report.columns import or_dash, readable_table
from roadmap.report.formats import markdown
from roadmap.report.wording import agreement_sentences, failure_lines, unchanged_lines

STEPS = Path(__file__).parent / "steps.md"
REPORTS = Path(__file__).parent.parent / "reports"
BASES = ("resnet50", "resnet200")


@cache
def measured(step: str, base: str) -> Cost:
    return measure(compose_network(step, base), 224)


def facts(step: str) -> str:
    """The config that makes the step, and what it costs in both regimes."""
    before = all_steps()[step].before
    kind, name = ("transform", step) if before else ("step", step)
    lines = ["```yaml", f"# conf/{kind}/{name}.yaml"]
    lines += (CONF / kind / f"{name}.yaml").read_text(encoding="utf-8").strip().splitlines()
    lines += ["```", ""]
    lines += ["| base | params (M) | GMACs |", "| :--- | ---: | ---: |"]
    for base in BASES:
        costs = [measured(name, base) for name in (before, step) if name]
        params = " → ".join(f"{c.params / 1e6:.3f}" for c in costs)
        gmacs = " → ".join(f"{c.gmacs:.3f}" for c in costs)
        lines.append(f"| {base} | {params} | {gmacs} |")
    return "\n".join(lines)


def cards(text: str) -> str:
    """The page of steps with every card's block of facts as it should be."""
    parts = re.split(r"(?m)^(?=## )", text)
    for i, part in enumerate(parts):
        if part.startswith("## "):
            parts[i] = block(part, "facts", facts(part[3:].splitlines()[0]))
    return "".join(parts)


def block(text: str, name: str, content: str) -> str:
    """The text with `content` between its marks <!-- name --> and <!-- /name -->."""
    whole = f"<!-- {name} -->\n{content}\n<!-- /{name} -->"
    return re.sub(rf"(?s)<!-- {re.escape(name)} -->.*<!-- /{re.escape(name)} -->", lambda _: whole, text)


def results(text: str) -> str:
    """The page of reports with the tables of what is published."""
    for folder, names in re.findall(r"<!-- (\w+)/([\w+]+) -->", text):
        text = block(text, f"{folder}/{names}", "\n\n".join(published(REPORTS / folder, names)))
    return text


def published(folder: Path, names: str) -> list[str]:
    """The table of a study, of two joined by a plus, or of a benchmark's NAME.md, and what is to be said of it."""
    if (folder / f"{names}.md").is_file():
        return [(folder / f"{names}.md").read_text(encoding="utf-8").strip()]
    studies = [read_study(folder / name) for name in names.split("+")]
    said = [line for study in studies for line in (*unchanged_lines(study), *failure_lines(study))]
    first = studies[0]
    if first.manifest.design != "grid":
        return [parts(pd.concat([study.table for study in studies], ignore_index=True)), *said]
    if len({row.setting for row in first.rows}) > 1:
        return [settings(first), *said]
    return [path(first.table), *agreement_sentences(first), fit(first), *said]


def path(found: pd.DataFrame) -> str:
    """The rows of a road as a Markdown table: what each gained here, and in the paper, over the one before it."""
    shown = readable_table(found)[["step", "top-1 (%)", "gain", "95 % interval", "p (Holm)", "verdict"]]
    printed = found.set_index("label")["paper_top1"]
    gains = found["paper_top1"] - found["against"].map(printed)
    shown["gain in the paper"] = [or_dash("{:+.2f}", gain) for gain in gains]
    shown["MMACs"] = [f"{1000 * gmacs:.2f}" for gmacs in found["gmacs"]]
    return markdown(shown, []).strip()


def settings(study: Study) -> str:
    """The gains of a road at several settings as a Markdown table, one line for each step."""
    shown = readable_table(study.table)
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for row, other, line in zip(study.rows, study.against, shown.to_dict("records"), strict=True):
        step, column = row.label.removesuffix(row.setting).strip(), row.setting or "as in the study"
        cells[f"{step}: top-1 (%)" if other is None else step][column] = (
            line["top-1 (%)"] if other is None else f"{line['gain']} ({line['95 % interval']})"
        )
    table = pd.DataFrame.from_dict(cells, orient="index").rename_axis("step").reset_index().fillna("")
    return markdown(table, []).strip()


def fit(study: Study) -> str:
    """How often, of two networks of the road, the one that fits the training images better is the more accurate."""
    points = []
    for row in study.rows:
        if "training_recipe" in row.transforms and row.done:  # losses of one recipe, as labels are smoothed and mixed
            loss = mean(content["curve"][-1]["train_loss"] for content in row.done)
            points.append((loss, mean(row.top1)))
    pairs = list(combinations(sorted(points), 2))
    better = sum(first[1] > second[1] for first, second in pairs)
    return (
        f"Of two networks under the enhanced recipe the one with the lower training loss in the last epoch is the more"
        f" accurate in {better} of {len(pairs)} pairs."
    )


def parts(found: pd.DataFrame) -> str:
    """The rows of studies that add parts and leave them out as a Markdown table, one line for each part."""
    cells: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for row in readable_table(found).to_dict("records"):
        how, part = row["step"].split(" ", 1)  # as "with AdamW", "without AdamW", "nothing added"
        if how == "nothing":
            cells["nothing: top-1 (%)"][part] = row["top-1 (%)"], ""
        else:
            cells[part]["added" if how == "with" else "left out"] = row["gain"], row["95 % interval"]
    lines = [(part, *sides.get("added", ("", "")), *sides.get("left out", ("", ""))) for part, sides in cells.items()]
    columns = ["step", "added", "95 % interval", "left out", "95 % interval"]
    return markdown(pd.DataFrame(lines, columns=columns), []).strip()


PAGES = {STEPS: cards, REPORTS / "README.md": results}


def main() -> None:
    for page, filled in PAGES.items():
        old = page.read_text(encoding="utf-8")
        new = filled(old)
        if old != new and "--check" in sys.argv:
            sys.exit(f"{page.name} is not what configs, networks and records say: run python docs/fill.py")
        if old != new:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
