/**
 * Cells: what each cell of a heatmap is, and the colours of all of them.
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
  missing: "not in this run",
};

const STRANGENESS = Object.keys(KINDS);
const STRANGE = 3; // kinds before this one are shown if any row has them
const CODES = new Map(STRANGENESS.map((kind, place) => [kind, place + 1]));
const MISSING = CODES.get("missing");

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
 * @param {number[]} rows Rows to draw, from the top; -1 for one that the grid does not have.
 * @param {{scale: string, domain: {low: number, high: number}, most: number}} how `most`: pixels
 *   down. Of rows that share one, the strangest cell is drawn, else the row in the middle.
 * @returns {{pixels: Uint8ClampedArray, codes: Uint8Array, height: number, kinds: Set<string>}}
 *   `pixels` are RGBA. `codes` are 0 for a level, else 1 and the place of the kind in `KINDS`.
 */
export function paint(grid, rows, { scale, domain, most }) {
  const { columns } = grid;
  const height = Math.max(1, Math.min(rows.length, most));
  const pixels = new Uint8ClampedArray(4 * columns * height);
  const codes = new Uint8Array(columns * height);
  const map = colourMap(scale);
  for (let line = 0; line < height; line += 1) {
    const start = Math.floor((line * rows.length) / height);
    const end = Math.max(start + 1, Math.floor(((line + 1) * rows.length) / height));
    const together = end - start === 1 ? [rows[start]] : present(rows.slice(start, end));
    for (let column = 0; column < columns; column += 1) {
      const row = together.length === 1 ? together[0] : strangest(grid, together, column, scale);
      const place = line * columns + column;
      if (row < 0) {
        codes[place] = MISSING; // transparent, as the paper is light or dark
        continue;
      }
      const value = grid.values[row * columns + column];
      const code = codeOf(value, grid.states[row * columns + column], scale);
      codes[place] = code;
      const colour =
        code === 0
          ? map[Math.round(share(position(value, scale), domain) * (LEVELS - 1))]
          : SPECIAL[STRANGENESS[code - 1]];
      pixels[4 * place] = colour[0];
      pixels[4 * place + 1] = colour[1];
      pixels[4 * place + 2] = colour[2];
      pixels[4 * place + 3] = 255;
    }
  }
  return { pixels, codes, height, kinds: kindsIn(codes) };
}

function codeOf(value, state, scale) {
  if (value > 0 && value < Infinity) return 0; // a level on every scale, and nearly all cells
  return CODES.get(kindOf(value, state, scale)) ?? 0;
}

function kindsIn(codes) {
  const found = new Uint8Array(STRANGENESS.length + 1);
  for (let place = 0; place < codes.length; place += 1) found[codes[place]] = 1;
  return new Set(["level", ...STRANGENESS].filter((_, code) => found[code]));
}

function present(rows) {
  const found = rows.filter((row) => row >= 0);
  return found.length ? found : [-1];
}

// The row whose cell stands for all: one of the strangest kind, else the one in the middle.
function strangest(grid, rows, column, scale) {
  let found = rows[rows.length >> 1];
  let rank = STRANGE;
  for (const row of rows) {
    const at = row * grid.columns + column;
    const code = codeOf(grid.values[at], grid.states[at], scale);
    if (code > 0 && code - 1 < rank) {
      rank = code - 1;
      found = row;
    }
  }
  return found;
}
