"""Measures whether the tests notice errors in the code: the share of random mutants that they kill.

    uv run --group mutants python -m tests.mutants --out /tmp/mutants

A mutant is a copy of the repository in which one operator, constant, comparison, decorator or statement of one line is
changed (by cosmic-ray). At most one mutant is taken for each line. The fast tests of the module's package run first,
and then, for those that survive, the slow ones. Tests of other packages do not run, so the shares are lower bounds. The
results are kept in `--out`, and the same command continues where it was stopped. `--retry` tests survivors again.
Mutants that tests cannot notice (`JUSTIFIED`) are counted, but neither tested nor part of the shares.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

from tests.conftest import FASHION, ROOT

TIMEOUT = 1200  # seconds; tests that take longer count as killed by an endless loop
# Outcomes: killed by the fast tests; by the slow ones; not by the fast ones, slow ones not run; by none; not run.
FAST, SLOW, NOT_FAST, SURVIVED, NOT_RUN = "fast", "slow", "not by fast", "survived", "justified"
# Module -> folders of the tests that concern it. The module's own test file runs first.
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

# Changes that tests cannot notice: (module, or "" for all; regular expression of the changed line; reason).
JUSTIFIED = (
    ("", r"\+ .*strict=False", "the sequences have the same length"),
    ("", r"\+ .*non_blocking=False", "the copy takes longer, with the same result"),
    ("", r"\+ .*frozen=False", "nothing assigns to a field"),
    ("roadmap/data/augmentation.py", r"\+ .*\"erase\".*count=1 \+ 23", "the last draw is not used"),
    (
        "roadmap/training/recipe.py",
        r"\+ ?CHUNK_IMAGES, ",
        "the number of images that are augmented together changes no draw",
    ),
    ("roadmap/training/evaluation.py", r"\+ .*device.type < \"mps\"", "cpu and cuda come before mps in the alphabet"),
    ("roadmap/data/augmentation.py", r"\+ .*float\(self.cutmix != 0\)", "an alpha below 0 is refused"),
    ("roadmap/runtime/distributed.py", r"\+ ?TIMEOUT = ", "no test waits for half an hour"),
    ("roadmap/runtime/distributed.py", r"\+ .*get_backend\(\) .*\"nccl\"", "needs a GPU"),
    ("roadmap/training/trainer.py", r"\+ .*param_groups\[ ?-?1\]", "all groups have the same learning rate"),
    ("roadmap/training/trainer.py", r"\+ .*spec.budget, name\) or 1\)", "a dataset has at least one image"),
    ("roadmap/models/layers.py", r"\+ .*self\.stride\[ ?-?1\]", "both strides of a convolution are equal"),
    ("roadmap/models/layers.py", r"\+ ?def act\(.*inplace: bool = True", "`chain` sets `inplace` of each activation"),
)


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
    """Return all mutants of a module that compile and that differ in more than annotations and kinds of parameters."""
    import cosmic_ray.plugins
    from cosmic_ray.mutating import mutate_code

    source = (ROOT / module).read_text(encoding="utf-8")
    original = _comparable(source)
    found: list[Mutant] = []
    for name in sorted(cosmic_ray.plugins.operator_names()):
        operator_class = cosmic_ray.plugins.get_operator(name)
        # Operators with arguments need names of variables. `is` compares enums, None and small numbers as `==` does.
        if operator_class.arguments() or name.endswith(("_Is_Eq", "_IsNot_NotEq", "_Is", "_IsNot")):
            continue
        for occurrence in itertools.count():
            code = mutate_code(source, operator_class(), occurrence)
            if code is None:
                break
            try:
                differs = _comparable(code) != original
            except SyntaxError:
                continue
            if differs:
                pairs = enumerate(zip(source.splitlines(), code.splitlines(), strict=False), start=1)
                line = next((number for number, (old, new) in pairs if old != new), 0)
                found.append(Mutant(module, line, name.removeprefix("core/"), code))
    return found


def _comparable(source: str) -> str:
    """Return the syntax tree of a module without annotations, and without `*` and `/` between parameters."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.arguments):
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.defaults += [default for default in node.kw_defaults if default is not None]
            for of_one_kind in (node.posonlyargs, node.kwonlyargs, node.kw_defaults):
                of_one_kind.clear()
    return ast.dump(tree)


def sample(module: str, count: int, seed: int) -> list[Mutant]:
    """Return at most `count` mutants of a module, each of another line: a random line first, then one of its mutants.

    The order depends on the text of the lines: most of the sample stays the same after a change of other lines.
    """

    def rank(text: str) -> str:
        return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()

    source = (ROOT / module).read_text(encoding="utf-8").splitlines()
    mutants_of_line: dict[int, list[Mutant]] = defaultdict(list)
    for mutant in mutants_of(module):
        mutants_of_line[mutant.line].append(mutant)
    lines = sorted(mutants_of_line, key=lambda line: rank(f"{module} {source[line - 1]}"))
    return [min(mutants_of_line[line], key=lambda mutant: rank(mutant.difference())) for line in lines[:count]]


def copy_repository(folder: Path) -> None:
    """Copy the files that git tracks."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def test_files(module: str) -> list[str]:
    """Return the test files that concern a module, its own first."""
    package, name = Path(module).parts[1:]
    own = Path("tests", package, f"test_{name}")
    files: list[Path] = []
    for tests in map(Path, MODULES[module]):
        found = sorted(path.relative_to(ROOT) for path in (ROOT / tests).glob("test_*.py"))
        files += [tests] if tests.suffix else found
    return list(map(str, sorted(files, key=lambda file: file != own)))


def tests_fail(folder: Path, files: Iterable[str], *options: str) -> bool:
    """Run test files in a copy of the repository, and return whether a test failed or took too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *options, *files]
    env = os.environ | {
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "ROADMAP_FASHION_MNIST": str(FASHION),
    }
    env["OMP_NUM_THREADS"] = "1"  # several mutants at once share the cores
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return True
    assert done.returncode in (0, 1, 2, 5), done.stdout.decode()[-2000:]
    return done.returncode in (1, 2)  # 2: the tests cannot be imported; 5: no slow tests


def is_killed(folders: Queue[Path], options: tuple[str, ...], mutant: Mutant) -> bool:
    """Return whether the tests of the mutant's module, chosen by options of pytest, notice the mutant."""
    folder = folders.get()
    target = folder / mutant.module
    try:
        target.write_text(mutant.code, encoding="utf-8")
        return tests_fail(folder, test_files(mutant.module), *options)
    finally:
        shutil.copy(ROOT / mutant.module, target)
        folders.put(folder)


def reason_of(module: str, difference: str) -> str | None:
    """Return why tests cannot notice the mutant, or None."""
    for of_module, pattern, reason in JUSTIFIED:
        if of_module in ("", module) and re.search(pattern, difference):
            return reason
    return None


def result_of(mutant: Mutant, outcome: str) -> dict[str, Any]:
    """Return the line of the results file."""
    fields = {"module": mutant.module, "line": mutant.line, "operator": mutant.operator, "outcome": outcome}
    return {**fields, "difference": mutant.difference()}


def table(results: list[dict[str, Any]]) -> str:
    """Return the table of CONTRIBUTING.md: per module the number of mutants, how many of them tests cannot notice
    (`JUSTIFIED`), and the shares of the others that were killed."""
    lines = ["| module | mutants | justified | killed by the fast tests | killed by all tests |"]
    lines += ["| :--- | ---: | ---: | ---: | ---: |"]
    modules = sorted({result["module"] for result in results})
    for name in [*modules, "all"]:
        chosen = [result for result in results if name in (result["module"], "all")]
        fast, slow, justified = (sum(r["outcome"] == outcome for r in chosen) for outcome in (FAST, SLOW, NOT_RUN))
        shares = [f"{100 * count / (len(chosen) - justified):.1f} %" for count in (fast, fast + slow)]
        cells = [f"`{name}`" if name != "all" else name, len(chosen), justified, *shares]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-module", type=int, default=20, help="number of mutants of each module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants tested at once")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--fast", action="store_true", help="only the fast tests")
    parser.add_argument("--retry", action="store_true", help="test again what earlier tests did not kill")
    parser.add_argument("modules", nargs="*", default=list(MODULES), help="default: the engine and the statistics")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "results.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    results = {(result["module"], result["difference"]): result for result in map(json.loads, lines)}
    with ProcessPoolExecutor(arguments.jobs) as processes:
        samples = processes.map(partial(sample, count=arguments.per_module, seed=arguments.seed), arguments.modules)
        sampled = [mutant for mutants_of_module in samples for mutant in mutants_of_module]
    mutants = {(mutant.module, mutant.difference()): mutant for mutant in sampled}
    if arguments.retry:
        results = {key: result for key, result in results.items() if result["outcome"] == FAST}
    for (module, difference), mutant in mutants.items():
        if reason_of(module, difference) is not None:
            results[module, difference] = result_of(mutant, NOT_RUN)
    folders: Queue[Path] = Queue()
    for number in range(arguments.jobs):
        folder = arguments.out / f"copy{number}"
        shutil.rmtree(folder, ignore_errors=True)
        copy_repository(folder)
        folders.put(folder)
    phases = {FAST: (), SLOW: ("-m", "slow")}
    with ThreadPoolExecutor(arguments.jobs) as pool, file.open("a", encoding="utf-8") as stream:
        for name, options in list(phases.items())[: 1 if arguments.fast else 2]:
            tried = {FAST: None, SLOW: NOT_FAST}[name]  # outcome of the mutants that these tests have not seen
            left = [key for key in mutants if results.get(key, {}).get("outcome") == tried]
            files = {file: None for module, _ in left for file in test_files(module)}
            assert not tests_fail(folders.queue[0], files, f"-n{arguments.jobs}", *options), (
                "tests fail without mutants"
            )
            killed = pool.map(partial(is_killed, folders, options), [mutants[key] for key in left])
            for key, is_dead in zip(left, killed, strict=True):
                outcome = name if is_dead else NOT_FAST if name == FAST else SURVIVED
                results[key] = result_of(mutants[key], outcome)
                stream.write(json.dumps(results[key], ensure_ascii=False) + "\n")
                stream.flush()
                print(f"{outcome:16} {key[0]}:{mutants[key].line} {key[1]}", flush=True)
    print(table([results[key] for key in mutants]))


if __name__ == "__main__":
    main()
