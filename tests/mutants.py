"""Measures whether the tests notice errors in the code: the share of random mutants that they kill.

    uv run --group mutants python -m tests.mutants --per-module 25 --out /tmp/mutants

A mutant is a copy of the repository in which one operator, constant, comparison, decorator or statement of one line is
changed (by cosmic-ray). At most one mutant is taken for each line. The fast tests of the module's package run first,
and then, for those that survive, the slow ones. Tests of other packages do not run, so the shares are lower bounds. The
results are kept in `--out`, and the same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
TIMEOUT = 900  # seconds; tests that take longer count as killed by an endless loop
# Module -> folders and files of the tests that concern it, those that fail first in front.
ENGINE = ("tests/training", "tests/data", "tests/runtime")
MODULES = {
    "roadmap/models/network.py": ("tests/models",),
    "roadmap/models/layers.py": ("tests/models",),
    "roadmap/models/drop_path.py": ("tests/models", "tests/training"),
    "roadmap/models/batch_norm.py": ("tests/models/test_batch_norm.py", "tests/training", "tests/runtime"),
    "roadmap/training/recipe.py": ("tests/training", "tests/data"),
    "roadmap/training/trainer.py": ENGINE,
    "roadmap/training/evaluation.py": ENGINE,
    "roadmap/training/checkpoint.py": ENGINE,
    "roadmap/data/augmentation.py": ("tests/data", "tests/training"),
    "roadmap/data/sampling.py": ("tests/data", "tests/training", "tests/runtime"),
    "roadmap/runtime/distributed.py": ("tests/runtime", "tests/models/test_batch_norm.py"),
    "roadmap/analysis/statistics.py": ("tests/analysis", "tests/report"),
}


class Mutant(NamedTuple):
    """A changed module."""

    module: str
    line: int  # the first changed line, from 1
    operator: str
    code: str

    def difference(self) -> str:
        """Return the changed lines, the old ones with a minus and the new ones with a plus."""
        before = (ROOT / self.module).read_text(encoding="utf-8")
        lines = list(difflib.unified_diff(before.splitlines(), self.code.splitlines(), n=0, lineterm=""))[3:]
        return " / ".join(" ".join(line.split()) for line in lines)


def mutants_of(module: str) -> list[Mutant]:
    """Return all mutants of a module that compile and that differ in more than annotations."""
    import cosmic_ray.plugins  # pyrefly: ignore[missing-import]
    from cosmic_ray.mutating import mutate_code  # pyrefly: ignore[missing-import]

    source = (ROOT / module).read_text(encoding="utf-8")
    original = _without_annotations(source)
    found: list[Mutant] = []
    for name in sorted(cosmic_ray.plugins.operator_names()):
        operator_class = cosmic_ray.plugins.get_operator(name)
        # Operators with arguments need names of variables, and `is` compares enums and None as `==` does.
        if operator_class.arguments() or name.endswith(("_Is_Eq", "_IsNot_NotEq")):
            continue
        for occurrence in itertools.count():
            code = mutate_code(source, operator_class(), occurrence)
            if code is None:
                break
            try:
                differs = _without_annotations(code) != original
            except SyntaxError:
                continue
            if differs:
                pairs = enumerate(zip(source.splitlines(), code.splitlines(), strict=False), start=1)
                line = next((number for number, (old, new) in pairs if old != new), 0)
                found.append(Mutant(module, line, name.removeprefix("core/"), code))
    return found


def _without_annotations(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def sample(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return at most `count` mutants, each of another line: a random line first, then one of its mutants."""
    generator = random.Random(seed)
    lines = sorted({mutant.line for mutant in mutants})
    chosen = generator.sample(lines, min(count, len(lines)))
    return [generator.choice([mutant for mutant in mutants if mutant.line == line]) for line in chosen]


def copy_repository(folder: Path) -> None:
    """Copy the files that git tracks."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def tests_fail(folder: Path, tests: tuple[str, ...], *options: str) -> bool:
    """Run tests in a copy of the repository, and return whether one of them failed or took too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *options, *tests]
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return True
    assert done.returncode in (0, 1, 2, 5), done.stdout.decode()[-2000:]
    return done.returncode in (1, 2)  # 2: the tests cannot be imported; 5: no slow tests


def run_mutant(folders: Queue[Path], mutant: Mutant) -> str:
    """Return "fast" or "slow" for the tests that killed the mutant, or "survived"."""
    folder = folders.get()
    target = folder / mutant.module
    try:
        target.write_text(mutant.code, encoding="utf-8")
        tests = MODULES[mutant.module]
        if tests_fail(folder, tests):
            return "fast"
        return "slow" if tests_fail(folder, tests, "-m", "slow") else "survived"
    finally:
        shutil.copy(ROOT / mutant.module, target)
        folders.put(folder)


def table(results: list[dict[str, Any]]) -> str:
    """Return the table of CONTRIBUTING.md: per module the number of mutants, and the shares that were killed."""
    lines = ["| module | mutants | killed by the fast tests | killed by all tests |", "| :--- | ---: | ---: | ---: |"]
    modules = sorted({result["module"] for result in results})
    for name in [*modules, "all"]:
        outcomes = [result["outcome"] for result in results if name in (result["module"], "all")]
        fast, slow = outcomes.count("fast"), outcomes.count("slow")
        shares = [f"{100 * count / len(outcomes):.0f} %" for count in (fast, fast + slow)]
        lines.append(f"| {name if name == 'all' else f'`{name}`'} | {len(outcomes)} | {shares[0]} | {shares[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-module", type=int, default=25, help="number of mutants of each module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants tested at once")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("modules", nargs="*", default=list(MODULES), help="default: the engine and the statistics")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(result["module"], result["difference"]) for result in results}
    mutants = [
        mutant
        for module in arguments.modules
        for mutant in sample(mutants_of(module), arguments.per_module, arguments.seed)
        if (module, mutant.difference()) not in done
    ]
    folders: Queue[Path] = Queue()
    for number in range(arguments.jobs):
        folder = arguments.out / f"copy{number}"
        shutil.rmtree(folder, ignore_errors=True)
        copy_repository(folder)
        folders.put(folder)
    with ThreadPoolExecutor(arguments.jobs) as pool, file.open("a", encoding="utf-8") as stream:
        for mutant, outcome in zip(mutants, pool.map(partial(run_mutant, folders), mutants), strict=True):
            result = {"module": mutant.module, "line": mutant.line, "operator": mutant.operator, "outcome": outcome}
            results.append({**result, "difference": mutant.difference()})
            stream.write(json.dumps(results[-1], ensure_ascii=False) + "\n")
            stream.flush()
            print(f"{outcome:8} {mutant.module}:{mutant.line} {mutant.difference()}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
