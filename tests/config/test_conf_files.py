"""Damaged files of conf/: a command that uses one gives a one-line error with its name; other commands work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from roadmap.config.roadmaps import load_roadmap
from tests.conf_files import copy_conf, forget_files
from tests.helpers import Result, call_main

HEADER = "# @package _global_\n"
ENTRY = HEADER + "transforms:\n  mine: {label: my label}\n"


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a copy of conf/ that the package reads; the working folder is empty."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield copy_conf(tmp_path, monkeypatch)
    forget_files()


def write_mine(conf: Path, content: str | bytes) -> None:
    path = conf / "transform" / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def assert_refused(result: Result, file: str, message: str) -> None:
    assert (result.code, result.out) == (2, ""), result
    assert result.err.count("\n") == 1 and file in result.err and message in result.err, result.err
    assert "unicode string" not in result.err and not list(Path.cwd().iterdir())


DAMAGED = {
    "typo": (ENTRY + "network: {width: 3\n", "is not valid YAML in line 5"),
    "tab": (HEADER + "network:\n\twidth: 5\n", "is not valid YAML in line 3"),
    "binary": (bytes(range(128, 256)), "is not a text file in UTF-8"),
    "empty": ("", "needs the line # @package _global_ before its first field"),
    "list": (HEADER + "- a\n", "must contain fields (field: value), not list"),
    "text": (HEADER + "hello\n", "must contain fields (field: value), not str"),
    "late header": (ENTRY.removeprefix(HEADER) + HEADER, "needs the line # @package _global_ before its first field"),
    "no header": (ENTRY.removeprefix(HEADER), "needs the line # @package _global_ before its first field"),
    "no entry": (HEADER + "network: {width: 3}\n", "has no entry transforms.mine; add mine: {label: my label}"),
    "another entry": (ENTRY + "  other: {label: x}\n", "transforms must have the entry mine alone"),
    "no label": (HEADER + "transforms: {mine: {section: '2.6'}}\n", "transforms.mine has no label; add one"),
    "label is a number": (ENTRY.replace("my label", "7"), "transforms.mine.label=7: must be text; write it in quotes"),
    "label with a new line": (ENTRY.replace("my label", '"a\\nb"'), "must be 1 to 80 printable characters in one line"),
    "label is long": (ENTRY.replace("my label", "x" * 81), "must be 1 to 80 printable characters in one line"),
    "label is blank": (ENTRY.replace("my label", "' '"), "must be 1 to 80 printable characters in one line"),
    "section": (ENTRY.replace("my label", "x, section: 2.6"), "section=2.6: the roadmap has its sections"),
    "needs is a word": (ENTRY.replace("my label", "x, needs: gelu"), "needs='gelu': must be a list of the names"),
    "needs nothing known": (ENTRY.replace("my label", "x, needs: [nothing]"), "needs nothing, which is no file in"),
    "needs itself": (ENTRY.replace("my label", "x, needs: [mine]"), "must be a list of the names of other transforms"),
    "variant": (ENTRY.replace("my label", "x, variant: true"), "variant=True: the roadmap has its variants"),
    "reference is a word": (
        ENTRY.replace("my label", "x, reference: maybe"),
        "reference='maybe': must be true or false",
    ),
    "defaults is a word": (ENTRY + "defaults: gelu\n", "defaults must be a list"),
    "includes itself": (ENTRY + "defaults: [/transform/mine]\n", "includes itself; remove /transform/mine"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_transform_gives_a_one_line_error_with_its_name(damage: str, conf: Path) -> None:
    content, message = DAMAGED[damage]
    write_mine(conf, content)
    assert_refused(call_main("+transform=mine", "plan=true", "plan_device=none"), "transform/mine.yaml: ", message)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ("{3: [gelu]}", "design.needs.3: must be a name; write it in quotes"),
        ("[gelu]", "conf/study/mine.yaml: has a list in the place of a section; write its entries as NAME: VALUE"),
        ("{gelu: [grn]}", "design.needs.gelu: grn is not in this design; use one of training_recipe, "),
    ],
)
def test_a_study_file_with_impossible_needs_is_refused(needs: str, message: str, conf: Path) -> None:
    text = f"{HEADER}study: mine\ndesign: {{name: leave_one_out, needs: {needs}}}\n"
    (conf / "study" / "mine.yaml").write_text(text, encoding="utf-8")
    assert_refused(call_main("-m", "+study=mine"), "", message)


def test_a_damaged_file_does_not_affect_commands_that_do_not_use_it(conf: Path) -> None:
    write_mine(conf, DAMAGED["typo"][0])
    (conf / "roadmap" / "other.yaml").write_bytes(bytes(range(128, 256)))
    assert call_main("+step=grn", "plan=true", "plan_device=none").code == 0
    assert call_main("+step=gelu", "+transform=[layer_norm]", "--cfg", "job").code == 0
    assert call_main("-m", "+step=grn", "study=two", "plan=true", "plan_device=none").code == 0
    assert load_roadmap().step_names[-1] == "grn"
    assert "mine" not in load_roadmap().transforms


def test_a_damaged_transform_affects_the_steps_that_include_it_only(conf: Path) -> None:
    (conf / "transform" / "gelu.yaml").write_text(ENTRY + "network: {width: 3\n")
    forget_files()
    study = "study: two\nhydra: {mode: MULTIRUN, sweeper: {params: {+step: 'glob(ge*)'}}}\n"
    (conf / "study" / "two.yaml").write_text(HEADER + study)
    for arguments in (("+step=gelu",), ("+step=layer_norm",), ("-m", "+step=baseline,gelu"), ("+study=two",)):
        assert_refused(
            call_main(*arguments, "seed=0", "plan=true", "plan_device=none"),
            "transform/gelu.yaml: ",
            "is not valid YAML",
        )
    for step in ("large_kernel", "kernel_11"):
        assert call_main(f"+step={step}", "plan=true", "plan_device=none").code == 0
    assert_refused(call_main("+study=leave_one_out", "plan=true"), "transform/gelu.yaml: ", "is not valid YAML")


def test_a_file_name_with_other_characters_is_refused(conf: Path) -> None:
    (conf / "transform" / "my gelu.yaml").write_text(ENTRY.replace("mine", "my gelu"))
    assert call_main("+step=gelu", "plan=true", "plan_device=none").code == 0
    assert_refused(
        call_main("+transform='my gelu'", "plan=true", "plan_device=none"),
        "my gelu.yaml",
        "must be 1 to 64 ASCII letters, digits",
    )


@pytest.mark.parametrize("group", ["study", "preset", "recipe"])
@pytest.mark.parametrize("damage", ["typo", "binary", "list"])
def test_a_damaged_file_of_another_group_gives_a_one_line_error(group: str, damage: str, conf: Path) -> None:
    content = DAMAGED[damage][0]
    (conf / group / "mine.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    override = f"{'' if group == 'recipe' else '+'}{group}=mine"
    assert_refused(call_main(override, "plan=true", "plan_device=none"), f"{group}/mine", "")


def test_a_preset_that_includes_itself_is_named(conf: Path) -> None:
    (conf / "preset" / "mine.yaml").write_text(HEADER + "defaults: [mine]\n")
    assert_refused(call_main("+preset=mine", "plan=true", "plan_device=none"), "preset/mine.yaml: ", "includes itself")


def test_a_typo_in_a_field_of_a_file_names_the_file_and_the_field(conf: Path) -> None:
    write_mine(conf, ENTRY + "network: {widht: 3}\n")
    message = "network.widht: unknown field; did you mean network.width?"
    assert_refused(call_main("+transform=mine", "plan=true", "plan_device=none"), "conf/transform/mine.yaml: ", message)
    write_mine(conf, ENTRY + "network: {width: wide}\n")
    forget_files()
    assert_refused(call_main("+transform=mine", "plan=true", "plan_device=none"), "transform/mine", "network.width")


def test_a_directory_and_a_dangling_link_as_a_file_are_refused(conf: Path) -> None:
    (conf / "transform" / "folder.yaml").mkdir()
    (conf / "transform" / "link.yaml").symlink_to("nowhere.yaml")
    assert call_main("+step=gelu", "plan=true", "plan_device=none").code == 0
    for name in ("folder", "link"):
        assert_refused(
            call_main(f"+transform={name}", "plan=true", "plan_device=none"), f"transform/{name}.yaml: ", "delete"
        )
