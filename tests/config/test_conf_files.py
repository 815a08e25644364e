"""Damaged files of conf/: a command that uses one gives a one-line error with its name; other commands work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from roadmap.config.steps import all_steps, all_transforms, ordered_steps
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
    "section is a number": (ENTRY.replace("my label", "x, section: 2.6"), "section=2.6: must be text, in quotes"),
    "needs is a word": (ENTRY.replace("my label", "x, needs: gelu"), "needs='gelu': must be a list of the names"),
    "needs nothing known": (ENTRY.replace("my label", "x, needs: [nothing]"), "needs nothing, which is no file in"),
    "needs itself": (ENTRY.replace("my label", "x, needs: [mine]"), "must be a list of the names of other transforms"),
    "variant is a word": (ENTRY.replace("my label", "x, variant: maybe"), "variant='maybe': must be true or false"),
    "defaults is a word": (ENTRY + "defaults: gelu\n", "defaults must be a list"),
    "includes itself": (ENTRY + "defaults: [/transform/mine]\n", "includes itself; remove /transform/mine"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_transform_gives_a_one_line_error_with_its_name(damage: str, conf: Path) -> None:
    content, message = DAMAGED[damage]
    write_mine(conf, content)
    assert_refused(call_main("+transform=mine", "plan=true", "plan_device=none"), "transform/mine.yaml: ", message)


def test_a_damaged_file_does_not_affect_commands_that_do_not_use_it(conf: Path) -> None:
    write_mine(conf, DAMAGED["typo"][0])
    (conf / "step" / "other.yaml").write_bytes(bytes(range(128, 256)))
    assert call_main("+step=grn", "plan=true", "plan_device=none").code == 0
    assert call_main("+step=gelu", "+transform=[layer_norm]", "--cfg", "job").code == 0
    assert call_main("-m", "+step=grn", "study=two", "plan=true", "plan_device=none").code == 0
    assert ordered_steps()[-1].name == "grn"
    assert "mine" not in all_transforms() and "other" not in all_steps()


def test_a_note_says_that_a_damaged_step_may_change_a_name(conf: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The nearest step gives a network its name, so that the run of a network that is no step may get another name."""
    (conf / "step" / "other.yaml").write_text(HEADER + "defaults: [\n")
    note = "note: conf/step/other.yaml: is not valid YAML in line 3 "
    for arguments in (("+step=gelu", "+transform=[grn]"), ("-m", "+step=gelu", "+transform=[grn]", "seed=0,1")):
        caplog.clear()
        assert call_main(*arguments, "plan=true", "plan_device=none").code == 0
        line = caplog.messages[0].replace(f"{conf.parent}/", "")
        assert line.startswith(note) and "a network may have another name" in line
    caplog.clear()
    assert call_main("+step=gelu", "plan=true", "plan_device=none").code == 0 and "note" not in caplog.text


def test_a_step_with_a_damaged_transform_is_refused_in_a_study_that_uses_it(conf: Path) -> None:
    write_mine(conf, DAMAGED["typo"][0])
    study = "study: two\nhydra: {mode: MULTIRUN, sweeper: {params: {+step: 'glob(mi*)'}}}\n"
    (conf / "study" / "two.yaml").write_text(HEADER + study)
    (conf / "step" / "mine.yaml").write_text(HEADER + "defaults: [gelu, /transform/mine]\n")
    forget_files()
    for arguments in (("+step=mine",), ("-m", "+step=gelu,mine"), ("+study=two",)):
        assert_refused(
            call_main(*arguments, "seed=0", "plan=true", "plan_device=none"),
            "transform/mine.yaml: ",
            "is not valid YAML",
        )


STEPS = {
    "itself": ("defaults: [mine]\n", "step/mine.yaml: includes itself (mine -> mine); correct its defaults"),
    "a circle": ("defaults: [circle]\n", "includes itself (mine -> circle -> mine)"),
    "an unknown step": ("defaults: [nothing]\n", "step/mine.yaml: includes nothing, which is not in conf/step"),
    "an unknown transform": ("defaults: [/transform/no]\n", "includes no, which is not in conf/transform"),
    "two steps": ("defaults: [gelu, grn]\n", "step/mine.yaml: includes more than one step (gelu, grn)"),
}


@pytest.mark.parametrize("includes", STEPS)
def test_a_step_that_includes_itself_or_an_unknown_file_is_refused(includes: str, conf: Path) -> None:
    content, message = STEPS[includes]
    (conf / "step" / "mine.yaml").write_text(HEADER + content)
    (conf / "step" / "circle.yaml").write_text(HEADER + "defaults: [mine]\n")
    assert_refused(call_main("+step=mine", "plan=true", "plan_device=none"), ".yaml: ", message)
    assert call_main("+step=gelu", "plan=true", "plan_device=none").code == 0


def test_a_file_name_with_other_characters_is_refused(conf: Path) -> None:
    (conf / "step" / "my step.yaml").write_text(HEADER + "defaults: [gelu]\n")
    assert call_main("+step=gelu", "plan=true", "plan_device=none").code == 0
    for arguments in (("+step='my step'",), ("-m", "+step=glob(my*)")):
        assert_refused(
            call_main(*arguments, "plan=true", "plan_device=none"),
            "my step.yaml",
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
