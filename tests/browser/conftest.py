"""One browser for all the dashboards, and what it had to complain of."""

from collections.abc import Iterator

import pytest
from selenium import webdriver

from .driving import chromium, complaints


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def nothing_to_complain_of(browser) -> Iterator[None]:
    """No error in the browser's log, nothing that the Content-Security-Policy stopped."""
    browser.get_log("browser")
    yield
    browser.switch_to.default_content()
    assert not complaints(browser.get_log("browser"))
