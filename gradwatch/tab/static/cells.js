/**
 * Cells: what each cell of a heatmap is, and the pixels of all of them.
 */

import { colourMap, LEVELS, SPECIAL } from "./colour.js";
import { position, share } from "./scale.js";

const FROZEN = 1;
const IDLE = 2;
const NO_GRADIENT = 3;

/** What a cell can be besides a level, in words, the strangest first. */
export const KINDS = {
  notFinite: "NaN or infinity",
  noGradient: "no gradient came",
  zero: "exactly zero",
  frozen: "frozen",
  idle: "did not run",
  unobserved: "not observed",
};

const STRANGENESS = Object.keys(KINDS);
const STRANGE = 3; // kinds before this one are shown if any row has them

/** What a layer's gradient was, by the number of its state. */
export const STATES = ["trained", "frozen", "did not run", "no gradient", "zero gradient"];

/**
 * What a cell is.
 *
 * @param {number} value NaN was not observed, infinity is not finite.
 * @param {number} state Number of the layer's state.
 * @param {"log"|"linear"|"log10"|"diverging"} scale
 * @returns {string} "level", or a key of `KINDS`.
 */
export function kindOf(value, state, scale) {
  if (value === Infinity) return "notFinite";
  const isZero = scale === "log" ? value === 0 : value === -Infinity;
  if (!isZero && !Number.isNaN(value)) return "level";
  if (state === FROZEN) return "frozen";
  if (state === IDLE) return "idle";
  if (state === NO_GRADIENT) return "noGradient";
  return isZero ? "zero" : "unobserved";
}

/**
 * The cells of some rows, a cell a pixel; rows beyond `most` are drawn together.
 *
 * @param {{values: ArrayLike<number>, states: ArrayLike<number>, columns: number}} grid
 * @param {number[]} rows Rows to draw, from the top.
 * @param {{scale: string, domain: {low: number, high: number}, most: number}} how `most`: pixels
 *   down. Of rows that share one, the strangest cell is drawn, else the row in the middle.
 * @returns {{pixels: Uint8ClampedArray, height: number, kinds: Set<string>}} `pixels` are RGBA.
 */
export function paint(grid, rows, { scale, domain, most }) {
  const height = Math.max(1, Math.min(rows.length, most));
  const pixels = new Uint8ClampedArray(4 * grid.columns * height);
  const map = colourMap(scale);
  const kinds = new Set();
  for (let line = 0; line < height; line += 1) {
    const start = Math.floor((line * rows.length) / height);
    const end = Math.max(start + 1, Math.floor(((line + 1) * rows.length) / height));
    const together = rows.slice(start, end);
    for (let column = 0; column < grid.columns; column += 1) {
      const row = together.length === 1 ? together[0] : strangest(grid, together, column, scale);
      const cell = row * grid.columns + column;
      const value = grid.values[cell];
      const kind = kindOf(value, grid.states[cell], scale);
      kinds.add(kind);
      const level = share(position(value, scale), domain);
      const colour = kind === "level" ? map[Math.round(level * (LEVELS - 1))] : SPECIAL[kind];
      const at = 4 * (line * grid.columns + column);
      pixels[at] = colour[0];
      pixels[at + 1] = colour[1];
      pixels[at + 2] = colour[2];
      pixels[at + 3] = 255;
    }
  }
  return { pixels, height, kinds };
}

// The row whose cell stands for all: one of the strangest kind, else the one in the middle.
function strangest(grid, rows, column, scale) {
  let found = rows[rows.length >> 1];
  let rank = STRANGE;
  for (const row of rows) {
    const at = row * grid.columns + column;
    const value = grid.values[at];
    if (value > 0 && value < Infinity) continue; // a level on every scale, and nearly all cells
    const own = STRANGENESS.indexOf(kindOf(value, grid.states[at], scale));
    if (own >= 0 && own < rank) {
      rank = own;
      found = row;
    }
  }
  return found;
}
