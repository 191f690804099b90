"""The GradWatch tab as a user sees it: its frame in TensorBoard, its controls, its colours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from ..tensorboard.server import TensorBoard, wait_until
from .driving import WINDOW, visit

SECONDS = 20

COMMONEST = """
const commonest = (canvas, x, y, width, height) => {
  const {data} = canvas.getContext("2d").getImageData(x, y, width, height);
  const counts = new Map();
  for (let at = 0; at < data.length; at += 4) {
    const key = [...data.slice(at, at + 4)].join();
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const [[key]] = [...counts].sort(([, a], [, b]) => b - a);
  return key.split(",").map(Number);
};
"""
"""A function in JavaScript: the commonest colour of a part of a canvas, as four numbers."""

CELLS = f"""
{COMMONEST}
const canvas = document.querySelectorAll(".gw-cells")[0];
const [lines, columns, {{left, right, above, below}}] = arguments;
const high = (canvas.height - above - below) / lines;
const wide = (canvas.width - left - right) / columns;
return Array.from({{length: lines}}, (_, line) => Array.from({{length: columns}}, (_, column) =>
  commonest(canvas, left + column * wide + 2, above + line * high + 2, wide - 4, high - 4)
    .slice(0, 3)));
"""
"""Colour of each cell of the first heatmap, whatever marks are on it."""

TEXTURES = f"""
{COMMONEST}
const canvas = document.querySelectorAll(".gw-cells")[0];
const [lines, columns, {{left, right, above, below}}] = arguments;
const high = (canvas.height - above - below) / lines;
const wide = (canvas.width - left - right) / columns;
const marks = (canvas, x, y, width, height) => {{
  const ground = commonest(canvas, x, y, width, height).join();
  const {{data}} = canvas.getContext("2d").getImageData(x, y, width, height);
  return Array.from({{length: height}}, (_, row) => Array.from({{length: width}}, (_, column) => {{
    const at = 4 * (row * width + column);
    return [...data.slice(at, at + 4)].join() === ground ? 0 : 1;
  }}));
}};
return [
  Array.from({{length: lines}}, (_, line) => Array.from({{length: columns}}, (_, column) => marks(
    canvas, Math.ceil(left + column * wide) + 1, Math.ceil(above + line * high) + 1, 24, 16))),
  Object.fromEntries([...document.querySelectorAll(".gw-legend-kinds li")].map((entry) =>
    [entry.textContent, marks(entry.querySelector("canvas"), 0, 0, 24, 16)])),
];
"""
"""Which pixels are marked: at the beginning of each cell of a heatmap, and of the legend."""

LEGEND = f"""
{COMMONEST}
const bar = document.querySelector(".gw-legend-bar");
const box = bar.getBoundingClientRect();
const pixels = bar.getContext("2d").getImageData(0, 0, bar.width, 1).data;
return {{
  colours: Array.from({{length: bar.width}}, (_, x) => [...pixels.slice(4 * x, 4 * x + 3)]),
  ticks: [...document.querySelectorAll(".gw-legend-ticks span")].map((label) => {{
    const at = label.getBoundingClientRect();
    return [Number(label.textContent), ((at.left + at.right) / 2 - box.left) / box.width];
  }}),
  kinds: Object.fromEntries([...document.querySelectorAll(".gw-legend-kinds li")].map((entry) => {{
    const swatch = entry.querySelector("canvas");
    return [entry.textContent, commonest(swatch, 0, 0, swatch.width, swatch.height).slice(0, 3)];
  }})),
}};
"""
"""Colours of the bar from left to right, its numbers with their places, colours of the kinds."""

ROOM = {"left": 168, "right": 20, "above": 8, "below": 40}
"""Room of a heatmap's labels around its cells, CSS pixels; a test's screen has no finer ones."""

Colour = list[int]

Marks = NDArray[np.bool_]
"""Which pixels of an example of a texture are marked, shape (height, width)."""


@dataclass(frozen=True)
class Legend:
    """The legend of a statistic whose levels are drawn by their log10.

    Args:
        colours: Those of the bar, from left to right.
        ticks: Number below the bar → its place, 0 at the left end and 1 at the right.
        kinds: What else a cell can be, in words → its colour.
    """

    colours: list[Colour]
    ticks: dict[float, float]
    kinds: dict[str, Colour]

    def colour_of(self, level: float) -> Colour:
        """The colour of a log10, read off the bar between its numbers."""
        levels = np.log10(list(self.ticks))
        slope, start = np.polyfit(levels, list(self.ticks.values()), 1)
        return self.colours[round((start + slope * level) * (len(self.colours) - 1))]


class Tab:
    """The tab of a TensorBoard in a browser.

    Args:
        browser: The browser.
        server: The TensorBoard.
    """

    def __init__(self, browser: webdriver.Chrome, server: TensorBoard) -> None:
        self.browser = browser
        self.server = server

    def open(self) -> Tab:
        """Load the tab as for the first time: no view is kept from before."""
        self.browser.get(f"{self.server.address}/data/environment")
        self.browser.execute_script("sessionStorage.clear(); localStorage.clear();")
        return self.load()

    def load(self) -> Tab:
        """Load the tab anew, with the view that the browser has kept."""
        visit(self.browser, self.server, "gradwatch")
        frames = wait_until(lambda: self.find_all("iframe"), seconds=SECONDS)
        self.browser.switch_to.frame(frames[0])
        assert wait_until(lambda: self.text_of(".gw-answer"), seconds=SECONDS)
        return self

    def of_run(self, run: str) -> Tab:
        """The tab as it shows a run."""
        self.open()
        self.choose("Run", run)
        assert wait_until(lambda: run in self.text_of(".gw-heatmap-title"), seconds=SECONDS)
        return self

    def find_all(self, selector: str) -> list[WebElement]:
        """Every element of the frame that a selector fits."""
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def find(self, selector: str) -> WebElement:
        """The first element of the frame that a selector fits, waited for."""
        assert wait_until(lambda: self.find_all(selector), seconds=SECONDS), selector
        return self.find_all(selector)[0]

    def text_of(self, selector: str) -> str:
        """Text of all shown elements that a selector fits."""
        script = """
        return [...document.querySelectorAll(arguments[0])]
          .filter((element) => element.checkVisibility())
          .map((element) => element.textContent).join("\\n");
        """
        return self.browser.execute_script(script, selector)

    def shows(self, selector: str, *wanted: str) -> list[str]:
        """Those of the wanted texts that do not come to stand there."""

        def missing() -> list[str]:
            text = self.text_of(selector)
            return [part for part in wanted if part not in text]

        wait_until(lambda: not missing(), seconds=SECONDS)
        return missing()

    def control(self, label: str) -> WebElement:
        """The control under a label."""
        labels = {entry.text.split("\n")[0]: entry for entry in self.find_all(".gw-controls label")}
        return labels[label].find_element(By.CSS_SELECTOR, "select, input")

    def choose(self, label: str, value: str) -> None:
        """Choose a value from a list of the controls."""
        Select(self.control(label)).select_by_visible_text(value)

    def chosen(self, label: str) -> str:
        """What a list of the controls stands at."""
        return Select(self.control(label)).first_selected_option.text

    def cells(self, lines: int, columns: int) -> list[list[Colour]]:
        """Colour of each cell of the first heatmap."""
        return self.run(CELLS, lines, columns, ROOM)

    def textures(self, lines: int, columns: int) -> tuple[list[list[Marks]], dict[str, Marks]]:
        """Marks of each cell of the first heatmap, and of each kind in the legend."""
        cells, legend = self.run(TEXTURES, lines, columns, ROOM)
        return (
            [[np.array(marks, dtype=np.bool_) for marks in line] for line in cells],
            {kind: np.array(marks, dtype=np.bool_) for kind, marks in legend.items()},
        )

    def legend(self) -> Legend:
        """What the legend says of the colours."""
        found = self.browser.execute_script(LEGEND)
        return Legend(found["colours"], dict(found["ticks"]), found["kinds"])

    def place(self, side: int, across: float, down: float) -> tuple[int, int]:
        """A place of a heatmap's cells, in CSS pixels from the middle of its canvas.

        Args:
            side: 0 for the run, 1 for the one that it is held against.
            across: Share of the cells' width.
            down: Share of their height.
        """
        canvas = self.find_all(".gw-cursor")[side]
        width, height = canvas.size["width"], canvas.size["height"]
        wide = width - ROOM["left"] - ROOM["right"]
        high = height - ROOM["above"] - ROOM["below"]
        return (
            round(ROOM["left"] + across * wide - width / 2),
            round(ROOM["above"] + down * high - height / 2),
        )

    def point(self, side: int, across: float, down: float) -> str:
        """Move the mouse to a place of a heatmap, see `place`; what stands below it then."""
        canvas = self.find_all(".gw-cursor")[side]
        actions = ActionChains(self.browser)
        actions.move_to_element_with_offset(canvas, *self.place(side, across, down)).perform()
        return self.find_all(".gw-readout")[side].text

    def wheel(self, side: int, across: float, down: float, *, turned: int, keys: str = "") -> None:
        """Turn the wheel over a place of a heatmap, see `place`.

        Args:
            side: As of `place`.
            across: As of `place`.
            down: As of `place`.
            turned: CSS pixels, below 0 away from the user.
            keys: Names of keys held meanwhile, of `MODIFIERS`.
        """
        middle = self.run(MIDDLE, side)
        x, y = np.add(middle, self.place(side, across, down)).tolist()
        held = sum(MODIFIERS[key] for key in keys.split())
        event = {"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": turned}
        self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", {**event, "modifiers": held})

    def extent(self, side: int = 0) -> tuple[int, int]:
        """Layers and columns of a heatmap, as it is read aloud."""
        label = self.find_all(".gw-cursor")[side].get_attribute("aria-label")
        return tuple(map(int, re.search(r"of (\d+) layers at (\d+) steps", label).groups()))

    @contextmanager
    def window(self, width: int, height: int) -> Iterator[None]:
        """A browser window of another size, CSS pixels; the usual one afterwards."""
        self.browser.set_window_size(width, height)
        try:
            yield
        finally:
            self.browser.set_window_size(*WINDOW)

    def run(self, script: str, *arguments: object) -> object:
        """What a script in the frame returns."""
        return self.browser.execute_script(script, *arguments)


MODIFIERS = {"Control": 2, "Shift": 8}
"""Names of keys → what Chromium's protocol calls them; its driver holds one of them at most."""

MIDDLE = """
const frame = window.frameElement.getBoundingClientRect();
const box = document.querySelectorAll(".gw-cursor")[arguments[0]].getBoundingClientRect();
return [frame.left + (box.left + box.right) / 2, frame.top + (box.top + box.bottom) / 2];
"""
"""The middle of a heatmap's canvas in the browser's window, CSS pixels."""

HOLD = """
const [route] = arguments;
const real = window.fetch;
window.held = [];
window.fetch = (address, ...more) => {
  if (!String(address).includes(route)) return real(address, ...more);
  return new Promise((resolve) => window.held.push(() => resolve(real(address, ...more))));
};
"""
"""Hold back what the page asks a route for from now on, until `LET_GO`."""

LET_GO = "window.held[arguments[0]]();"
"""Let one of the held requests go, counted from 0 by the time that it was made."""


def last_step(tab: Tab) -> int:
    """The last step of the run, as the verdict says it."""
    return int(re.search(r"steps 0 to (\d+)", tab.text_of(".gw-facts"))[1])


def drawn_colours(tab: Tab, selector: str) -> set[str]:
    """The colours on a canvas, "red,green,blue"."""
    pixels = tab.run(
        """
        const canvas = document.querySelector(arguments[0]);
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const found = new Set();
        for (let at = 0; at < data.length; at += 4)
          if (data[at + 3] === 255) found.add([...data.slice(at, at + 3)].join());
        return [...found];
        """,
        selector,
    )
    return set(pixels)


def page_colours(tab: Tab) -> dict[str, Colour]:
    """Colours of the paper, of text, of the heatmap's labels and of the profile's axis."""
    return tab.run(
        """
        const style = getComputedStyle(document.querySelector(".gradwatch"));
        const parts = (colour) => colour.match(/\\d+/g).slice(0, 3).map(Number);
        const strongest = (selector, width) => {
          const canvas = document.querySelector(selector);
          const {data} = canvas.getContext("2d").getImageData(0, 0, width, canvas.height);
          const inks = new Map();
          for (let at = 0; at < data.length; at += 4)
            if (data[at + 3] === 255) {
              const key = [...data.slice(at, at + 3)].join();
              inks.set(key, (inks.get(key) ?? 0) + 1);
            }
          const [[key]] = [...inks].sort(([, a], [, b]) => b - a);
          return key.split(",").map(Number);
        };
        return {
          paper: parts(style.backgroundColor),
          ink: parts(style.color),
          labels: strongest(".gw-cells", 160),
          axis: strongest(".gw-level-plot canvas", 50),
        };
        """
    )


def luminance(colour: Colour) -> float:
    """Roughly how light a colour looks, 0 to 1."""
    return float(np.dot(colour, (0.2126, 0.7152, 0.0722))) / 255
