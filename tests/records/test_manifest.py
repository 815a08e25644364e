"""study.json: the list of the runs of a study, and the commands that added them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.choices import Design
from roadmap.config.compose import compose
from roadmap.config.designs import Layout, study_layout
from roadmap.config.roadmaps import load_roadmap
from roadmap.config.schema import DesignSpec, SpecError
from roadmap.records.manifest import add_runs, command_line, read_manifest
from roadmap.records.record import run_name


def layout(name: Design, **fields: Any) -> Layout:
    return study_layout(DesignSpec(name, **fields), load_roadmap())


def test_later_commands_add_runs_to_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "run_roadmap.py", "+study=roadmap", "a b"])
    specs = [compose(f"+step={step}", f"out={tmp_path}", "study=mine") for step in ("baseline", "gelu", "layer_norm")]
    add_runs([(spec, ["seed=0"]) for spec in specs[:2]], Layout())
    add_runs([(spec, ["budget.epochs=3"]) for spec in specs[1:]], Layout())
    manifest = read_manifest(tmp_path / "mine")
    names = [run_name(spec) for spec in specs]
    assert manifest is not None and manifest.runs == {names[0]: [], names[1]: [], names[2]: ["budget.epochs=3"]}
    monkeypatch.setattr(sys, "orig_argv", ["python", "run_roadmap.py", "again"])
    add_runs([(specs[1], ["seed=0"])], Layout())  # this run is in the study already
    assert read_manifest(tmp_path / "mine") == manifest
    assert manifest.commands == ["python run_roadmap.py +study=roadmap 'a b'"]
    (tmp_path / "mine" / "study.json").write_text("{", encoding="utf-8")
    with pytest.raises(SpecError, match="study.json: invalid study file .*; fix or delete it"):
        add_runs([(specs[0], [])], Layout())


def test_the_needs_of_a_study_are_kept(tmp_path: Path) -> None:
    """study.json has them only where there are any, so that other lists stay the same."""
    choices: list[dict[str, list[str]]] = [{}, {"gelu": ["large_kernel"]}]
    for needs in choices:
        with_needs = layout(Design.leave_one_out, needs=needs)
        spec = compose(f"study=needs{len(needs)}", f"out={tmp_path}", "design.name=leave_one_out", "+step=gelu")
        add_runs([(spec, [])], with_needs)
        path = tmp_path / spec.study / "study.json"
        manifest, content = read_manifest(path.parent), json.loads(path.read_text(encoding="utf-8"))
        assert manifest is not None and manifest.layout == with_needs
        assert content["layout"].get("needs", {}) == needs and ("needs" in content["layout"]) == bool(needs)
        content["layout"]["needs"] = needs or None
        path.write_text(json.dumps(content), encoding="utf-8")
        assert read_manifest(path.parent) == manifest
        content["layout"]["needs"] = {"gelu": "large_kernel"}
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(SpecError, match="study.json: invalid study file [(]layout.needs has an invalid value"):
            read_manifest(path.parent)
        content["layout"] |= {"needs": {}, "need": {}}
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(SpecError, match="study.json: invalid study file [(]'layout.need' is unknown"):
            read_manifest(path.parent)


def test_a_study_has_one_design(tmp_path: Path) -> None:
    def merged(design: Design, **fields: Any) -> Layout:
        overrides = ("study=mine", f"out={tmp_path}", f"design.name={design.value}")
        add_runs([(compose(*overrides, "+step=gelu"), [])], layout(design, **fields))
        manifest = read_manifest(tmp_path / "mine")
        assert manifest is not None and manifest.design == design.value
        return manifest.layout

    four, two = (layout(Design.attribution, orders=orders) for orders in (4, 2))
    assert merged(Design.attribution, orders=2) == two
    assert merged(Design.attribution, orders=4) == four
    assert merged(Design.attribution, orders=2) == four  # the four orders contain the two
    add_runs([(compose("study=mine", f"out={tmp_path}"), [])], Layout())  # a run outside of the design
    needs = {"gelu": ["large_kernel"]}
    others: list[tuple[Design, dict[str, Any]]] = [
        (Design.attribution, {"order_seed": 1}),
        (Design.attribution, {"needs": needs}),
        (Design.leave_one_out, {}),
    ]
    for name, fields in others:
        with pytest.raises(SpecError, match="study=mine: already uses design.name=attribution.*; .* study=NAME"):
            merged(name, **fields)


@pytest.mark.parametrize(
    ("orig_argv", "expected"),
    [
        ("/usr/bin/python3 run_roadmap.py +study=roadmap", "python run_roadmap.py +study=roadmap"),
        ("/usr/bin/python3 -u -B /home/me/run_roadmap.py +step=gelu", "python run_roadmap.py +step=gelu"),
        ("/opt/venv/bin/python /opt/venv/bin/roadmap +study=roadmap seed=0,1", "roadmap +study=roadmap seed=0,1"),
        ("python -m roadmap +study=roadmap", "python -m roadmap +study=roadmap"),
        ("python -u -m roadmap out=/tmp/roadmap", "python -m roadmap out=/tmp/roadmap"),
        ("python -c pass +step=gelu", "python -c pass +step=gelu"),
    ],
)
def test_the_command_is_recorded_as_typed(orig_argv: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", orig_argv.split())
    assert command_line() == expected
