"""The report in a notebook: the same content, escaped, without a style sheet."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from .report_builder import (
    GONE,
    NOTICE,
    deep_report,
    finding,
    hostile_report,
    report,
)


class Page(HTMLParser):
    """Tags and text of a piece of HTML; every element that is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self._pending: list[str] = []
        self.feed(html)
        self.close()
        assert self._pending == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._pending.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self._pending.pop() == tag

    def handle_data(self, data):
        self.text += data + " "


def test_a_notebook_shows_what_the_terminal_shows():
    shown = report(finding(), NOTICE, GONE)
    page = Page(shown._repr_html_())
    words = " ".join(page.text.split())
    assert words.startswith("1 error and 1 notice the worst is vanishing-gradient (GW101)")
    assert "-5.0 1.0e-3 1.3e-2" in words
    assert "backward depth -5.23 (threshold -3.5)" in words
    assert "Fix 1: Use ReLU with He initialisation in fc1 and fc2" in words
    assert "Resolved: vanishing-gradient" in words
    assert "0.9 % of the run's time" in words


@pytest.mark.parametrize("samples", [0, 4])
def test_a_notebook_shows_a_report_without_verdict(samples):
    page = Page(report(samples=samples)._repr_html_())
    assert ("table" in page.tags) is (samples > 0)


def test_a_notebook_needs_no_style_sheet_and_no_script():
    page = Page(deep_report(60)._repr_html_())
    assert not {"style", "script", "link", "img"} & set(page.tags)
    assert not {"class", "id", "src", "href"} & page.attributes


def test_html_in_a_layer_name_stays_text():
    page = Page(hostile_report()._repr_html_())
    assert "script" not in page.tags
    assert '<script>alert("x")</script>' in page.text
