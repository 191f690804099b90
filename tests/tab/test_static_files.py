"""The page's own files are served by their names, and no other file is."""

import re

import pytest

from gradwatch.tab.static_files import ROOT, names

from .serving import BASE, Tab, provided

MODULES = [name for name in names() if name.endswith(".js")]


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with provided(tmp_path_factory.mktemp("empty"), "python") as provider:
        yield Tab(provider)


@pytest.mark.parametrize("name", names())
def test_a_file_is_served_as_what_it_is(tab, name):
    response = tab.ask(name)
    assert response.status_code == 200
    assert response.get_data() == (ROOT / name).read_bytes()
    assert response.mimetype == ("text/css" if name.endswith(".css") else "text/javascript")
    assert response.mimetype_params == {"charset": "utf-8"}
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_browser_asks_whether_a_file_has_changed(tab):
    response = tab.ask("dom.js")
    assert "no-cache" in response.headers["Cache-Control"]
    again = tab.open(f"{BASE}/dom.js", headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.get_data()) == (304, b"")
    other = tab.open(f"{BASE}/dom.js", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "plugin.py",
        "../plugin.py",
        "..%2fplugin.py",
        "..%5cplugin.py",
        "%2e%2e/plugin.py",
        "vendor/../../plugin.py",
        "static/dom.js",
        "vendor/",
        "vendor",
        "vendor/README.md",
        "vendor/uPlot-LICENSE",
        "/etc/passwd",
        "//etc/passwd",
        "dom.js%00.css",
        "DOM.JS",
        "dom.js/x",
        "",
    ],
)
def test_nothing_else_is_served(tab, path):
    assert tab.open(f"{BASE}/{path}").status_code == 404


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_imports_is_served(name):
    folder = (ROOT / name).parent
    imported = re.findall(r'(?:from|import\()\s*"(\.[^"]+)"', (ROOT / name).read_text())
    found = {(folder / target).resolve() for target in imported}
    assert found <= {(ROOT / served).resolve() for served in names()}


def test_a_file_that_was_taken_away_is_told_of(tab, monkeypatch, tmp_path):
    monkeypatch.setattr("gradwatch.tab.plugin.ROOT", tmp_path)
    response = tab.ask("dom.js")
    assert response.status_code == 404
    assert b"install gradwatch again" in response.get_data()
