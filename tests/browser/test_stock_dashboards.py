"""TensorBoard's own dashboards in a real browser: what a user sees without installing a plugin."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from gradwatch.tensorboard.scalars import CHARTS

from ..tensorboard.builders import (
    chain,
    finding,
    usual_snapshot,
    write_healthy_training,
    write_run,
    write_training,
)
from ..tensorboard.server import TensorBoard, running, wait_until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs the programs chromium and chromedriver"
)

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1500,1400",
)

ACTS_IF_RUN = "<img src=x onerror=\"document.title='attacked'\">"

PAGE = """
const found = [];
const walk = (node) => {
  if (node.shadowRoot) walk(node.shadowRoot);
  for (const child of node.childNodes) {
    if (child.nodeType === Node.TEXT_NODE && child.textContent.trim()) {
      const parent = child.parentElement;
      if (!parent || !['STYLE', 'SCRIPT'].includes(parent.tagName)) found.push(child.textContent);
    } else walk(child);
  }
};
walk(document.body);
return found.join('\\n');
"""
"""All text of the page; TensorBoard's older dashboards keep theirs in shadow roots."""

ELEMENTS = """
const found = [];
const walk = (node) => {
  found.push(...node.querySelectorAll(arguments[0]));
  for (const child of node.querySelectorAll('*')) if (child.shadowRoot) walk(child.shadowRoot);
};
walk(document);
return found.map((element) => element.textContent);
"""
"""Text of every element that a selector fits, in shadow roots too."""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[TensorBoard]:
    log_dir = tmp_path_factory.mktemp("logs")
    write_training(log_dir / "sick")
    write_healthy_training(log_dir / "healthy")
    hostile = finding(layers=(ACTS_IF_RUN,), message=f"Layer {ACTS_IF_RUN} does not learn.")
    sink = write_run(log_dir / "hostile", [usual_snapshot(chain(8), 16)], close=False)
    sink.write_findings([hostile], [hostile])
    sink.close()
    with running(log_dir, load_fast=True) as server:
        wait_until(lambda: len(server.get("runs")) == 3)
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile: Path = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


def visit(browser: webdriver.Chrome, server: TensorBoard, dashboard: str) -> None:
    """Load a dashboard into an empty page; a new fragment alone would keep the old elements."""
    browser.get("about:blank")
    browser.get(f"{server.address}/#{dashboard}")


def shows(browser: webdriver.Chrome, *wanted: str) -> list[str]:
    """Those of the wanted texts that the page does not come to show."""

    def missing() -> list[str]:
        page = browser.execute_script(PAGE)
        return [text for text in wanted if text not in page]

    wait_until(lambda: not missing(), seconds=20)
    return missing()


def elements(browser: webdriver.Chrome, selector: str) -> list[str]:
    return browser.execute_script(ELEMENTS, selector)


def test_time_series_shows_a_card_for_each_curve(server, browser):
    visit(browser, server, "timeseries")
    assert not shows(browser, "10 cards", "sick/gradwatch", "healthy/gradwatch")
    tags = {tag.strip() for tag in elements(browser, "scalar-card .tag")}
    assert {"gradwatch/backward_depth_log10", "gradwatch/elasticity_log10/max"} <= tags


def test_scalars_shows_the_curves_under_their_titles(server, browser):
    visit(browser, server, "scalars")
    assert not shows(browser, "Backward depth B (log10)", "Open findings", "Layers with NaN")


def test_text_shows_the_verdict_the_evidence_and_the_snippet(server, browser):
    visit(browser, server, "text")
    assert not shows(browser, "Training cannot work as it is.", "No findings", "Resolved")
    assert "model.act1 = nn.ReLU()" in " ".join(elements(browser, "pre code"))
    assert "backward depth" in elements(browser, "table td")


def test_a_hostile_layer_name_is_shown_and_not_run(server, browser):
    visit(browser, server, "text")
    assert not shows(browser, f"Layer {ACTS_IF_RUN} does not learn.")
    assert browser.title == "TensorBoard"


def test_custom_scalars_draws_the_charts(server, browser):
    visit(browser, server, "custom_scalars")
    titles = [chart.title for chart in CHARTS]
    assert not shows(browser, *titles, "Matches (9)", "Matches (6)", "Matches (3)")
    smoothed_and_raw = 2 * (9 + 6 + 3)
    assert wait_until(lambda: len(elements(browser, "path.line")) == smoothed_and_raw, seconds=20)
