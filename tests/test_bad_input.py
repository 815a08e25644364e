"""Bad input on the command line: one line on standard error, exit code 2, nothing written."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from roadmap.config.limits import LARGEST, format_limit
from roadmap.config.schema import RunSpec
from tests.conftest import ROOT
from tests.helpers import call_main

LONG = "x" * 300
NAME = "must be 1 to 64 ASCII letters, digits, '_', '-' or '.', and start with a letter or a digit"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assert_refused(message: str, *arguments: str) -> None:
    before = sorted(Path.cwd().iterdir())
    result = call_main(*arguments)
    assert (result.code, result.out) == (2, ""), result
    assert result.err.startswith("error: ") and result.err.count("\n") == 1 and len(result.err) < 700, result.err
    assert message in result.err, result.err
    assert sorted(Path.cwd().iterdir()) == before


CHANGED_SILENTLY = [
    ("network.depths=[0,1,1,1]", "network.depths=[0, 1, 1, 1]: must be at least 1 in every stage"),
    ("network.depths=[1,1,1,-1]", "network.depths=[1, 1, 1, -1]: must be at least 1 in every stage"),
    ("base.depths=[0,1,1,1]", "base.depths=[0, 1, 1, 1]: must be at least 1 in every stage"),
    ("base.swin_depths=[0,1,1,1]", "base.swin_depths=[0, 1, 1, 1]: must be at least 1"),
    ("base.depth_factor=0.1", "base.depth_factor=0.1: leaves a stage of network.depths=[1, 1, 2, 1] without a block"),
    ("base.width_factor=0.01", "base.width_factor=0.01: leaves no channel of network.width=16"),
    ("budget.epochs=0.2", "budget.epochs=0.2: must be at least 1"),
    ("recipe.epochs=0.5", "recipe.epochs=0.5: must be at least 1"),
    ("fast_kernels=7", "fast_kernels=7: must be true or false"),
    ("recipe.rand_augment=rand-m20", "rand-m20: the magnitude m must be at most 10"),
    ("recipe.rand_augment=rand-m9-mmax0", "'mmax0' is invalid"),
    ("recipe.rand_augment=rand-m9-m5", "'m5' is invalid"),
]


@pytest.mark.parametrize(("override", "message"), CHANGED_SILENTLY, ids=lambda text: text.split(":")[0])
def test_a_value_that_would_be_changed_is_refused(override: str, message: str) -> None:
    assert_refused(message, override)


@pytest.mark.parametrize(
    "name", ["..", ".", "a/b", "'a b'", '"a b"', LONG, "é", "٣", "", "null", "-x", "{a: 1}", '"a\nb"']
)
def test_a_study_name_with_other_characters_is_refused(name: str) -> None:
    assert_refused(NAME, f"study={name}")
    assert_refused(NAME, "+study=roadmap", f"study={name}")


@pytest.mark.parametrize("name", ["a", "1", "1e5", "true", "A-b_c.d", "x" * 64])
def test_a_study_name_with_allowed_characters_is_accepted(name: str) -> None:
    result = call_main(f"study={name}", "plan=true", "plan_device=none")
    assert result.code == 0 and f"\n{name}: 1 runs" in result.out


def test_a_study_without_its_plus_is_refused_with_a_hint() -> None:
    assert_refused(
        "study=roadmap: only names the study and does not select its runs; use +study=roadmap", "study=roadmap"
    )
    assert_refused("use +study=recipe, or another name", "-m", "study=recipe", "seed=0,1")
    assert (
        call_main("study=roadmap", "+step=gelu", "plan=true", "plan_device=none").code == 0
    )  # a run that joins the study


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "+study=roadmap,recipe"),
        ("+study=roadmap,recipe",),
        ("+study=[roadmap,recipe]",),
        ("-m", "+study=choice(roadmap,recipe)"),
        ("-m", "+study=glob(*)"),
        ("+study=roadmap", "+study=recipe"),
        ("-m", "study=a,b", "+step=gelu"),
    ],
    ids=" ".join,
)
def test_two_studies_in_one_command_are_refused_with_a_hint(arguments: tuple[str, ...]) -> None:
    assert_refused("one study per command", *arguments)


def test_an_included_study_may_be_renamed() -> None:
    for name in ("mine", "kernel_sizes", "recipe"):
        result = call_main(
            "+study=kernel_sizes", f"study={name}", "+step=gelu", "seed=0,1", "plan=true", "plan_device=none"
        )
        assert result.code == 0 and f"\n{name}: 2 runs" in result.out, result


WITHOUT_EFFECT = [
    ("data.test_split=nope", "data.test_split=nope: has no effect with data.name=digits; leave it out"),
    ("data.train_split=nope", "has no effect"),
    ("data.input_key=x", "has no effect"),
    ("data.num_train=3", "has no effect"),
    ("data.on_error=skip", "data.on_error=skip: has no effect"),
]


@pytest.mark.parametrize(("override", "message"), WITHOUT_EFFECT, ids=[override for override, _ in WITHOUT_EFFECT])
def test_a_field_without_effect_on_the_dataset_is_refused(override: str, message: str) -> None:
    assert_refused(message, override)


OTHER = [
    (("hydra/launcher=joblibb",), "hydra/launcher=joblibb: unknown; use submitit_slurm, submitit_local, ray, or leave"),
    (("-m", "+step=gelu", "hydra/launcher=joblib"), "use submitit_slurm, submitit_local, ray"),
    (("hydra/sweeper=basic",), "hydra/sweeper=basic: cannot be set"),
    (("hydra.output_subdir=x",), "cannot be set"),
    (("+study=roadmap", "hydra.mode=RUN"), "cannot be set"),
    (("--cfg", "jobs"), "--cfg jobs: must be job, hydra or all"),
    (("+step=gelu", "--cfg"), "--cfg: must be job, hydra or all"),
    (("+step=gelu", "-p", "network"), "--package: shows a part of the config; use it with --cfg job"),
    (("--cfg", "job", "--package=netwrk"), "--package netwrk: unknown section; did you mean network?"),
    (("+=",), "+=: is not a valid override"),
    (("+step=[gelu,grn]",), "one step per run; to train a run for each, write -m +step=gelu,grn"),
    (("base=[pico,nano]",), "one base per run; to train a run for each, write -m base=pico,nano"),
    (("--nonsense",), "--nonsense: unknown option; use -m, --cfg job"),
    (("~network",), "~network: cannot be removed"),
    (("~seed",), "~seed: cannot be removed"),
    (("network=null",), "network=null: must be a section; set its fields, as network.depths=..."),
    (("data=null",), "data=null: must be the name of a config; use one of cifar10"),
    (("+step=5",), "step=5: must be the name of a config; use one of baseline"),
    (("+step=gelu", "+step=grn"), "step: given more than once; give it once, or several as -m +step=a,b"),
    (("seed=1,2",), "seed=1,2: several values; add -m to train each of them"),
    (("+transforms={a: {label: x}}",), "cannot be set; use +transform=NAME"),
    (("~transforms.gelu", "+step=gelu"), "cannot be set; use +transform=NAME"),
    (("data=timm",), "data.name: is required; set data.name=..."),
    (("weights=a\\\nb",), "weights=a"),
    (('recipe.name="a\nb"',), "recipe.name=a\\nb: "),
    (('data.train_split="a\x07b"',), "data.train_split=a\\x07b: must not contain line breaks or control characters"),
    ((f"recipe.name={LONG * 5}",), "must have at most 1000 characters"),
    (("network.width=3.7",), "network.width=3.7: must be a whole number"),
    (("network.stem=cnv",), "network.stem=cnv: must be one of conv, deep, patchify"),
    (("seed=null",), "seed=null: must be a whole number"),
    (("network.layer_scale=x",), "network.layer_scale=x: must be a number, or null"),
    (("recipe.betas=[a,b]",), "recipe.betas=[a,b]: must be a list of numbers"),
    ((" ccumulate=0",), "' ccumulate=0': is not a valid override; write field=value"),
    (("recipe.name=(",), "recipe.name=(: is not a valid override; write field=value"),
    (("recipe.rand_augment=rand-x9",), "'x9' is invalid; write a number after m, n, mstd, mmax or inc"),
    (("data.crop_padding=9",), "data.crop_padding=9: must be from 0 to data.image_size=8"),
    (("base.paper_table=3",), "base.paper_table=3: must be 10, 11 or null"),
    (("-m", "+step=gelu", "seed=range(0,1000000000000)"), "seed: the sweep has more than 10000 runs"),
    (("-m", "+step=gelu", "seed=0,99999999999999999999"), "seed=99999999999999999999: must be at most 2^63 - 1"),
    (("+study=attribution", "design.orders=1000000000"), "design.orders=1000000000: must be at most 100"),
    (("search.budget={a: 1}",), "search.budget={'a': 1}: must be 1 to 10000 runs, or a time such as 90s, 30min or 2h"),
    (("search.budget=[1,2]",), "search.budget=[1, 2]: must be 1 to 10000 runs"),
    (("search.confirm_seeds=0",), "search.confirm_seeds=0: must be at least 1"),
    (("logger=0",), "logger=0: must be a tracker or a list of them"),
    ((f"out={LONG}",), "a name has more than 255 bytes"),
    ((f"weights={LONG}",), "no such file"),
]


@pytest.mark.parametrize(("arguments", "message"), OTHER, ids=[" ".join(words)[:40] for words, _ in OTHER])
def test_other_bad_input_gives_a_one_line_error_that_names_the_field(arguments: tuple[str, ...], message: str) -> None:
    assert_refused(message, *arguments)


def numeric_fields(section: Any, prefix: str = "") -> list[str]:
    """Return the paths of the fields whose type is a number or a list of numbers."""
    paths: list[str] = []
    for field in dataclasses.fields(section):
        value, path = getattr(section, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            paths += numeric_fields(value, f"{path}.")
        elif "int" in str(field.type) or "float" in str(field.type) or path == "search.budget":  # a number or a time
            paths.append(path)
    return paths


def test_every_number_has_a_limit() -> None:
    assert sorted(LARGEST) == sorted(numeric_fields(RunSpec()))


def test_limits_are_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = [line for line in page.split("## Limits")[1].splitlines() if line.startswith("| ")]
    for path, largest in LARGEST.items():
        row = next((row for row in rows if f"`{path}`" in row), "")
        assert row.startswith(f"| {format_limit(largest)} |"), f"{path}: {format_limit(largest)}"


# Numbers that each numeric field refuses. Composing takes a tenth of a second: the fast suite tests only some fields.
WRONG = ("nan", "inf", "-inf", "-1", "1e300", "99999999999999999999999")
FAST = {"network.width", "network.depths", "data.mean", "design.orders"}


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[] if path in FAST else pytest.mark.slow) for path in sorted(LARGEST)]
)
def test_a_number_that_is_not_finite_negative_or_huge_is_refused(path: str) -> None:
    is_list = path.endswith((".depths", "_depths", ".betas", ".mean", ".std"))
    for number in WRONG:
        value = f"[{','.join([number] * (4 if 'depths' in path else 1))}]" if is_list else number
        if not (number == "-1" and path == "data.mean"):
            assert_refused(path, f"{path}={value}")


@pytest.mark.parametrize("target", ["nowhere", "link", "file"], ids=["dangling", "loop", "file"])
@pytest.mark.parametrize("field", ["out", "reports"])
def test_a_folder_that_cannot_be_written_is_refused(field: str, target: str) -> None:
    Path("file").touch()
    Path("link").symlink_to(target)
    for path in ("link", "link/below"):
        assert_refused(f"{field}={path}: ", f"{field}={path}")
        result = call_main(f"{field}={path}", "plan=true", "plan_device=none")  # a dry run writes nothing
        assert result.code == 0 and not result.err


def test_a_file_in_place_of_the_folder_of_a_study_is_refused() -> None:
    for path in ("out/runs", "reports/mine"):
        Path(path).parent.mkdir()
        Path(path).touch()
    assert_refused("out=out: ", "out=out", "study=other")
    assert_refused("reports=reports: ", "out=here", "study=mine")


def test_a_dry_run_and_cfg_work_in_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def access(_path: object, mode: int) -> bool:
        return not mode & os.W_OK

    monkeypatch.setattr(os, "access", access)
    assert_refused("is not a writable folder; use another folder", "+step=gelu")
    assert call_main("+step=gelu", "plan=true", "plan_device=none").code == 0
    assert call_main("+step=gelu", "--cfg", "job").code == 0


def test_cfg_says_what_a_study_sweeps_over() -> None:
    result = call_main("+study=roadmap", "--cfg", "job")
    assert result.code == 0 and result.out.startswith("# +study=roadmap is a sweep: '+step=glob(*)' 'seed=0,1,2'\n")
    assert yaml.safe_load(result.out)["study"] == "roadmap"
    assert "design.name=leave_one_out chooses the networks" in call_main("+study=leave_one_out", "--cfg", "job").out
    assert call_main("+step=gelu", "--cfg", "job").out.startswith("network:")


def test_options_may_follow_overrides() -> None:
    result = call_main("+step=gelu", "-m", "seed=0,1", "plan=true", "plan_device=none")
    assert result.code == 0 and "2 runs" in result.out


def test_help_shows_three_examples() -> None:
    result = call_main("--help")
    assert result.code == 0
    examples = result.out.split("Examples:\n")[1].splitlines()
    assert sum(line.startswith("roadmap ") and "  " in line for line in examples) == 3
    for line, dry_run in zip(
        examples,
        (
            (
                "plan=true",
                "plan_device=none",
            ),
            ("--cfg", "job"),
            (
                "plan=true",
                "plan_device=none",
            ),
        ),
        strict=False,
    ):
        assert call_main(*line.split("  ")[0].split()[1:], *dry_run).code == 0
