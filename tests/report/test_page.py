"""The page of a study, as text."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from roadmap.analysis.table import read_study
from roadmap.report import page, page_plots
from roadmap.report.writer import write_report
from roadmap.runtime import system
from tests.helpers import make_study
from tests.report.conftest import STEPS


class Elements(HTMLParser):
    """All elements of a page: tag and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_the_page_is_one_small_file_that_loads_nothing(page_path: Path) -> None:
    text = page_path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    for tag, attributes in Elements(text).elements:
        assert tag not in ("img", "iframe", "object", "embed"), tag
        assert "src" not in attributes, tag
        link = attributes.get("href") or "#"
        assert link.startswith("#") or link == "data:,", link
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_ids_are_unique_links_have_targets_and_graphics_have_descriptions(page_path: Path) -> None:
    elements = Elements(page_path.read_text(encoding="utf-8")).elements
    ids = Counter(attributes["id"] for _, attributes in elements if "id" in attributes)
    assert ids.most_common(1)[0][1] == 1
    for _, attributes in elements:
        for target in (attributes.get("href"), attributes.get("aria-labelledby")):
            assert target in (None, "data:,") or target.removeprefix("#") in ids, target
    graphics = [attributes for tag, attributes in elements if tag == "svg"]
    assert len(graphics) > 3 * len(STEPS)
    for attributes in graphics:
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"] or "") > 30


def test_headings_are_in_order(page_path: Path) -> None:
    text = page_path.read_text(encoding="utf-8")
    levels = [int(tag[1]) for tag, _ in Elements(text).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert re.findall(r"<h2 [^>]*>([^<]*)</h2>", text) == [
        "Results", "Steps", "Compare two rows", "Accuracy and cost", "Failed runs", "Reproduce", "Environment",
    ]  # fmt: skip


def test_the_page_shows_runs_failures_changes_and_commands(page_path: Path) -> None:
    text = page_path.read_text(encoding="utf-8")
    assert "digits, base nano, budget quick (300 epochs scaled to 10); 24 runs, seeds 0, 1." in text
    assert "MemoryError: &lt;b&gt;too&lt;/b&gt; large &amp; lost" in text and "<b>" not in text
    assert "the loss is nan at epoch 1, iteration 3" in text
    assert "python run_roadmap.py +study=roadmap seed=0,1</code>" in text
    assert text.count("python run_roadmap.py +step=gelu seed=1 +study=roadmap") == 1
    assert system.package_versions()["torch"] in text and system.cpu_name() in text
    assert "network: {kernel_size: 5}" in text, "the config of the variant"
    for step, field, before, after in (
        ("kernel_5", "network.kernel_size", "3", "5"),
        ("training_recipe", "recipe.optimizer", "sgd", "adamw"),
    ):
        section = re.search(rf'(?s)<details class="step" id="step-\d+-{step.replace("_", "-")}".*?</details>', text)
        assert section is not None
        assert f"<code>{field}</code></th><td>{before}</td><td>{after}</td>" in section[0]


def test_columns_without_values_are_left_out(page_path: Path, tmp_path: Path) -> None:
    def headers(text: str) -> set[str]:
        return set(re.findall(r'<button type="button">([^<]*)</button></th>', text))

    study = read_study(page_path.parent.parent / "roadmap")
    text = page_path.read_text(encoding="utf-8")
    assert {"95 % interval", "p (Holm)", "verdict", "seeds needed", "paper top-1 (%)"} <= headers(text)
    assert "descriptive" in text
    needed = [17.0] * (len(study.rows) - 1) + [float("inf")]
    table = study.table.assign(paper_top1=float("nan"), p_holm=float("nan"), verdict="", seeds_needed=needed)
    page.write_page(tmp_path / "index.html", "title", replace(study, table=table), pd.DataFrame(), ["one & all"])
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "95 % interval" in headers(text) and not {"p (Holm)", "verdict", "paper top-1 (%)"} & headers(text)
    assert 'data-v="17.0">17</td>' in text and 'data-v="Infinity">∞</td>' in text
    assert '<p class="lead">one &amp; all</p>' in text
    assert "This page has no diagrams of the networks." in text


points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(points=points)
def test_no_point_is_better_than_one_on_the_front(points: list[tuple[int, int]]) -> None:
    cost, top1 = (pd.Series([point[i] for point in points], dtype=float) for i in (0, 1))
    front = page_plots.pareto_front(cost, top1)
    for i, (c, t) in enumerate(points):
        is_dominated = any((x <= c and y >= t) and (x, y) != (c, t) for x, y in points)
        assert (i not in front) is is_dominated
    assert [cost[i] for i in front] == sorted(cost[i] for i in front)


def test_a_report_is_written_if_a_network_cannot_be_drawn(tmp_path: Path) -> None:
    def fail(_network: dict[str, Any]) -> None:
        raise TypeError("unknown module")

    write_report(make_study(tmp_path), tmp_path / "report", fail)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert page.count("No diagram: this version cannot draw this network.") == 4
