"""Strategies that generate the arguments of subcommands."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz.overrides import PATHS, odd_values, printable

STUDIES = [
    "demo", "runs", "trained", "nothing", "experiments/demo", "experiments/runs", "experiments/trained", "experiments",
    "experiments/nothing", "./experiments/demo/", "experiments/../experiments/demo", *PATHS,
]  # fmt: skip
RUNS = [
    "RUN0",
    "RUN1",
    "RUN3",
    "RUN6",
    "baseline",
    "seed0",
    "0",
    "experiments/runs/RUN1",
    "experiments/runs/nope",
    *PATHS,
]
STATUSES = ["completed", "failed", "diverged", "failed,diverged", "running", "interrupted", "nope", "failed,"]
AGES = ["0s", "1d", "30min", "2w", "1", "d", "-1d", "1e9w", "999999999w", "1.5h"]
study = st.one_of(st.sampled_from(STUDIES), odd_values)
run = st.one_of(st.sampled_from(RUNS), odd_values)
path = st.one_of(st.sampled_from([*PATHS, "new", "new/deep"]), printable.filter(lambda text: "/" not in text))


def _option(name: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return st.tuples(st.just(name), values).map(list)


FLAGS = st.sampled_from(
    ["--json", "--wide", "--orphaned", "--yes", "--once", "--help", "--nope", "-x", "--", "--no"]
).map(lambda flag: [flag])
OPTIONS: dict[str, list[st.SearchStrategy[list[str]]]] = {
    "report": [_option("--to", path)],
    "runs": [
        _option("--status", st.one_of(st.sampled_from(STATUSES), odd_values)),
        _option("--step", st.one_of(st.sampled_from(["gelu", "base*", "[", "*", "nope"]), odd_values)),
        _option("--seed", st.one_of(st.sampled_from(["0", "0,1", "-1", "0,", "1e3"]), odd_values)),
        _option("--older", st.one_of(st.sampled_from(AGES), odd_values)),
        _option("--out", path),
        _option("--log", run),
        st.tuples(st.just("--compare"), run, run).map(list),
        st.lists(run, max_size=2).map(lambda runs: ["--remove", *runs]),
    ],
    "watch": [_option("--out", path),
    _option("--every", st.one_of(st.sampled_from(["1", "0", "-1", "nan", "1e9"]), odd_values))],
    "doctor": [_option("--out", path), _option("--reports", path)],
    "predict": [
        _option("--top", st.one_of(st.sampled_from(["1", "10", "11"]), odd_values)),
        _option("--device", st.sampled_from(["cpu", "auto", "cuda", "nope"])),
        _option("--out", path),
    ],
}  # fmt: skip


@st.composite
def subcommands(draw: st.DrawFn) -> list[str]:
    """A subcommand and its arguments; RUN0 to RUN6 stand for names of runs."""
    name = draw(st.sampled_from(["runs"] * 6 + ["watch"] * 3 + ["report"] * 2 + ["doctor", "cost", "predict", "nope"]))
    options = OPTIONS.get(name, [])
    arguments = [name]
    if name == "cost":  # counting takes seconds: only arguments that are refused before it
        return ["cost", "--csv", draw(st.sampled_from(["images", "nope/x.csv", "dangling/x", "loop", "", "file/x"]))]
    positional = run if name == "predict" else study
    images = st.sampled_from(["images/train/a/0.png", "file", "images", "nope.png", "weights.pt", "dangling"])
    arguments += draw(st.lists(positional, max_size=2 if name == "report" else 1))
    arguments += draw(st.lists(images, max_size=2)) if name == "predict" else []
    for _ in range(draw(st.integers(0, 2))):
        arguments += draw(st.one_of(FLAGS, *options, *options))
    return [*arguments, "--once"] if name == "watch" else arguments
