"""The page of a study in a browser: Debian's chromium, headless."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from roadmap.analysis.table import read_study
from roadmap.commands.report import structure_of_config
from roadmap.evaluation.thumbnails import read_thumbnails
from roadmap.records.record import RUNS_FOLDER
from roadmap.report.columns import NO_VALUE
from roadmap.report.examples import NUM_EXAMPLES
from roadmap.report.fields import changed_fields
from roadmap.report.sections import page_number
from roadmap.report.writer import write_report
from tests.conftest import until
from tests.helpers import write_run
from tests.report.conftest import STEPS, make_rows

PHONE, DESKTOP = 390, 1280  # pixels
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    """One browser for all tests of this module."""
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("chromium or its driver is not installed (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths[0])
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(str(paths[1])))
    yield chrome
    chrome.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome, page_path: Path) -> Iterator[webdriver.Chrome]:
    """The page, newly opened. At the end the console must be empty."""
    set_window(driver, DESKTOP)
    driver.get("about:blank")
    log(driver, "browser")
    open_page(driver, page_path.as_uri())
    yield driver
    assert log(driver, "browser") == []


def open_page(driver: webdriver.Chrome, address: str) -> None:
    """Open a page, even if it is the page shown. Wait for its scripts: `get` can return while the page is loading."""
    script = "return document.URL === arguments[0] && document.readyState === 'complete'"
    driver.get("about:blank")
    driver.get(address)
    until(lambda: driver.execute_script(script, address))


def log(driver: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """Return the entries since the last call."""
    return driver.get_log(kind)  # type: ignore[no-untyped-call]


def set_window(driver: webdriver.Chrome, width: int, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme_of = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_of)


def rows(browser: webdriver.Chrome) -> list[list[str]]:
    """Return the texts of all visible rows."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#rows tbody tr')].filter(row => row.offsetParent)"
        ".map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )


def heading(browser: webdriver.Chrome, title: str) -> WebElement:
    return browser.find_element(By.XPATH, f"//div[@id='rows']//thead//button[normalize-space()='{title}']")


def test_the_page_requests_nothing_else(browser: webdriver.Chrome, page_path: Path) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in log(browser, "performance")]
    requested = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert page_path.as_uri() in requested
    assert [url for url in requested if url not in (page_path.as_uri(), "about:blank", "data:,")] == []
    assert len(rows(browser)) == len(STEPS)


def test_column_headings_sort(browser: webdriver.Chrome) -> None:
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
    numbers = [float(gain) for gain in gains if gain != NO_VALUE]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) > 5
    assert NO_VALUE not in gains[: len(numbers)], "rows without a value stay last"
    sorted_by = browser.find_elements(By.CSS_SELECTOR, "#rows th[aria-sort]")
    assert [(th.text, th.get_attribute("aria-sort")) for th in sorted_by] == [("gain", "descending")]
    heading(browser, "step").click()
    assert rows(browser) == before


def test_filters_by_words_and_by_status(browser: webdriver.Chrome) -> None:
    field = browser.find_element(By.ID, "filter")
    assert browser.execute_script("return arguments[0].labels.length", field) == 1
    field.send_keys("Kernel variant")
    assert [row[0] for row in rows(browser)] == ["8kernel size → 5 (variant)"]
    assert browser.find_element(By.ID, "count").text == f"1 of {len(STEPS)} rows"
    field.clear()
    field.send_keys(" ")
    browser.find_element(By.XPATH, "//select[@id='status']/option[.='failed']").click()
    assert [row[0] for row in rows(browser)] == ["11BN → LN"]


def test_steps_open_by_keyboard_and_by_link(browser: webdriver.Chrome, page_path: Path) -> None:
    steps = browser.find_elements(By.CSS_SELECTOR, "details.step")
    assert not any(step.get_property("open") for step in steps)
    browser.find_element(By.ID, "open-all").send_keys(Keys.TAB)
    summary = browser.switch_to.active_element
    assert summary.tag_name == "summary"
    summary.send_keys(Keys.ENTER)
    until(lambda: [step.get_property("open") for step in steps] == [True] + [False] * (len(steps) - 1))
    link = browser.find_element(By.LINK_TEXT, "kernel size → 7")
    link.send_keys(Keys.ENTER)
    until(lambda: steps[9].get_property("open"))
    anchor = link.get_attribute("href")
    assert anchor is not None
    open_page(browser, anchor)
    assert browser.find_elements(By.CSS_SELECTOR, "details.step")[9].get_property("open"), "a link from elsewhere"
    browser.find_element(By.ID, "open-all").click()
    assert all(step.get_property("open") for step in browser.find_elements(By.CSS_SELECTOR, "details.step"))


def test_any_two_rows_can_be_compared(browser: webdriver.Chrome, tmp_path: Path) -> None:
    steps = ["baseline", "stage_ratio", "gelu"]
    results = make_rows(tmp_path, steps, num_images=360)  # the test images of digits
    write_report(tmp_path / RUNS_FOLDER, tmp_path / "report", structure_of_config, thumbnails_of=read_thumbnails)
    open_page(browser, (tmp_path / "report" / "index.html").as_uri())
    selects = [Select(element) for element in browser.find_elements(By.CSS_SELECTOR, "select.pair-row")]
    assert [select.first_selected_option.text for select in selects] == ["1 stage ratio", "2 ReLU → GELU"]
    selects[0].select_by_index(0)
    selects[0].select_by_index(1)
    place = browser.find_element(By.ID, "pair")
    study = read_study(tmp_path / RUNS_FOLDER)
    shown = [
        tuple(cell.text for cell in row.find_elements(By.XPATH, "./*"))
        for row in place.find_elements(By.XPATH, ".//div[@aria-label='Table of fields, scrolls sideways']//tbody/tr")
    ]
    assert shown == changed_fields(*(study.rows[i].records[0] for i in (1, 2)))
    gain = study.table["top1_mean"][2] - study.table["top1_mean"][1]
    summary = browser.find_element(By.ID, "pair-summary")
    rows_of_pair = "A: 1 stage ratio. B: 2 ReLU → GELU."
    assert summary.text == f"{rows_of_pair} B − A: {page_number('{:+.2f}', gain)} points of mean top-1."
    kinds = {kind: {item.text for item in place.find_elements(By.TAG_NAME, kind)} for kind in ("del", "ins")}
    assert "ReLU" in kinds["del"] and "GELU" in kinds["ins"]
    assert any(text.startswith("7×7 depthwise conv") for text in kinds["ins"])
    assert "stage 3, blocks 2 to 3" in place.text
    counts = {name: results[step].sum(0) for name, step in zip("AB", steps[1:], strict=True)}
    entries = place.find_elements(By.CSS_SELECTOR, ".examples > li")
    assert len(entries) == 2 * NUM_EXAMPLES
    for entry in entries:
        pattern = r"(\d), image (\d+): right in (\d) of 5 seeds of ([AB]), (\d) of 5 of ([AB])"
        found = re.fullmatch(pattern, entry.text)
        assert found is not None, entry.text
        label, index, more, better, less, worse = found.groups()
        assert (counts[better][int(index)], counts[worse][int(index)]) == (int(more), int(less))
        assert int(more) - int(less) >= 3 and better != worse
        picture = entry.find_element(By.TAG_NAME, "img")
        assert picture.get_attribute("alt") == f"Image {index}, of the class {label}"
        assert picture.get_property("naturalWidth") == 8
    browser.find_element(By.ID, "swap").send_keys(Keys.ENTER)
    assert [select.first_selected_option.text for select in selects] == ["2 ReLU → GELU", "1 stage ratio"]
    assert f"B − A: {page_number('{:+.2f}', -gain)} points of mean top-1." in summary.text
    selects[1].select_by_index(2)
    assert "No field differs." in place.text and "The lists of layers are the same." in place.text
    set_window(browser, PHONE)
    assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_is_not_wider_than_the_window(browser: webdriver.Chrome, width: int) -> None:
    set_window(browser, width)
    browser.find_element(By.ID, "open-all").click()
    widths = "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    assert max(browser.execute_script(widths)) == width


def test_a_long_name_is_wrapped(browser: webdriver.Chrome, tmp_path: Path) -> None:
    for rate in (32, 128):
        write_run(tmp_path, 60.0, "+step=separate_downsampling", f"budget.lr_multiplier.adamw={rate}")
    write_report(tmp_path / RUNS_FOLDER, tmp_path / "report")
    set_window(browser, PHONE)
    open_page(browser, (tmp_path / "report" / "index.html").as_uri())
    names = [name.text for name in browser.find_elements(By.CSS_SELECTOR, ".step h3")]
    assert [name.split(".")[-1] for name in names] == ["adamw=32", "adamw=128"]
    assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE


def test_a_wide_table_scrolls_by_itself_and_keeps_the_names_visible(browser: webdriver.Chrome) -> None:
    set_window(browser, PHONE)
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
    """Return the relative luminance of `rgb(r, g, b)` as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_light_and_dark_mode_have_enough_contrast(browser: webdriver.Chrome) -> None:
    paper: dict[str, float] = {}
    for scheme in ("light", "dark"):
        set_window(browser, DESKTOP, scheme)
        open_page(browser, browser.current_url)
        browser.find_element(By.ID, "open-all").click()
        colours: list[str] = browser.execute_script(
            "const colour = (what, key) => getComputedStyle(document.querySelector(what))[key];"
            "return [colour('body', 'backgroundColor'), colour('body', 'color'), colour('.notes', 'color'),"
            " colour('a', 'color'), colour('td.bad', 'color'), colour('.chart text', 'fill'),"
            " colour('.diagram text', 'fill'),"
            " colour('.diagram tspan.after', 'fill'), colour('.diagram tspan.faint', 'fill')]"
        )
        paper[scheme], *inks = map(luminance, colours)
        for ink in inks:
            low, high = sorted((ink, paper[scheme]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, colours)
    assert paper["light"] > 0.9 and paper["dark"] < 0.02


def test_all_steps_are_open_in_print(browser: webdriver.Chrome) -> None:
    # This listener runs after the page's own listener; a section that is still closed would be printed closed.
    browser.execute_script(
        "const closed = () => document.querySelectorAll('details:not([open])').length;"
        "addEventListener('beforeprint', () => { window.numClosed = closed(); });"
    )
    printed = base64.b64decode(browser.print_page())
    assert printed.startswith(b"%PDF-")
    assert browser.execute_script("return window.numClosed") == 0
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > len(STEPS)
    assert browser.execute_script("return document.querySelectorAll('details[open]').length") == 0, (
        "the same as before printing"
    )
