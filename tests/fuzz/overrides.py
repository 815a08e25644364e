"""Strategies that generate overrides: fields, values, types, groups, duplicates, Unicode, options."""

from __future__ import annotations

import dataclasses
import re
from enum import Enum
from typing import Any, get_type_hints

from hypothesis import strategies as st

from roadmap.config import schema
from roadmap.config.paths import CONF
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import RunSpec

GROUPS = {
    group.name: sorted(path.stem for path in group.glob("*.yaml")) for group in sorted(CONF.iterdir()) if group.is_dir()
}
GROUPS["step"] = sorted(load_roadmap().steps)
SECTIONS = ("network", "recipe", "budget", "data", "base", "design", "transforms", "hydra")

# Values that have broken parsers, types, shells or paths before. An argument cannot contain a NUL.
ODD_VALUES = [
    "", "null", "~", "nan", "inf", "-inf", "-1", "0", "-0.0", "1e400", "1e-400", "0.5", "1.0",
    "99999999999999999999", "2147483648", "9223372036854775808", "0x10", "1_000", "01", "true", "True", "no",
    "[]", "[1]", "[1,2]", "[0,1,1,1]", "[-1,1,1,1]", "[1,1,1,1,1]", "[a,b]", "[null]", "[[1]]", "{}", "{a:1}",
    "{a:{b:c}}", "''", "'a b'", '"', "'", "\\", "${seed}", "${nope}", "${oc.env:NOPE}", "${oc.env:HOME}", "${",
    "${network}", "${.}", "???", "a b", " ", "a\nb", "a\tb", "\x1b[31m", "é", "\u202e", "\U0001f600", "ß" * 40,
    "x" * 300, "x" * 3000, "..", ".", "/", "a/b", "../../x", "a/../b", "-x", "--", "=", "a=b", ":", "a:b", ",",
    "1,", ",1", "1,2", "(", ")", "[", "]", "{", "}", "glob(*)", "glob(zz*)", "range(0,3)", "range(3,0)",
    "range(0,3,0)", "range(a)", "choice(1,2)", "choice()", "interval(0,1)", "sort(2,1)", "shuffle(1,2)",
    "int(1.5)", "str(1)", "float(x)", "json_str({})", "extend_list(1)", "extend_list(a,b)", "tag(a,1)", "%s",
    "{0}", "|", "a|b", "<b>", "*", "?", "#", "日本語", "con", "NUL", ".hidden", "study.json", "record.json", "runs",
]  # fmt: skip
PATH_FIELDS = ("out", "reports", "study", "weights", "data.root")
PATHS = [
    "images",
    "experiments",
    "experiments/runs",
    "weights.pt",
    "broken.pt",
    "dangling",
    "loop",
    "file",
    "file/below",
    "deep/er/x",
    ".",
    "",
    "images/train",
]


def _fields(spec: type, prefix: str = "") -> dict[str, Any]:
    """Return field path -> type."""
    found: dict[str, Any] = {}
    hints = get_type_hints(spec, vars(schema))
    for field in dataclasses.fields(spec):
        hint = hints[field.name]
        found |= (
            _fields(hint, f"{prefix}{field.name}.") if dataclasses.is_dataclass(hint) else {prefix + field.name: hint}
        )
    return found


FIELDS = _fields(RunSpec)


# `plan`, `parallel`, `processes` and the paths have their own tests.
TRAINED_FIELDS = [
    path for path in sorted(FIELDS) if path not in (*PATH_FIELDS, "plan", "compile", "processes", "data.name")
]


def _choices(hint: Any) -> list[str]:
    """Return the choices of a field whose type is an Enum or an optional Enum."""
    options = [hint, *getattr(hint, "__args__", ())]
    return [
        str(member.value)
        for option in options
        if isinstance(option, type) and issubclass(option, Enum)
        for member in option
    ]


numbers = st.one_of(
    st.integers(-3, 40), st.integers(), st.floats(width=32), st.sampled_from([1 / 3, 1e-9, 1e9, 0.999999999, 1000000])
).map(str)
printable = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
odd_values = st.one_of(st.sampled_from(ODD_VALUES), printable, numbers)


def _value_of(path: str) -> st.SearchStrategy[str]:
    hint = FIELDS[path]
    choices = _choices(hint)
    fitting: st.SearchStrategy[str]
    if choices:
        fitting = st.sampled_from(choices)
    elif hint is bool:
        fitting = st.sampled_from(["true", "false"])
    elif path in PATH_FIELDS:
        fitting = st.sampled_from(PATHS)
    elif "list" in str(hint):
        fitting = st.lists(numbers, max_size=5).map(lambda values: f"[{','.join(values)}]")
    else:
        fitting = numbers
    return st.one_of(fitting, odd_values)


prefixes = st.sampled_from(["", "", "", "", "+", "++", "~"])


@st.composite
def field_override(draw: st.DrawFn) -> str:
    path = draw(st.sampled_from(sorted(FIELDS)))
    key = path
    match draw(st.sampled_from(["right"] * 8 + ["typo", "deeper", "section"])):
        case "typo":
            at = draw(st.integers(0, len(path) - 1))
            key = path[:at] + draw(st.sampled_from(["", "x", ".", " ", "é"])) + path[at + 1 :]
        case "deeper":
            key = f"{path}.{draw(st.sampled_from(['x', '0', '_target_', '']))}"
        case "section":
            key = draw(st.sampled_from(SECTIONS))
    prefix = draw(prefixes)
    return prefix + key if prefix == "~" and draw(st.booleans()) else f"{prefix}{key}={draw(_value_of(path))}"


@st.composite
def group_override(draw: st.DrawFn) -> str:
    group = draw(st.sampled_from([*GROUPS, "hydra/launcher", "hydra/sweeper", "hydra/help", "nope", "transforms"]))
    choice = st.sampled_from(GROUPS.get(group, ["basic", "joblib", "ray", "submitit_slurm", "joblibb"]))
    several = st.lists(choice, max_size=3).map(lambda names: f"[{','.join(names)}]")
    prefix = draw(st.sampled_from(["", "+", "+", "~"]))
    package = draw(st.sampled_from(["", "", "", "", "@x", "@network", "@_global_", "@:x"]))
    # Only the cheapest study is composed in full: a study has 5 to 60 runs, and composing one takes 0.2 s.
    if group == "study" and prefix == "+":
        return f"+study={draw(st.one_of(st.just('kernel_sizes'), odd_values))}"
    return f"{prefix}{group}{package}={draw(st.one_of(choice, choice, choice, several, odd_values))}"


options = st.sampled_from([
    "-m", "--multirun", "--cfg", "--cfg=job", "--cfg=nope", "-c", "--resolve", "--package=network", "--package=nope",
    "-p", "--run",
    "--help", "-h", "--hydra-help", "--version", "--info", "--info=defaults", "--info=searchpath", "--info=nope", "-x",
    "--config-name=nope", "--config-name=config", "--config-path=nope", "--config-dir=nope", "--config-dir=images",
    "-cn", "--experimental-rerun=nope", "--shell-completion", "--nope", "--", "-",
])  # fmt: skip
VALUED_OPTIONS = ("-c", "--cfg", "-p", "-cn", "--package", "--info")
hydra_overrides = st.sampled_from([
    "hydra.run.dir=elsewhere", "hydra.sweep.dir=elsewhere", "hydra.output_subdir=.hydra", "hydra.job.chdir=true",
    "hydra.mode=MULTIRUN", "hydra.mode=RUN", "hydra.mode=nope", "hydra.verbose=true", "hydra.verbose=nope",
    "hydra/job_logging=default", "hydra/job_logging=nope", "hydra.sweeper.params={seed:'1,2'}",
    "hydra.sweeper.params=3",
    "hydra.sweeper._target_=nope", "hydra.launcher=null", "hydra.searchpath=[nope]", "hydra.job.name=x", "hydra=null",
    "hydra.sweeper.params.seed=1", "+hydra.sweeper.params.seed='0,1'", "hydra.callbacks={a:{_target_:nope}}",
])  # fmt: skip
transforms = st.lists(st.sampled_from([*GROUPS["transform"], *GROUPS["ingredient"]]), min_size=1, max_size=4).map(
    lambda names: f"+transform=[{','.join(names)}]"
)
sweeps = st.sampled_from(
    ["seed=0,1", "seed=range(0,2)", "+step=gelu,grn", "budget.epochs=1,2", "base=nano,pico", "seed=0,0"]
)
# Weighted: most overrides reach the composition, few are refused by the parser.
KINDS = (
    [field_override()] * 12
    + [group_override()] * 3
    + [transforms, transforms, sweeps, options, hydra_overrides, odd_values]
)
word = st.sampled_from(range(len(KINDS))).flatmap(KINDS.__getitem__)
number_of_words = st.sampled_from([1] * 7 + [2, 2, 3])


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    """Overrides of one command: often one override that may be invalid, with or without a step; sometimes one twice."""
    words = [draw(word) for _ in range(draw(number_of_words))]
    if draw(st.booleans()):
        words.insert(0, f"+step={draw(st.sampled_from(GROUPS['step']))}")
    if draw(st.integers(0, 9)) == 9:
        words.append(draw(st.sampled_from(words)))
    if draw(st.integers(0, 4)) == 4:
        words.insert(0, "-m")
    return [*words, "job"] if words[-1] in VALUED_OPTIONS else words  # the option would take `plan=true` as its value


@st.composite
def trainings(draw: st.DrawFn) -> list[str]:
    """Overrides of one command that trains if they are possible: existing fields with odd values."""
    words = []
    for _ in range(draw(number_of_words)):
        path = draw(st.sampled_from(TRAINED_FIELDS))
        values = st.one_of(_value_of(path), numbers)
        if "width" in path:  # a network of some hundred channels takes half a minute
            values = values.filter(lambda value: re.fullmatch(r"\d{3,6}(\.\d*)?", value) is None)
        words.append(f"++{path}={draw(values)}")
    return [f"+step={draw(st.sampled_from(GROUPS['step']))}", *words]
