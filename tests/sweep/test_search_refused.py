"""Commands that +study=search refuses: one line, exit code 2, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TINY, CommandLine
from tests.helpers import call_main
from tests.sweep.test_search import OPTIONS


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("force: true", "force=True: a search uses finished runs"),
        ("reference: swin", "reference=swin: a search has no reference network"),
        ("seed: 7", "seed=7: the search chooses the seeds itself"),
    ],
)
def test_a_preset_cannot_set_what_a_search_refuses(fields: str, message: str, command_line: CommandLine) -> None:
    preset = Path("conf/preset/mine.yaml")
    preset.parent.mkdir(parents=True)
    preset.write_text(f"# @package _global_\n{fields}\n", "utf-8")
    done = command_line("--config-dir=conf", "+preset=mine", *OPTIONS, "search.budget=8")
    assert done.returncode == 2 and message in done.stderr and not Path("experiments").exists(), done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search.budget=soon",), "search.budget=soon: must be 1 to 10000 runs, or a time such as 90s, 30min or 2h"),
        (
            ("+transform=[gelu]",),
            "+transform=[gelu]: the search chooses the networks itself; set design.start and design.full instead",
        ),
        (("seed=0,1",), "seed=0,1: a search has one value for each field; run one command for each"),
        (("search.budget=8,9",), "search.budget=8,9: a search has one value for each field"),
        (("seed=5",), "seed=5: the search chooses the seeds itself; leave it out"),
        (("reference=swin",), "reference=swin: a search has no reference network; leave it out"),
        (("tune.trials=3",), "tune.trials=3: choose one search, +study=tune or +study=search"),
        (("force=true",), "force=True: a search uses finished runs"),
        (("search.max_macs=10",), "search.max_macs=10: the cheapest of the networks that the search trains first has"),
        (("search.confirm_seeds=0",), "search.confirm_seeds=0"),
        (
            ("design.full=training_recipe",),
            "design.full=training_recipe: must contain all transforms of design.start=training_recipe, and",
        ),
        (("design.start=grn",), "design.full=depthwise_conv: must contain all transforms of design.start=grn"),
        (("design.name=leave_one_out",), "design.name=leave_one_out: a search has its own networks; leave it out"),
        (("design.start=no_such_step",), "design.start=no_such_step"),
        (("data.holdout=100000",), "data.holdout=100000"),
        (("logger=tensorboard",), "logger: has no effect on a search"),
    ],
)
def test_a_wrong_setting_is_one_line_and_writes_nothing(arguments: tuple[str, ...], message: str) -> None:
    done = call_main(*OPTIONS, "search.budget=8", *arguments)
    assert done.code == 2 and message in done.err, done
    assert len(done.err.strip().splitlines()) == 1 and not Path("experiments").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search.budget=5",), "search.budget=5: needs a search, as +study=search"),
        (("-m", "search.budget=5"), "search.budget=5: a search needs a study; add +study=search or study=NAME"),
        (("-m", "+step=gelu", "design.name=search"), "design.name=search: belongs to the studies that +study=search"),
    ],
)
def test_a_search_that_is_no_study_is_refused(arguments: tuple[str, ...], message: str) -> None:
    done = call_main(*arguments, *TINY)
    assert done.code == 2 and message in done.err and not Path("experiments").exists(), done
