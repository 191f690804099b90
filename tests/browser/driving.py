"""A real browser, and what its pages show: those with shadow roots too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from ..tensorboard.server import TensorBoard, wait_until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs the programs chromium and chromedriver"
)

WINDOW = (1500, 1400)
"""Size of the browser's window, CSS pixels."""

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size={},{}".format(*WINDOW),
)

ACTS_IF_RUN = "<img src=x onerror=\"document.title='attacked'\">"
"""A layer's name that changes the title of a page that runs it."""

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


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser without a window, which keeps the messages of its console.

    Args:
        profile: Directory of its own.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield browser
    finally:
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
    """Text of every element that a selector fits, in shadow roots too."""
    return browser.execute_script(ELEMENTS, selector)


def complaints(log: list[dict[str, object]]) -> list[dict[str, object]]:
    """Errors of a log, but for icons and fonts of its own that TensorBoard does not find."""
    return [
        entry
        for entry in log
        if entry["level"] == "SEVERE" or entry["source"] == "security"
        if entry["source"] != "network" or "/plugin/gradwatch/" in entry["message"]
    ]
