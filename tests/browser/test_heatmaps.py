"""The tab's heatmaps: colours and textures of cells, lines of two runs, labels, the wheel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gradwatch.snapshot import State

from ..tensorboard.server import TensorBoard, running, wait_until
from .driving import needs_browser
from .tab_page import Colour, Legend, Marks, Tab
from .tab_runs import DEEP, KNOWN_LOG10, KNOWN_STATES, write_drawn

pytestmark = [needs_browser, pytest.mark.usefixtures("nothing_to_complain_of")]

KINDS = {np.inf: "NaN or infinity", -np.inf: "exactly zero"}
STATE_KINDS = {
    State.FROZEN: "frozen",
    State.IDLE: "did not run",
    State.NO_GRADIENT: "no gradient came",
}
"""State of a layer without a gradient → what the legend calls its cell."""

NO_LEVELS = [tuple(cell) for cell in np.argwhere(~np.isfinite(KNOWN_LOG10)).tolist()]
"""Cells of the run "known" that hold no level: (layer, sample)."""

NEARLY = 6
"""Difference of two colours, of 255: the legend's bar has a colour for each of its pixels."""

EDGES = """
const canvas = document.querySelectorAll(".gw-cells")[0];
const {width, height} = canvas;
const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
const inked = (x, y) => pixels[4 * (y * width + x) + 3] > 0;
const across = [...Array(width).keys()];
const down = [...Array(height).keys()];
return {
  top: across.filter((x) => inked(x, 0)).length,
  bottom: across.filter((x) => inked(x, height - 1)).length,
  left: down.filter((y) => inked(0, y)).length,
  right: down.filter((y) => inked(width - 1, y)).length,
};
"""
"""Pixels of the first heatmap's canvas that are drawn on at each of its edges."""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[TensorBoard]:
    log_dir = tmp_path_factory.mktemp("drawn")
    write_drawn(log_dir)
    with running(log_dir, load_fast=True) as server:
        wait_until(lambda: len(server.get("plugin/gradwatch/runs")["runs"]) == 4)
        yield server


@pytest.fixture
def tab(browser, server) -> Tab:
    return Tab(browser, server)


@pytest.fixture(scope="module")
def known(browser, server):
    """Cells, legend and textures of the run "known", all read while its page is open."""
    tab = Tab(browser, server).of_run("known/gradwatch")
    shape = KNOWN_LOG10.shape
    return tab.cells(*shape), tab.legend(), tab.textures(*shape)


@pytest.fixture(scope="module")
def known_colours(known):
    return known[:2]


@pytest.fixture(scope="module")
def known_textures(known):
    return known[2]


def kind_of(layer: int, sample: int) -> str:
    """What the legend calls a cell of the run "known" that holds no level."""
    level, state = KNOWN_LOG10[layer, sample], State(KNOWN_STATES[layer, sample])
    return KINDS.get(level, STATE_KINDS.get(state, "not observed"))


def known_colour(legend: Legend, layer: int, sample: int) -> Colour:
    """The colour that the legend gives a cell of the run "known"."""
    level = KNOWN_LOG10[layer, sample]
    if np.isfinite(level):
        return legend.colour_of(level)
    return legend.kinds[kind_of(layer, sample)]


def repeats(marks: Marks) -> set[bytes]:
    """The texture wherever it begins: its squares of 12 by 12 pixels."""
    height, width = marks.shape
    return {
        np.ascontiguousarray(marks[top : top + 12, left : left + 12]).tobytes()
        for top in range(height - 11)
        for left in range(width - 11)
    }


@pytest.mark.parametrize("sample", range(KNOWN_LOG10.shape[1]))
@pytest.mark.parametrize("layer", range(KNOWN_LOG10.shape[0]))
def test_a_cell_has_the_colour_that_the_legend_gives_its_value(known_colours, layer, sample):
    cells, legend = known_colours
    expected = known_colour(legend, layer, sample)
    assert np.abs(np.subtract(cells[layer][sample], expected)).max() <= NEARLY


def test_the_legend_tells_all_that_is_not_a_level_apart(known_colours):
    _, legend = known_colours
    assert legend.kinds.keys() == {*KINDS.values(), *STATE_KINDS.values(), "not observed"}
    apart = {tuple(colour) for colour in (*legend.kinds.values(), *legend.colours)}
    assert len(apart) >= len(legend.kinds) + 100


@pytest.mark.parametrize(("layer", "sample"), NO_LEVELS)
def test_a_cell_without_a_level_has_the_texture_of_its_kind_and_no_other(
    known_textures, layer, sample
):
    cells, legend = known_textures
    own = repeats(cells[layer][sample])
    fitting = [kind for kind, marks in legend.items() if own & repeats(marks)]
    assert fitting == [kind_of(layer, sample)]


@pytest.mark.parametrize(("layer", "sample"), np.argwhere(np.isfinite(KNOWN_LOG10)).tolist())
def test_a_level_has_no_texture(known_textures, layer, sample):
    cells, _ = known_textures
    assert not cells[layer][sample].any()


def test_no_label_is_cut_off(tab):
    tab.of_run("deep/gradwatch")
    assert tab.extent() == (DEEP, 41)
    assert tab.run(EDGES) == {"top": 0, "bottom": 0, "left": 0, "right": 0}


def test_the_wheel_with_ctrl_zooms_around_what_is_below_the_mouse(tab):
    tab.of_run("sick/gradwatch")
    place = (0.7, 0.4)
    below = tab.point(0, *place)
    tab.wheel(0, *place, turned=-200, keys="Control")
    assert wait_until(lambda: tab.extent() == (4, 25), seconds=20), tab.extent()
    assert tab.point(0, *place) == below
    tab.wheel(0, *place, turned=200, keys="Control")
    assert wait_until(lambda: tab.extent() == (8, 50), seconds=20), tab.extent()
    assert tab.find("[aria-label='Show all layers and steps']").get_attribute("disabled")


def test_the_wheel_with_ctrl_and_shift_zooms_layers_alone(tab):
    tab.of_run("sick/gradwatch")
    tab.wheel(0, 0.5, 0.99, turned=-200, keys="Control Shift")
    assert wait_until(lambda: tab.extent() == (4, 50), seconds=20), tab.extent()
    assert tab.point(0, 0.5, 0.99).startswith("fc8, ")
    assert tab.point(0, 0.5, 0.01).startswith("fc5, ")


def test_the_wheel_alone_scrolls_the_page_and_zooms_nothing(tab):
    tab.of_run("sick/gradwatch")
    with tab.window(1500, 700):
        tab.wheel(0, 0.5, 0.5, turned=120)
        assert wait_until(lambda: tab.run("return window.scrollY") == 120, seconds=20)
        assert tab.extent() == (8, 50)


def test_a_zoom_is_kept_when_another_run_is_put_beside(tab):
    tab.of_run("sick/gradwatch")
    tab.wheel(0, 0.5, 0.5, turned=-200, keys="Control Shift")
    assert wait_until(lambda: tab.extent() == (4, 50), seconds=20)
    assert tab.point(0, 0.5, 0.01).startswith("fc3, ")
    tab.choose("Compare with", "part/gradwatch")
    assert not tab.shows(".gw-heatmap-title", "part/gradwatch")
    assert tab.point(0, 0.5, 0.01).startswith("fc3, ")
    assert tab.point(1, 0.5, 0.99).startswith("fc6, ")


def names_down(tab: Tab, side: int, lines: int) -> list[str]:
    """Layers of a heatmap from the top, as the readout names them."""
    texts = [tab.point(side, 0.5, (line + 0.5) / lines) for line in range(lines)]
    return [text.split(",")[0] for text in texts]


@pytest.fixture
def pair(tab) -> Tab:
    """The runs "sick" and "part" side by side."""
    tab.of_run("sick/gradwatch").choose("Compare with", "part/gradwatch")
    assert not tab.shows(".gw-heatmap-title", "part/gradwatch")
    return tab


def test_layers_of_two_runs_stand_at_the_same_height(pair):
    united = ["fc1", "fc2", "fc3", "extra", "fc4", "fc5", "fc6", "fc7", "fc8"]
    assert names_down(pair, 0, 9) == united
    assert names_down(pair, 1, 9) == united
    heights = [canvas.size["height"] for canvas in pair.find_all(".gw-cells")]
    assert heights[0] == heights[1]
    assert (pair.extent(0)[0], pair.extent(1)[0]) == (8, 5)


def test_a_layer_that_a_run_lacks_is_said_to_be_so(pair):
    assert pair.point(1, 0.5, 2.5 / 9).endswith(": not in this run")
    assert pair.point(0, 0.5, 3.5 / 9).endswith(": not in this run")
    assert pair.point(0, 0.5, 2.5 / 9).endswith("; trained")
    assert not pair.shows(".gw-legend-kinds", "not in this run")
    pair.choose("Compare with", "no other run")
    assert wait_until(lambda: "not in this run" not in pair.text_of(".gw-legend-kinds"), seconds=20)


def test_two_runs_are_zoomed_to_the_same_layers(pair):
    pair.wheel(1, 0.5, 0.5, turned=-200, keys="Control Shift")
    assert wait_until(lambda: pair.extent(0)[0] == 4, seconds=20), pair.extent(0)
    assert pair.extent(1)[0] == 3
    assert names_down(pair, 0, 5) == ["fc3", "extra", "fc4", "fc5", "fc6"]
    assert names_down(pair, 1, 5) == ["fc3", "extra", "fc4", "fc5", "fc6"]


def test_two_runs_without_a_common_layer_keep_to_themselves(tab):
    tab.of_run("sick/gradwatch").choose("Compare with", "known/gradwatch")
    assert not tab.shows(".gw-comparison, .gw-incomparable", "no layer in common")
    tab.choose("Statistic", "Gradient norm")
    assert not tab.shows(".gw-heatmap-title", "Gradient norm · known/gradwatch")
    assert (tab.extent(0)[0], tab.extent(1)[0]) == (8, 4)
    assert "not in this run" not in tab.text_of(".gw-legend-kinds")
