"""The GradWatch tab in a real TensorBoard and a real browser, on real trainings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from gradwatch.tensorboard.sink import TensorBoardSink

from ..tensorboard.server import TensorBoard, running, wait_until
from .driving import ACTS_IF_RUN, needs_browser
from .tab_page import HOLD, LET_GO, Tab, drawn_colours, last_step, luminance, page_colours
from .tab_runs import begin_live, go_on, write_all

pytestmark = [needs_browser, pytest.mark.usefixtures("nothing_to_complain_of")]

RUNS = ("healthy", "hostile", "keras", "known", "live", "sick", "torch")

ASKED_FOR_RUNS = """
return performance.getEntriesByType("resource")
  .filter((entry) => entry.name.includes("/runs?")).map((entry) => entry.startTime);
"""
"""When the page has asked for the list of runs, in milliseconds since it was loaded."""

KEPT_SCROLL = "return sessionStorage.getItem('gradwatch-scroll')"


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory) -> Path:
    log_dir = tmp_path_factory.mktemp("logs")
    write_all(log_dir)
    return log_dir


@pytest.fixture(scope="module")
def live(log_dir) -> Iterator[TensorBoardSink]:
    sink = begin_live(log_dir / "live")
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def server(log_dir, live) -> Iterator[TensorBoard]:
    with running(log_dir, load_fast=True) as server:
        wait_until(lambda: has_all_runs(server))
        yield server


@pytest.fixture
def tab(browser, server) -> Tab:
    return Tab(browser, server)


def has_all_runs(server: TensorBoard) -> bool:
    runs = server.get("plugin/gradwatch/runs")["runs"]
    return [run["name"] for run in runs] == [f"{name}/gradwatch" for name in RUNS]


def test_a_run_that_does_not_learn_is_said_so_with_the_reason_and_the_change(tab):
    tab.of_run("torch/gradwatch")
    assert not tab.shows(".gw-verdict", "Is the net learning in every layer?", "No.", "PyTorch")
    assert not tab.shows(
        ".gw-card",
        "error",
        "Vanishing gradient",
        "GW101",
        "Cause: activation",
        "backward depth log10",
        "Fix 1: Replace the saturating activations by ReLU",
        "nn.init.kaiming_normal_",
        "Learning rate: try lr/5",
    )
    assert tab.find(".gw-chain mark").text == "f\N{PRIME}(Wx)"


def test_another_run_is_shown_when_it_is_chosen(tab):
    tab.of_run("torch/gradwatch").choose("Run", "keras/gradwatch")
    assert not tab.shows(".gw-verdict", "Yes.", "Healthy: 2 layers", "Keras")
    assert not tab.shows(".gw-findings", "No open finding")
    assert not tab.shows(".gw-profile", "backward depth B")
    assert not tab.find_all(".gw-card")


def test_a_run_without_signals_says_why_there_is_no_profile(tab):
    tab.of_run("known/gradwatch")
    assert not tab.shows(".gw-profile", "No backward signals", "signals=False")


def test_the_profile_tells_how_much_arrives_and_which_factor_takes_it(tab):
    tab.of_run("sick/gradwatch")
    assert not tab.shows(".gw-profile", "of the output layer's signal arrives", "take 4.9 decades")
    assert len(drawn_colours(tab, ".gw-level-plot canvas")) > 2
    tab.find(".gw-profile .gw-fold summary").click()
    rows = tab.text_of(".gw-profile tbody tr").split("\n")
    assert [row[:3] for row in rows] == [f"fc{layer}" for layer in range(1, 9)]


def test_two_runs_are_held_against_each_other(tab):
    tab.of_run("sick/gradwatch").choose("Compare with", "healthy/gradwatch")
    assert not tab.shows(
        ".gw-comparison",
        "A: sick/gradwatch, B: healthy/gradwatch",
        "They diverge first",
        "times larger",
        "GW101 (activation)",
    )
    titles = tab.text_of(".gw-heatmap-title")
    assert "sick/gradwatch" in titles
    assert "healthy/gradwatch" in titles
    tab.choose("Compare with", "no other run")
    assert wait_until(lambda: not tab.text_of(".gw-comparison"), seconds=20)


def test_a_layer_is_marked_wherever_it_is_shown(tab):
    tab.of_run("sick/gradwatch")
    tab.find(".gw-layer[value=fc2]").click()
    assert wait_until(lambda: tab.find_all(".gw-layer[value=fc2][aria-current=true]"), seconds=20)
    assert tab.find("[role=slider]").get_attribute("aria-valuetext").startswith("fc2")
    assert not tab.shows(".gw-profile-readout", "Layer fc2 (2 of 8)")


def test_the_heatmap_is_read_and_chosen_from_by_keyboard(tab):
    tab.of_run("sick/gradwatch")
    canvas = tab.find(".gw-cursor")
    canvas.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    said = tab.text_of(".gw-readout")
    assert said.startswith("fc3, step 4: Backward signal ")
    assert said.endswith("; trained")
    canvas.send_keys(Keys.ENTER)
    assert not tab.shows(".gw-profile", "Step 4: backward depth", "Layer fc3 (3 of 8)")


def test_the_profile_is_read_by_keyboard(tab):
    tab.of_run("sick/gradwatch")
    slider = tab.find("[role=slider]")
    slider.send_keys(Keys.END)
    assert not tab.shows(".gw-profile-readout", "Layer fc8 (8 of 8): signal 0.0")
    slider.send_keys(Keys.ARROW_LEFT)
    assert not tab.shows(".gw-profile-readout", "Layer fc7 (7 of 8)")


def test_the_page_of_a_rule_opens_and_gives_the_focus_back(tab):
    tab.of_run("sick/gradwatch")
    link = tab.find(".gw-card .gw-link")
    link.send_keys(Keys.ENTER)
    assert not tab.shows("dialog", "GW101 Vanishing gradient", "When it is wrong", "-3.5")
    ActionChains(tab.browser).send_keys(Keys.ESCAPE).perform()
    assert wait_until(lambda: not tab.text_of("dialog"), seconds=20)
    assert tab.browser.switch_to.active_element == link


def test_the_code_of_a_fix_is_copied(tab):
    tab.of_run("sick/gradwatch")
    tab.find(".gw-copy").click()
    assert not tab.shows(".gw-copy", "Copied")
    field = tab.control("Layers")
    field.send_keys(Keys.CONTROL, "v")
    expected = tab.text_of(".gw-snippet code").replace("\n", "")
    assert field.get_attribute("value").replace(" ", "") == expected.replace(" ", "")


def test_code_that_cannot_be_copied_is_selected(tab):
    tab.of_run("sick/gradwatch")
    tab.run("navigator.clipboard.writeText = () => Promise.reject(new Error('denied'))")
    tab.find(".gw-copy").click()
    assert not tab.shows(".gw-copy", "Selected")
    assert tab.run("return String(getSelection())") == tab.text_of(".gw-snippet code")


def test_a_reload_keeps_what_was_chosen(tab):
    tab.of_run("sick/gradwatch").choose("Statistic", "Update ratio")
    assert not tab.shows(".gw-heatmap-title", "Update ratio")
    tab.find(".gw-layer[value=fc2]").click()
    tab.load()
    assert not tab.shows(".gw-heatmap-title", "Update ratio · sick/gradwatch")
    assert not tab.shows(".gw-profile-readout", "Layer fc2 (2 of 8)")
    assert tab.chosen("Run") == "sick/gradwatch"


def test_a_reload_keeps_what_stands_open_and_where_the_page_stands(tab):
    tab.of_run("sick/gradwatch")
    tab.find(".gw-cards .gw-why > summary").click()
    tab.find(".gw-findings > .gw-fold > summary").click()
    tab.find(".gw-profile .gw-fold summary").click()
    tab.find(".gw-findings > .gw-fold .gw-why > summary").click()
    opened = "return [...document.querySelectorAll('details')].map((fold) => fold.open)"
    with tab.window(1500, 700):
        tab.run("window.scrollTo(0, 321)")
        before = tab.run(opened)
        assert wait_until(lambda: tab.run(KEPT_SCROLL) == "321", seconds=20)
        tab.load()
        assert wait_until(lambda: tab.run("return window.scrollY") == 321, seconds=20)
        assert tab.run(opened) == before
        assert 0 < sum(before) < len(before)


def test_a_page_whose_browser_keeps_nothing_is_shown(tab):
    forbidden = "Object.defineProperty(window, 'sessionStorage', {get() {throw new Error('no')}})"
    source = {"source": forbidden}
    script = tab.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    try:
        tab.load()
        tab.choose("Run", "sick/gradwatch")
        assert not tab.shows(".gw-card", "Vanishing gradient")
        tab.find(".gw-cards .gw-why > summary").click()
        assert wait_until(lambda: not tab.text_of(".gw-cards .gw-card-body"), seconds=20)
    finally:
        tab.browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_a_click_while_heatmaps_are_read_drops_neither(tab):
    tab.of_run("sick/gradwatch")
    tab.run(HOLD, "heatmap?")
    tab.choose("Statistic", "Update ratio")
    assert wait_until(lambda: tab.run("return held.length"), seconds=20)
    tab.find(".gw-cursor").send_keys(Keys.HOME, Keys.ENTER)
    assert not tab.shows(".gw-profile", "Step 0: backward depth")
    assert "Update ratio" not in tab.text_of(".gw-heatmap-title")
    tab.run(LET_GO, 0)
    assert not tab.shows(".gw-heatmap-title", "Update ratio")
    assert not tab.shows(".gw-profile", "Step 0: backward depth", "Layer fc1 (1 of 8)")


def test_of_two_clicks_the_later_one_wins_whichever_is_answered_first(tab):
    tab.of_run("sick/gradwatch")
    tab.run(HOLD, "profile?")
    tab.find(".gw-cursor").send_keys(Keys.HOME, Keys.ENTER, Keys.ARROW_RIGHT, Keys.ENTER)
    assert wait_until(lambda: tab.run("return held.length") == 2, seconds=20)
    tab.run(LET_GO, 1)
    assert not tab.shows(".gw-profile", "Step 4: backward depth")
    tab.run(LET_GO, 0)
    assert not wait_until(lambda: "Step 0:" in tab.text_of(".gw-profile"), seconds=2)


def test_a_statistic_chosen_while_a_run_is_read_is_that_runs(tab):
    tab.of_run("sick/gradwatch")
    tab.run(HOLD, "run?")
    tab.choose("Run", "healthy/gradwatch")
    assert wait_until(lambda: tab.run("return held.length"), seconds=20)
    tab.choose("Statistic", "Update ratio")
    assert wait_until(lambda: tab.run("return held.length") == 2, seconds=20)
    tab.run("held.forEach((letGo) => letGo())")
    assert not tab.shows(".gw-heatmap-title", "Update ratio · healthy/gradwatch")
    assert not tab.shows(".gw-verdict", "Healthy: 8 layers")


def test_a_run_that_goes_on_is_shown_anew_and_what_stands_open_stays_open(tab, live):
    tab.of_run("live/gradwatch")
    assert not tab.shows(".gw-verdict", "still running or cut off")
    before = last_step(tab)
    first, second = tab.find_all(".gw-fix > summary")
    first.click()
    second.click()
    go_on(live)
    assert not tab.shows(".gw-cards", "It has become worse.", "Saturated activation")
    assert last_step(tab) > before
    fixes = tab.find_all(".gw-card:first-child .gw-fix")
    assert [fix.get_attribute("open") for fix in fixes] == [None, "true"]
    assert fixes[1].find_element("css selector", "summary") == second


def test_tensorboards_own_reload_is_heard_at_once(tab):
    """By itself the page asks every ten seconds."""
    tab.of_run("sick/gradwatch")
    asked = len(tab.run(ASKED_FOR_RUNS))
    clicked = float(tab.run("return performance.now()"))
    tab.browser.switch_to.default_content()
    tab.find(".reload-button").click()
    tab.browser.switch_to.frame(tab.find("iframe"))
    assert wait_until(lambda: len(tab.run(ASKED_FOR_RUNS)) > asked, seconds=20)
    assert tab.run(ASKED_FOR_RUNS)[-1] - clicked < 2_000


def test_everything_turns_dark_with_tensorboard(tab):
    tab.of_run("sick/gradwatch")
    light = page_colours(tab)
    tab.browser.switch_to.default_content()
    tab.find("[aria-label='Menu for changing light or dark theme']").click()
    tab.find("[title='Force dark TensorBoard theme.']").click()
    tab.browser.switch_to.frame(tab.find("iframe"))
    assert wait_until(lambda: luminance(page_colours(tab)["paper"]) < 0.2, seconds=20)
    dark = page_colours(tab)
    assert luminance(light["paper"]) > 0.9
    assert all(luminance(dark[name]) > 0.4 for name in ("ink", "labels", "axis"))
    assert all(luminance(light[name]) < 0.4 for name in ("ink", "labels", "axis"))


def test_a_hostile_name_is_shown_and_not_run(tab):
    tab.of_run("hostile/gradwatch")
    assert not tab.shows(".gw-card", f"Layer {ACTS_IF_RUN}1 \\u202e does not learn.")
    assert not tab.shows(".gw-layers", "<img src=x")
    tab.choose("Compare with", "sick/gradwatch")
    assert not tab.shows(".gw-comparison", "no layer in common")
    assert not tab.find_all("img")
    tab.browser.switch_to.default_content()
    assert tab.browser.title == "TensorBoard"


def test_nothing_is_wider_than_a_narrow_window(tab):
    tab.of_run("sick/gradwatch")
    wide = "return [document.scrollingElement.scrollWidth, innerWidth]"
    with tab.window(700, 1400):
        assert wait_until(lambda: np.less_equal(*tab.run(wide)), seconds=20)


def test_the_python_loader_and_a_path_prefix_show_the_same(browser, log_dir):
    with running(log_dir, load_fast=False, path_prefix="/some/where") as server:
        wait_until(lambda: has_all_runs(server))
        tab = Tab(browser, server).of_run("torch/gradwatch")
        assert not tab.shows(".gw-verdict", "No.", "steps 0 to 198")
        assert not tab.shows(".gw-card", "Vanishing gradient")
        assert len(drawn_colours(tab, ".gw-cells")) > 8
        browser.get("about:blank")
