"""`gradwatch report --html`: the tab as one file, opened from disk in a real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gradwatch.cli import main
from gradwatch.snapshot import Snapshot
from gradwatch.tab.page_modules import inlined

from ..tensorboard.builders import (
    chain,
    finding,
    usual_snapshot,
    write_healthy_training,
    write_run,
    write_training,
)
from ..tensorboard.server import wait_until
from .driving import needs_browser

HOSTILE = "</script><img src=x onerror=\"document.title='attacked'\"><!--"

INLINE = re.compile(r'id="gradwatch-inline">(.*?)</script>', re.DOTALL)
MODULES = re.compile(r'<script type="importmap">(.*?)</script>', re.DOTALL)

TEXT = "return document.querySelector('.gradwatch')?.textContent ?? ''"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    log_dir = tmp_path_factory.mktemp("runs")
    write_training(log_dir / "sick run & more")
    write_healthy_training(log_dir / "healthy")
    hostile = finding(layers=(f"{HOSTILE}1",), message=f"{HOSTILE} does not learn.")
    samples: list[Snapshot] = [usual_snapshot(chain(3, prefix=HOSTILE), step) for step in (0, 16)]
    sink = write_run(log_dir / "hostile", samples, close=False)
    sink.write_findings([hostile], [hostile])
    sink.close()
    return log_dir


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", str(runs), "--html", str(path)]) == 1
    return path


@pytest.fixture
def opened(browser, page):
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert wait_until(lambda: "Is the net learning" in browser.execute_script(TEXT), seconds=20)
    return browser


def choose(browser, control, value):
    browser.execute_script(
        "const select = document.querySelectorAll('.gw-controls select')[arguments[0]];"
        "select.value = arguments[1]; select.dispatchEvent(new Event('change'));",
        control,
        value,
    )


def comes_to_show(browser, *wanted):
    def missing():
        text = browser.execute_script(TEXT)
        return [part for part in wanted if part not in text]

    wait_until(lambda: not missing(), seconds=20)
    return not missing()


@needs_browser
def test_it_opens_from_disk_with_verdict_heatmap_and_findings(opened):
    choose(opened, 0, "sick run & more/gradwatch")
    assert comes_to_show(opened, "Backward signal · sick run & more", "Backward signal by depth")
    width = opened.execute_script("return document.querySelector('.gw-cells').width")
    assert width > 200
    assert opened.get_log("browser") == []


@needs_browser
def test_two_runs_are_held_against_each_other_without_a_server(opened):
    choose(opened, 0, "sick run & more/gradwatch")
    assert comes_to_show(opened, "Backward signal · sick run & more")
    choose(opened, 1, "healthy/gradwatch")
    assert comes_to_show(opened, "They diverge first", "Backward signal · healthy")
    assert opened.get_log("browser") == []


@needs_browser
def test_a_hostile_name_is_shown_and_not_run(opened):
    choose(opened, 0, "hostile/gradwatch")
    assert comes_to_show(opened, HOSTILE[:20])
    assert opened.title != "attacked"
    assert opened.execute_script("return document.images.length") == 0


def test_it_names_no_other_host_and_forbids_to_ask_one(page):
    text = page.read_text(encoding="utf-8")
    head = text[: text.index("<style>")]
    assert "default-src &#x27;none&#x27;" in head
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)


def test_what_is_inlined_is_plain_json_that_ends_no_element(page):
    (inline,) = INLINE.findall(page.read_text(encoding="utf-8"))
    assert "<" not in inline
    assert inline.isascii()
    names = [run["name"] for run in json.loads(inline)["runs"]["runs"]]
    assert names == ["healthy/gradwatch", "hostile/gradwatch", "sick run & more/gradwatch"]


def test_without_javascript_the_findings_are_text(page):
    text = page.read_text(encoding="utf-8")
    plain = text[text.index("<noscript>") : text.index("</noscript>")]
    assert "GW101" in plain
    assert "<img" not in plain


def test_an_earlier_page_is_replaced(runs, tmp_path):
    path = tmp_path / "report.html"
    for _ in range(2):
        main(["report", str(runs / "healthy"), "--html", str(path)])
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("kind", ["a file of the user's", "a directory", "no directory above"])
def test_what_is_not_ours_stays(kind, runs, tmp_path, capsys):
    path = tmp_path / "report.html"
    if kind == "a file of the user's":
        path.write_text("<p>mine</p>")
    elif kind == "a directory":
        path.mkdir()
    else:
        path = tmp_path / "missing" / "report.html"
    assert main(["report", str(runs / "healthy"), "--html", str(path)]) == 2
    assert path.name in capsys.readouterr().err.replace("\n", "")
    if kind == "a file of the user's":
        assert path.read_text() == "<p>mine</p>"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_and_leaves_nothing(runs, tmp_path, monkeypatch, capsys):
    path = tmp_path / "report.html"
    full = Path.open

    def opened(self, mode="r", *arguments, **options):
        where = Path("/dev/full") if self.name.startswith(".report.html") else self
        return full(where, "w" if mode == "x" else mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
    assert main(["report", str(runs / "healthy"), "--html", str(path)]) == 2
    assert "No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_module_whose_import_cannot_be_inlined_is_refused():
    with pytest.raises(Exception, match="cannot be inlined"):
        inlined('import("./x.js");')


def test_every_module_of_the_page_can_be_inlined(page):
    modules = json.loads(MODULES.search(page.read_text(encoding="utf-8"))[1])
    static = Path(__file__).parents[2] / "gradwatch" / "tab" / "static"
    expected = {f"gradwatch/{path.relative_to(static).as_posix()}" for path in static.rglob("*.js")}
    assert set(modules["imports"]) == expected
