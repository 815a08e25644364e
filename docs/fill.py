"""Write the generated parts of nine pages: configs and costs into docs/steps.md, factors on the learning rate into
docs/recipes.md, planned times into docs/studies.md, predictions into experiments/fashion_mnist.md, results into
README.md, docs/small-data.md and the README.md files in reports/.

    python docs/fill.py            # write
    python docs/fill.py --check    # exit with an error if a page is not up to date

A generated part is between two marks: <!-- NAME --> and <!-- /NAME -->.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

from published import EXPLANATIONS, results

from roadmap.config.choices import Precision
from roadmap.config.compose import compose, compose_network
from roadmap.config.datasets import KNOWN_DATASETS
from roadmap.config.files import read_yaml
from roadmap.config.paths import CONF
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schedule import short_run_factor
from roadmap.models.complexity import Cost, measure_cost
from roadmap.report.explanations import predictions_table
from roadmap.runtime.gpus import find_gpu, planning_names
from roadmap.sweep.estimate import GPU_COUNTS, shortest_time
from roadmap.sweep.forecast import seconds_on_gpu
from roadmap.training.workload import count_workload, dataset_sizes

STEPS_PAGE, RECIPES_PAGE, STUDIES_PAGE = (
    Path(__file__).parent / f"{page}.md" for page in ("steps", "recipes", "studies")
)
ROOT = Path(__file__).parent.parent
REPORTS, RULE = ROOT / "reports", ROOT / "experiments/fashion_mnist.md"
BASES = ("resnet50", "resnet200")
PAPER_SCALE = ("base=resnet50", "data=imagenet", "budget=paper", "plan=true")


def fill_steps(text: str) -> str:
    """Return the page of steps with the generated part of every card."""
    cards = re.split(r"(?m)^(?=## )", text)
    for i, card in enumerate(cards):
        if card.startswith("## "):
            cards[i] = replace_part(card, "facts", config_and_costs(card[3:].splitlines()[0]))
    return "".join(cards)


def fill_recipes(text: str) -> str:
    """Return the page of recipes with the factor on AdamW's learning rate for each dataset of known size."""
    lines = ["| `data=` with `budget=quick` | iterations | factor |", "| :--- | ---: | ---: |"]
    for name, dataset in sorted(KNOWN_DATASETS.items()):
        if dataset.sizes is not None:
            preset = read_yaml(CONF / "data" / f"{name}.yaml")
            iterations = preset["quick_epochs"] * (dataset.sizes[0] // preset["quick_batch_size"])
            lines.append(f"| `{name}` | {iterations:,} | {short_run_factor(iterations):.3g} |")
    return replace_part(text, "factors", "\n".join(lines))


def fill_studies(text: str) -> str:
    """Return the page of studies with the time of the 51 runs of Table 10 on each GPU with a published throughput."""
    works = {}
    published = {row.step for row in load_roadmap().reference(10).rows}
    file = load_roadmap().file
    for step in [step for step in (*file.steps, *sorted(file.variants)) if step in published]:
        spec = compose(f"+step={step}", *PAPER_SCALE)
        works[step] = count_workload(spec, dataset_sizes(spec))
    counts = " | ".join(f"{count} GPU{'s' * (count > 1)}" for count in GPU_COUNTS)
    lines = [f"| GPU | ConvNeXt-T | {counts} |", "| :--- " + "| ---: " * (1 + len(GPU_COUNTS)) + "|"]
    for name in planning_names():
        gpu = find_gpu(name)
        assert gpu is not None
        seconds = [seconds_on_gpu(work, gpu, Precision.auto) for work in works.values()]
        times = [shortest_time(3 * seconds, count, None)[0] for count in GPU_COUNTS]
        hours = [
            f"{time / 3600:,.0f} h"
            for time in (seconds_on_gpu(works["separate_downsampling"], gpu, Precision.auto), *times)
        ]
        lines.append(f"| `{name}` | {' | '.join(hours)} |")
    return replace_part(text, "plan", "\n".join(lines))


def fill_rule(text: str) -> str:
    """Return the rule of the published study with the explanations that it tests."""
    return replace_part(text, "why", predictions_table(EXPLANATIONS))


def fill_results(text: str) -> str:
    """Return a page with the tables of the published studies."""
    for folder, part in re.findall(r"<!-- (\w+)/([\w+:-]+) -->", text):
        text = replace_part(text, f"{folder}/{part}", "\n\n".join(results(REPORTS / folder, part)))
    return text


def replace_part(text: str, name: str, content: str) -> str:
    """Return the text with `content` between the marks of this name."""
    part = f"<!-- {name} -->\n{content}\n<!-- /{name} -->"
    return re.sub(rf"(?s)<!-- {re.escape(name)} -->.*<!-- /{re.escape(name)} -->", lambda _: part, text)


def config_and_costs(step: str) -> str:
    """Return the config of the step, and its costs with both bases of the paper."""
    before = load_roadmap().steps[step].before
    lines: list[str] = []
    for name in load_roadmap().steps[step].own:
        lines += ["```yaml", f"# conf/transform/{name}.yaml"]
        lines += (CONF / "transform" / f"{name}.yaml").read_text(encoding="utf-8").strip().splitlines()
        lines += ["```", ""]
    lines += ["| base | params (M) | GMACs |", "| :--- | ---: | ---: |"]
    for base in BASES:
        costs = [cost_of(name, base) for name in (before, step) if name]
        params = " → ".join(f"{cost.params / 1e6:.3f}" for cost in costs)
        gmacs = " → ".join(f"{cost.gmacs:.3f}" for cost in costs)
        lines.append(f"| {base} | {params} | {gmacs} |")
    return "\n".join(lines)


@cache
def cost_of(step: str, base: str) -> Cost:
    """Return the cost of a step at 224x224."""
    return measure_cost(compose_network(step, base), 224)


PAGES = {
    STEPS_PAGE: fill_steps,
    RECIPES_PAGE: fill_recipes,
    STUDIES_PAGE: fill_studies,
    RULE: fill_rule,
    ROOT / "README.md": fill_results,
    ROOT / "docs/small-data.md": fill_results,
    REPORTS / "README.md": fill_results,
    REPORTS / "fashion_mnist/README.md": fill_results,
    REPORTS / "digits/README.md": fill_results,
}


def main() -> None:
    """Fill the pages, or check them."""
    for page, fill in PAGES.items():
        old = page.read_text(encoding="utf-8")
        new = fill(old)
        if old != new and "--check" in sys.argv:
            sys.exit(f"{page.name} is not up to date; run python docs/fill.py")
        if old != new:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
