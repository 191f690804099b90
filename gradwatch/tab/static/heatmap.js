/**
 * Heatmap: layers in forward order by observed steps, with a cursor for the mouse and the keyboard.
 */

import { kindOf, KINDS, STATES } from "./cells.js";
import { element, fill } from "./dom.js";
import { drawFrames, drawHeatmap } from "./drawing.js";
import { ABOVE, cellAt, cellsHeight, LEFT, moved, RIGHT } from "./geometry.js";
import { figure, grouped, printable } from "./words.js";
import { wheelTurn } from "./zoom.js";

/**
 * One heatmap.
 *
 * @param {HTMLElement} root Where it goes; anything in it is replaced.
 * @param {{onPin: function(string, number): void, onZoom: function(object): void,
 *   onWheel: function(object): boolean, onKey: function(string): void,
 *   onCursor: function(string): void}} callbacks `onPin` gets a layer's name and a step, `onZoom`
 *   the layers and steps of a dragged rectangle (null for all), `onWheel` `factor`, `across`,
 *   `down` (the place as shares of the box) and `layersOnly`, and says whether that changed what is
 *   shown; `onKey` gets one of "+", "-" and "0", `onCursor` the cell in words.
 * @returns {{show: function(object): Set<string>, pin: function(string|null, number|null): void}}
 *   `show` returns the kinds of the cells.
 */
export function createHeatmap(root, callbacks) {
  const title = element("h3", { class: "gw-heatmap-title" });
  const cells = element("canvas", { class: "gw-cells" });
  const above = element("canvas", { class: "gw-cursor", tabindex: 0, role: "application" });
  const stack = element("div", { class: "gw-canvases" }, cells, above);
  const readout = element("p", { class: "gw-readout" });
  fill(root, element("figure", { class: "gw-heatmap" }, title, stack, readout));
  let shown = null;
  let box = { width: 0, height: 0 };
  let cursor = null;
  let pinned = { layer: null, step: null };
  let drag = null;
  let pointer = null;
  let turned = 0;

  function show(next) {
    shown = next;
    fill(title, next.title);
    const layers = next.rows.filter((row) => row >= 0).length;
    above.setAttribute(
      "aria-label",
      `${next.statistic.title} of ${layers} layers at ${next.grid.columns} steps. ` +
        "Arrow keys move the cursor, Enter selects, plus and minus zoom, 0 shows all.",
    );
    const wide = Math.max(root.clientWidth - LEFT - RIGHT, 120);
    box = { width: wide, height: cellsHeight(shown.rows.length) };
    const kinds = drawHeatmap(cells, shown, box);
    if (cursor === null) frame();
    else moveTo(pointer === null ? clampedCell(cursor) : placed(pointer));
    return kinds;
  }

  function size() {
    return { rows: shown.rows.length, columns: shown.grid.columns };
  }

  function clampedCell({ line, column }) {
    const { rows, columns } = size();
    return { line: Math.min(line, rows - 1), column: Math.min(column, columns - 1) };
  }

  function rectangle(from, to) {
    const wide = box.width / size().columns;
    const high = box.height / size().rows;
    const [left, right] = [from.column, to.column].sort((a, b) => a - b);
    const [top, bottom] = [from.line, to.line].sort((a, b) => a - b);
    return {
      x: left * wide,
      y: top * high,
      width: (right - left + 1) * wide,
      height: (bottom - top + 1) * high,
      dashed: false,
    };
  }

  function frame() {
    const frames = [];
    const pin = pinnedCell();
    if (pin) frames.push(rectangle(pin, pin));
    if (drag?.moved) frames.push({ ...rectangle(drag.from, drag.to), dashed: true });
    else if (cursor) frames.push({ ...rectangle(cursor, cursor), dashed: true });
    drawFrames(above, box, frames);
  }

  function pinnedCell() {
    if (shown === null || pinned.layer === null) return null;
    const line = shown.layers.findIndex(({ name }) => name === pinned.layer);
    if (line < 0) return null;
    const { lastSteps, columns } = shown.grid;
    const found = lastSteps.findIndex((step) => pinned.step === null || step >= pinned.step);
    return { line, column: found < 0 ? columns - 1 : found };
  }

  function placeOf({ clientX, clientY }) {
    const bounds = above.getBoundingClientRect();
    return { x: clientX - bounds.left - LEFT, y: clientY - bounds.top - ABOVE };
  }

  function placed(event) {
    return cellAt(placeOf(event), box, size());
  }

  function moveTo(cell) {
    cursor = cell;
    const text = cellInWords(shown, cell);
    fill(readout, text);
    frame();
    return text;
  }

  function choose(cell) {
    callbacks.onPin(shown.layers[cell.line].name, shown.grid.lastSteps[cell.column]);
  }

  // With Ctrl or Cmd alone, so that a wheel over the heatmap scrolls the page as ever.
  function turn(event) {
    if (shown === null || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    turned = wheelTurn(turned, event);
    const { x, y } = placeOf(event);
    const change = { factor: 2 ** turned, across: x / box.width, down: y / box.height };
    if (callbacks.onWheel({ ...change, layersOnly: event.shiftKey })) turned = 0;
  }

  above.addEventListener("wheel", turn, { passive: false });

  above.addEventListener("pointermove", (event) => {
    if (shown === null) return;
    pointer = { clientX: event.clientX, clientY: event.clientY };
    const cell = placed(event);
    if (drag) {
      drag.to = cell;
      drag.moved ||= cell.line !== drag.from.line || cell.column !== drag.from.column;
    }
    moveTo(cell);
  });
  above.addEventListener("pointerleave", () => {
    pointer = null;
    if (drag || document.activeElement === above) return;
    cursor = null;
    frame();
  });
  above.addEventListener("pointerdown", (event) => {
    if (shown === null || event.button !== 0) return;
    above.setPointerCapture(event.pointerId);
    const cell = placed(event);
    drag = { from: cell, to: cell, moved: false };
  });
  above.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const { from, to, moved: isDragged } = drag;
    drag = null;
    if (isDragged) callbacks.onZoom(spanned(shown, from, to));
    else choose(placed(event));
    frame();
  });
  above.addEventListener("keydown", (event) => {
    if (shown === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const cell = moved(event.key, cursor ?? { line: 0, column: 0 }, size());
    if (cell) pointer = null;
    if (cell) callbacks.onCursor(moveTo(cell));
    else if (event.key === "Enter" || event.key === " ") choose(cursor ?? { line: 0, column: 0 });
    else if (["+", "=", "-", "0"].includes(event.key))
      callbacks.onKey(event.key === "=" ? "+" : event.key);
    else return;
    event.preventDefault();
  });

  function pin(layer, step) {
    pinned = { layer, step };
    if (shown !== null) frame();
  }

  return { show, pin };
}

/**
 * A cell in words: layer, steps, value and state.
 *
 * @param {object} shown What is drawn, see `drawHeatmap`.
 * @param {{line: number, column: number}} cell
 * @returns {string}
 */
export function cellInWords({ grid, rows, layers, statistic }, { line, column }) {
  const row = rows[line];
  const first = grid.firstSteps[column];
  const last = grid.lastSteps[column];
  const steps =
    first === last
      ? `step ${grouped(first)}`
      : `steps ${grouped(first)} to ${grouped(last)} (${grouped(grid.counts[column])} samples)`;
  const place = `${printable(layers[line].name)}, ${steps}`;
  if (row < 0) return `${place}: ${KINDS.missing}`;
  const at = row * grid.columns + column;
  const value = grid.values[at];
  const kind = kindOf(value, grid.states[at], statistic.scale);
  const said = kind === "level" ? figure(value) : KINDS[kind];
  const state = STATES[grid.states[at]] ?? "unknown";
  return `${place}: ${statistic.title} ${said}; ${state}`;
}

function spanned({ grid, layers }, from, to) {
  const [left, right] = [from.column, to.column].sort((a, b) => a - b);
  const [top, bottom] = [from.line, to.line].sort((a, b) => a - b);
  return {
    rows: bottom - top + 1 === layers.length ? null : [layers[top].name, layers[bottom].name],
    steps: right === left ? null : [grid.firstSteps[left], grid.lastSteps[right]],
  };
}
