"""Best factor on AdamW's learning rate for runs of different lengths: the measurement behind `short_run_factor`.

    python benchmarks/learning_rates.py --out FOLDER

Trains the enhanced ResNet and ConvNeXt of base pico on Fashion-MNIST with several factors on the rate of the linear
rule, and evaluates them on 10,000 held-out training images. Prints a Markdown table of the mean top-1 accuracy of the
two networks. Finished runs in FOLDER are not repeated; all of them take about 40 minutes of one core.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from roadmap.config.schedule import short_run_factor
from roadmap.records.record import COMPLETED, RUNS_FOLDER, read_record
from roadmap.runtime.system import cpu_name, git_state

ROOT = Path(__file__).parent.parent
STEPS = ("training_recipe", "separate_downsampling")
HOLDOUT = 10_000
STUDY = "learning_rates"


class Case(NamedTuple):
    """Runs of one length, with one batch size and several factors."""

    batch_size: int
    epochs: int
    train_images: int
    factors: tuple[int, ...]

    @property
    def iterations(self) -> int:
        """Number of iterations of a run."""
        return self.epochs * (self.train_images // self.batch_size)


CASES = (
    Case(64, 1, 14_080, (16, 32, 64, 128, 256, 512)),
    Case(64, 1, 50_000, (16, 32, 64, 128, 256)),
    Case(64, 3, 50_000, (4, 8, 16, 32, 64, 128, 256)),
    Case(256, 4, 50_000, (4, 8, 16, 32, 64, 128)),
    Case(64, 10, 50_000, (4, 16, 64)),
)


def train(case: Case, folder: Path, overrides: list[str]) -> None:
    """Train both networks with every factor, one run at a time, unless they are finished."""
    command = [
        sys.executable, str(ROOT / "run_roadmap.py"), "-m", f"+step={','.join(STEPS)}",
        "data=fashion_mnist", "base=pico", f"data.holdout={HOLDOUT}",
        "budget.evaluations=1", "budget.allow_chance=true",
        f"budget.batch_size={case.batch_size}", f"budget.epochs={case.epochs}", "seed=100",
        f"budget.train_images={case.train_images}",
        f"budget.lr_multiplier.adamw={','.join(map(str, case.factors))}", "parallel=1", "save_weights=false",
        f"study={STUDY}", f"out={folder}", f"reports={folder}", *overrides,
    ]  # fmt: skip
    subprocess.run(command, check=True)


def accuracies(folder: Path) -> dict[tuple[int, int, int], list[float]]:
    """Return the top-1 accuracies of the finished runs by (batch size, iterations, factor). Diverged runs have 0."""
    found: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for path in sorted((folder / RUNS_FOLDER).iterdir()):
        record = read_record(path)
        if record is not None:
            budget, batch_size = record["config"]["budget"], record["plan"]["batch_size"]
            iterations = record["plan"]["epochs"] * (record["num_train"] // batch_size)
            top1 = record["top1"] if record["status"] == COMPLETED else 0.0
            found[batch_size, iterations, round(budget["lr_multiplier"]["adamw"])].append(top1)
    return found


def table(found: dict[tuple[int, int, int], list[float]]) -> str:
    """Return the table: a line for each case, a column for each factor, the best of a line in bold."""
    factors = sorted({factor for case in CASES for factor in case.factors})
    lines = [
        f"| batch | iterations | rule | {' | '.join(f'x{factor}' for factor in factors)} |",
        f"| ---: | ---: | ---: |{' ---: |' * len(factors)}",
    ]
    for case in CASES:
        values = {factor: found.get((case.batch_size, case.iterations, factor)) for factor in factors}
        complete = {factor: mean(tops) for factor, tops in values.items() if tops and len(tops) == len(STEPS)}
        cells = [f"{complete[factor]:.2f}" if factor in complete else "" for factor in factors]
        if complete:
            best = factors.index(max(complete, key=lambda factor: complete[factor]))
            cells[best] = f"**{cells[best]}**"
        rule = f"{short_run_factor(case.iterations):.3g}"
        lines.append(f"| {case.batch_size} | {case.iterations:,} | {rule} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("overrides", nargs="*", help="further overrides, such as data.root=FOLDER")
    options = parser.parse_args()
    for case in CASES:
        train(case, options.out, options.overrides)
    print(f"{cpu_name()}; commit {str(git_state()['commit'])[:12]}\n\n{table(accuracies(options.out))}")


if __name__ == "__main__":
    main()
