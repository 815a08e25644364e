"""Write the configs and costs into docs/steps.md: `python docs/fill.py`, or `--check` to see whether they are there."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

from roadmap import cost, road
from roadmap.config import compose_network

PAGE = Path(__file__).parent / "steps.md"
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


def filled(text: str) -> str:
    """The page with every card's block of facts as it should be."""
    parts = re.split(r"(?m)^(?=## )", text)
    for i, part in enumerate(parts):
        if part.startswith("## "):
            block = f"<!-- facts -->\n{facts(part[3:].splitlines()[0])}\n<!-- /facts -->"
            parts[i] = re.sub(r"(?s)<!-- facts -->.*<!-- /facts -->", lambda _, block=block: block, part)
    return "".join(parts)


def main() -> None:
    old = PAGE.read_text(encoding="utf-8")
    new = filled(old)
    if "--check" in sys.argv:
        sys.exit(0 if old == new else f"{PAGE.name} is not what the configs and networks say: run python docs/fill.py")
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
