"""One browser for all the dashboards."""

from collections.abc import Iterator

import pytest
from selenium import webdriver

from .driving import chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser
