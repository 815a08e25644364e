"""The page of a study, as text and in a browser: Debian's chromium, headless."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from roadmap.analysis.table import read_study
from roadmap.config.compose import compose, compose_network
from roadmap.config.designs import Layout
from roadmap.config.schema import RunSpec
from roadmap.models.structure import Structure, structure_of
from roadmap.records.manifest import add_runs
from roadmap.records.record import RUNS_FOLDER, config_of
from roadmap.report import diagrams, page, page_plots
from roadmap.report.writer import write_report
from roadmap.runtime import system
from tests.conftest import until
from tests.helpers import write_run

PHONE, DESKTOP = 390, 1280  # pixels
STEPS = [
    "baseline", "training_recipe", "stage_ratio", "patchify_stem", "depthwise_conv", "increase_width",
    "inverted_bottleneck", "move_up_depthwise", "kernel_5", "large_kernel", "gelu", "layer_norm",
]  # fmt: skip


def curve(top1: float) -> list[dict[str, Any]]:
    points = [{"epoch": i, "lr": 0.1, "train_loss": 2.0 / i, "test_top1": top1 - 9 + 3 * i} for i in (1, 2, 3)]
    return [point | {"test_loss": 1.0 / point["epoch"]} for point in points]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study with gains, losses, a variant, a row that diverged in part and one that failed."""
    folder, specs = tmp_path_factory.mktemp("study"), []
    for i, step in enumerate(STEPS):
        for seed in (0, 1):
            top1 = 60.0 + 7 * i % 31 + seed
            more: dict[str, Any] = {"gmacs": 0.5 + 0.3 * i % 2, "params": 10**6 * (1 + 5 * i % 7), "curve": curve(top1)}
            if (step, seed) == ("gelu", 1):
                more |= {"status": "diverged", "error": "the loss is nan at epoch 1, step 3", "curve": curve(5)[:1]}
            if step == "layer_norm":
                more |= {"status": "failed", "error": "MemoryError: <b>too</b> large & lost", "curve": []}
            done = "status" not in more
            words = (f"+step={step}", f"seed={seed}", "+study=roadmap")
            write_run(folder, top1 if done else None, *words, **more)
            specs.append(compose(*words, f"out={folder}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "orig_argv", ["python", "run_roadmap.py", "+study=roadmap", "seed=0,1"])
        add_runs([(spec, []) for spec in specs], Layout())
    write_report(folder / "roadmap", folder / "told")
    return folder / "told" / "index.html"


class Elements(HTMLParser):
    """All elements of a page: tag and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def test_the_page_is_one_small_file_that_loads_nothing(told: Path) -> None:
    text = told.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    for tag, attributes in Elements(text).found:
        assert tag not in ("img", "iframe", "object", "embed"), tag
        assert "src" not in attributes, tag
        link = attributes.get("href") or "#"
        assert link.startswith("#") or link == "data:,", link
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_ids_are_unique_links_have_targets_and_pictures_have_words(told: Path) -> None:
    found = Elements(told.read_text(encoding="utf-8")).found
    ids = Counter(attributes["id"] for _, attributes in found if "id" in attributes)
    assert ids.most_common(1)[0][1] == 1
    for _, attributes in found:
        for target in (attributes.get("href"), attributes.get("aria-labelledby")):
            assert target in (None, "data:,") or target.removeprefix("#") in ids, target
    pictures = [attributes for tag, attributes in found if tag == "svg"]
    assert len(pictures) > 3 * len(STEPS)
    for attributes in pictures:
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"] or "") > 30


def test_headings_are_in_order(told: Path) -> None:
    levels = [int(tag[1]) for tag, _ in Elements(told.read_text(encoding="utf-8")).found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_page_says_what_was_run_what_failed_and_how_to_repeat_it(told: Path) -> None:
    text = told.read_text(encoding="utf-8")
    assert "digits, base nano, budget quick (10 of 300 epochs); 24 runs, seeds 0, 1." in text
    assert "MemoryError: &lt;b&gt;too&lt;/b&gt; large &amp; lost" in text and "<b>" not in text
    assert "the loss is nan at epoch 1, step 3" in text
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


def test_columns_that_a_table_lacks_are_left_out_and_those_that_it_has_are_shown(told: Path, tmp_path: Path) -> None:
    study = told.parent.parent / "roadmap"
    found = read_study(study)
    text = told.read_text(encoding="utf-8")
    head = re.findall(r'<button type="button">([^<]*)</button></th>', text)
    assert {"95 % interval", "p (Holm)", "verdict", "seeds needed", "paper top-1"} <= set(head)
    assert "against stage ratio" not in text and "descriptive" in text
    needed = [17.0] * (len(found.rows) - 1) + [float("inf")]
    table = found.table.assign(paper_top1=float("nan"), p_holm=float("nan"), verdict="", seeds_needed=needed)
    bare = replace(found, table=table)
    page.write_page(tmp_path / "index.html", "title", bare, pd.DataFrame(), ["one & all"])
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    head = re.findall(r'<button type="button">([^<]*)</button></th>', text)
    assert "95 % interval" in head and not {"p (Holm)", "verdict", "paper top-1"} & set(head)
    assert 'data-v="17.0">17</td>' in text and 'data-v="Infinity">∞</td>' in text
    assert '<p class="lede">one &amp; all</p>' in text


points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(points=points)
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    cost, top1 = (pd.Series([point[i] for point in points], dtype=float) for i in (0, 1))
    front = page_plots.pareto(cost, top1)
    for i, (c, t) in enumerate(points):
        beaten = any((x <= c and y >= t) and (x, y) != (c, t) for x, y in points)
        assert (i not in front) is beaten
    assert [cost[i] for i in front] == sorted(cost[i] for i in front)


def network(step: str, **fields: Any) -> Structure:
    spec = RunSpec(network=compose_network(step, "resnet50", **fields))
    return structure_of(config_of(spec)["network"])


def block_marks(before: str, after: str) -> tuple[dict[str, str], dict[str, str]]:
    """What became of the layers of a block, by title and widths."""
    here, there = (network(step).stages[2].blocks[-1].branch for step in (before, after))
    old, new = diagrams.match_layers(here, there)
    both = ((here, old), (there, new))
    first, second = (
        {f"{layer.title} {layer.widths}": mark.change for layer, mark in zip(layers, marks, strict=True) if mark.change}
        for layers, marks in both
    )
    return first, second


def test_a_drawing_marks_what_changed() -> None:
    assert block_marks("move_up_depthwise", "large_kernel") == (
        {"3×3 depthwise conv 384 → 384": "changed"}, {"7×7 depthwise conv 384 → 384": "changed"},
    )  # fmt: skip
    old, new = block_marks("inverted_bottleneck", "move_up_depthwise")
    assert old["3×3 depthwise conv 1,536 → 1,536"] == new["3×3 depthwise conv 384 → 384"] == "moved"
    assert set(block_marks("gelu", "fewer_activations")[0].values()) == {"gone"}
    assert list(block_marks("fewer_activations", "fewer_norms")[1]) == [
        "BatchNorm ", "1×1 conv 384 → 1,536", "1×1 conv 1,536 → 384",
    ]  # fmt: skip


def test_a_drawing_in_words() -> None:
    chains = [
        diagrams.LayerChain(body.stages[1].downsample, body.stages[1].blocks[0])
        for body in map(network, ("layer_norm", "separate_downsampling"))
    ]
    before, after = diagrams.draw_diagrams(*chains)
    assert before.said.startswith(
        "Before, from top to bottom: the shortcut leaves; 7×7 depthwise conv 96 → 96, stride 2, bias (changed); "
    )
    assert "add the shortcut (1×1 conv 96 → 192, stride 2, bias (gone); LayerNorm (gone))" in before.said
    assert after.said.startswith(
        "After, from top to bottom: LayerNorm (new); 2×2 conv 96 → 192, stride 2, bias (new); the shortcut leaves; "
    )
    assert after.said.endswith("; add the input.")
    heights = [y for y, _ in after.texts]
    assert heights == sorted(heights) and heights[-1] < after.height


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("chromium or its driver is not installed (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths[0])
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(str(paths[1])))
    yield chrome
    chrome.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome, told: Path) -> Iterator[webdriver.Chrome]:
    """The page, freshly opened; at the end there must be nothing in the console."""
    show(driver, DESKTOP)
    driver.get("about:blank")
    log(driver, "browser")
    driver.get(told.as_uri())
    yield driver
    assert log(driver, "browser") == []


def log(driver: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """What came since it was last asked for."""
    return driver.get_log(kind)  # type: ignore[no-untyped-call]


def show(driver: webdriver.Chrome, width: int, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme_of = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_of)


def rows(browser: webdriver.Chrome) -> list[list[str]]:
    """The text of all rows that are shown."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#rows tbody tr')].filter(row => row.offsetParent)"
        ".map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )


def heading(browser: webdriver.Chrome, title: str) -> WebElement:
    return browser.find_element(By.XPATH, f"//div[@id='rows']//thead//button[normalize-space()='{title}']")


def test_it_opens_without_a_word_in_the_console_and_asks_for_nothing(browser: webdriver.Chrome, told: Path) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in log(browser, "performance")]
    asked = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert told.as_uri() in asked
    assert [url for url in asked if url not in (told.as_uri(), "about:blank", "data:,")] == []
    assert len(rows(browser)) == len(STEPS)


def test_headings_sort(browser: webdriver.Chrome) -> None:
    before = rows(browser)
    titles = [title.text for title in browser.find_elements(By.CSS_SELECTOR, "#rows thead button")]
    heading(browser, "GMACs").send_keys(Keys.SPACE)
    column = [row[titles.index("GMACs")] for row in rows(browser)]
    assert column != [row[titles.index("GMACs")] for row in before]
    assert column == sorted(column, key=float)
    button = heading(browser, "gain")
    button.send_keys(Keys.ENTER)
    button.send_keys(Keys.ENTER)
    gains = [row[titles.index("gain")].replace("−", "-") for row in rows(browser)]
    numbers = [float(gain) for gain in gains if gain]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) > 5
    assert "" not in gains[: len(numbers)], "what is empty stays last"
    sorted_by = browser.find_elements(By.CSS_SELECTOR, "#rows th[aria-sort]")
    assert [(th.text, th.get_attribute("aria-sort")) for th in sorted_by] == [("gain", "descending")]
    heading(browser, "step").click()
    assert rows(browser) == before


def test_a_word_and_a_status_filter(browser: webdriver.Chrome) -> None:
    field = browser.find_element(By.ID, "filter")
    assert browser.execute_script("return arguments[0].labels.length", field) == 1
    field.send_keys("Kernel variant")
    assert [row[0] for row in rows(browser)] == ["8kernel size → 5 (variant)"]
    assert browser.find_element(By.ID, "count").text == f"1 of {len(STEPS)} rows"
    field.clear()
    field.send_keys(" ")
    browser.find_element(By.XPATH, "//select[@id='status']/option[.='failed']").click()
    assert [row[0] for row in rows(browser)] == ["11BN → LN"]


def test_steps_open_by_keyboard_and_by_link(browser: webdriver.Chrome, told: Path) -> None:
    steps = browser.find_elements(By.CSS_SELECTOR, "details.step")
    assert not any(step.get_property("open") for step in steps)
    browser.find_element(By.ID, "unfold").send_keys(Keys.TAB)
    summary = browser.switch_to.active_element
    assert summary.tag_name == "summary"
    summary.send_keys(Keys.ENTER)
    until(lambda: [step.get_property("open") for step in steps] == [True] + [False] * (len(steps) - 1))
    link = browser.find_element(By.LINK_TEXT, "kernel size → 7")
    link.send_keys(Keys.ENTER)
    until(lambda: steps[9].get_property("open"))
    anchor = link.get_attribute("href")
    assert anchor is not None
    browser.get("about:blank")
    browser.get(anchor)
    assert browser.find_elements(By.CSS_SELECTOR, "details.step")[9].get_property("open"), "a link from elsewhere"
    browser.find_element(By.ID, "unfold").click()
    assert all(step.get_property("open") for step in browser.find_elements(By.CSS_SELECTOR, "details.step"))


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_nothing_runs_over_the_side(browser: webdriver.Chrome, width: int) -> None:
    show(browser, width)
    browser.find_element(By.ID, "unfold").click()
    widths = "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    assert max(browser.execute_script(widths)) == width


def test_a_long_name_breaks_rather_than_run_over_the_side(browser: webdriver.Chrome, tmp_path: Path) -> None:
    for rate in (32, 128):
        write_run(tmp_path, 60.0, "+step=separate_downsampling", f"budget.lr_multiplier.adamw={rate}")
    write_report(tmp_path / RUNS_FOLDER, tmp_path / "told")
    show(browser, PHONE)
    browser.get((tmp_path / "told" / "index.html").as_uri())
    names = [name.text for name in browser.find_elements(By.CSS_SELECTOR, ".step h3")]
    assert [name.split(".")[-1] for name in names] == ["adamw=32", "adamw=128"]
    assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE


def test_a_wide_table_scrolls_in_its_own_frame_and_keeps_the_names_in_sight(browser: webdriver.Chrome) -> None:
    show(browser, PHONE)
    table = browser.find_element(By.ID, "rows")
    name = browser.find_element(By.CSS_SELECTOR, "#rows tbody th")
    at = name.rect["x"]
    inside, outside = (
        browser.execute_script(f"return arguments[0].{side}Width", table) for side in ("scroll", "client")
    )
    assert inside > outside
    browser.execute_script("arguments[0].scrollLeft = 150", table)
    assert browser.execute_script("return arguments[0].scrollLeft", table) == 150
    assert name.rect["x"] == at


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_dark_mode_is_dark_and_both_are_legible(browser: webdriver.Chrome) -> None:
    paper: dict[str, float] = {}
    for scheme in ("light", "dark"):
        show(browser, DESKTOP, scheme)
        browser.refresh()
        browser.find_element(By.ID, "unfold").click()
        colours: list[str] = browser.execute_script(
            "const colour = (what, key) => getComputedStyle(document.querySelector(what))[key];"
            "return [colour('body', 'backgroundColor'), colour('body', 'color'), colour('.notes', 'color'),"
            " colour('a', 'color'), colour('td.bad', 'color'), colour('.road text', 'fill'),"
            " colour('.sketch text', 'fill'),"
            " colour('.sketch tspan.hot', 'fill'), colour('.sketch tspan.faint', 'fill')]"
        )
        paper[scheme], *inks = map(luminance, colours)
        for ink in inks:
            low, high = sorted((ink, paper[scheme]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, colours)
    assert paper["light"] > 0.9 and paper["dark"] < 0.02


def test_it_prints_with_all_sections_open(browser: webdriver.Chrome) -> None:
    # Added after the page's own listener: what it leaves closed would be printed closed.
    browser.execute_script(
        "const shut = () => document.querySelectorAll('details:not([open])').length;"
        "addEventListener('beforeprint', () => { window.shut = shut(); });"
    )
    printed = base64.b64decode(browser.print_page())
    assert printed.startswith(b"%PDF-")
    assert browser.execute_script("return window.shut") == 0
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > len(STEPS)
    assert browser.execute_script("return document.querySelectorAll('details[open]').length") == 0, (
        "as they were before"
    )
