"""Write into the pages what they take from elsewhere: configs and costs into docs/steps.md, results into
reports/README.md. `python docs/fill.py`, or `--check` to see whether they are there."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

import pandas as pd

from roadmap import cost, report, road
from roadmap.config import compose_network

STEPS = Path(__file__).parent / "steps.md"
REPORTS = Path(__file__).parent.parent / "reports"
BASES = ("resnet50", "resnet200")


@cache
def measured(step: str, base: str) -> cost.Cost:
    return cost.measure(compose_network(step, base), 224)


def facts(step: str) -> str:
    """The config that makes the step, and what it costs in both regimes."""
    before = road.all_steps()[step].before
    kind, name = ("transform", step) if before else ("step", step)
    lines = ["```yaml", f"# conf/{kind}/{name}.yaml"]
    lines += (road.CONF / kind / f"{name}.yaml").read_text(encoding="utf-8").strip().splitlines()
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
    return re.sub(rf"(?s)<!-- {name} -->.*<!-- /{name} -->", lambda _: whole, text)


def results(text: str) -> str:
    """The page of reports with every published study's table: the block's name is the study's folder."""
    for name in re.findall(r"<!-- (\w+/\w+) -->", text):
        text = block(text, name, table(pd.read_csv(REPORTS / name / "roadmap.csv").fillna({"verdict": ""})))
    return text


def table(found: pd.DataFrame) -> str:
    """A study's rows as a Markdown table: what each gained here, and in the paper, over the row it is compared with."""
    shown = report.readable(found)[["step", "top-1 (%)", "gain", "95 % interval", "verdict", "images/s"]]
    printed = found.set_index("label")["paper_top1"]
    gains = found["paper_top1"] - found["against"].map(printed)
    if gains.notna().any():
        shown.insert(5, "gain in the paper", [report.number("{:+.2f}", gain) for gain in gains])
    shown.insert(shown.columns.size - 1, "MMACs", [f"{1000 * gmacs:.2f}" for gmacs in found["gmacs"]])
    return report.markdown(shown, []).strip()


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
