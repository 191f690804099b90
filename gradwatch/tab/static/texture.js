/**
 * Textures: marks over the cells that hold no level, so that no kind of cell is told by its colour
 * alone.
 */

import { KINDS } from "./cells.js";

const WHITE = [255, 255, 255];
const DARK = [40, 44, 52];
const GREY = [138, 138, 146];

/** Colour of each texture's marks, [red, green, blue] in 0..255. */
export const INKS = {
  notFinite: WHITE,
  noGradient: WHITE,
  zero: [170, 170, 176],
  frozen: DARK,
  idle: DARK,
  unobserved: [96, 112, 98],
  missing: GREY, // seen on light paper and on dark
};

/** Pixels after which every texture repeats itself, both across and down. */
const TILE = 12;

/** Pixels of a cell, or of a block of equal cells, that show a texture. */
const SMALLEST = 3;

/** Height of a cell from which on textures are wide enough to be told apart at a glance. */
const LARGE = 8;

// In small cells every square of 3 by 3 pixels has a mark of each texture.
const PERIODS = { large: { slope: 6, line: 6, dot: 2 }, small: { slope: 4, line: 3, dot: 1 } };

const isSlash = (x, y, { slope }) => (x + y) % slope === 0;
const isBackslash = (x, y, { slope }) => (x - y + TILE) % slope === 0;

const MARKS = {
  notFinite: (x, y, periods) => isSlash(x, y, periods) || isBackslash(x, y, periods),
  noGradient: (x, y, { line }) => y % line === 0,
  zero: (x, y, { line }) => x % line === 0,
  frozen: isSlash,
  idle: isBackslash,
  unobserved: (x, y, { line, dot }) => x % line < dot && y % line < dot,
  missing: (x, y, { line, slope }) =>
    y % line === 0 && (x + ((y / line) % 2) * (slope / 2)) % slope < slope / 2,
};

const tiles = { large: tilesOf(PERIODS.large), small: tilesOf(PERIODS.small) };

/**
 * The marks of all cells of a heatmap, to be drawn over their colours.
 *
 * @param {Uint8Array} codes What each cell is, line by line, see `paint`.
 * @param {{columns: number, lines: number}} cells
 * @param {{width: number, height: number}} size Of all cells together, in pixels of the screen.
 * @param {number} [unit] Pixels of the screen that are a pixel of the texture, a whole number.
 * @returns {Uint8ClampedArray|null} RGBA, transparent between the marks; null if there is none.
 */
export function textured(codes, { columns, lines }, { width, height }, unit = 1) {
  const lefts = edges(columns, width);
  const tops = edges(lines, height);
  const isLow = height / lines < SMALLEST * unit;
  const kit = tiles[height / lines < LARGE * unit ? "small" : "large"];
  let pixels = null;
  for (let line = 0; line < lines; line += 1)
    for (let column = 0; column < columns; ) {
      const code = codes[line * columns + column];
      const end = code === 0 ? column + 1 : runEnd(codes, columns, line, column);
      const wide = lefts[end] - lefts[column];
      if (code && wide >= SMALLEST * unit && !(isLow && isAlone(codes, columns, line, column))) {
        pixels ??= new Uint32Array(width * height);
        const area = { left: lefts[column], right: lefts[end], top: tops[line] };
        stamp(pixels, width, { ...area, bottom: tops[line + 1] }, kit[code - 1], unit);
      }
      column = end;
    }
  return pixels && new Uint8ClampedArray(pixels.buffer);
}

// The column after the last of a run of equal cells; in low lines their neighbours are equal too.
function runEnd(codes, columns, line, column) {
  const start = line * columns;
  const code = codes[start + column];
  const alone = isAlone(codes, columns, line, column);
  let end = column + 1;
  while (
    end < columns &&
    codes[start + end] === code &&
    isAlone(codes, columns, line, end) === alone
  )
    end += 1;
  return end;
}

function isAlone(codes, columns, line, column) {
  const at = line * columns + column;
  return codes[at - columns] !== codes[at] && codes[at + columns] !== codes[at];
}

// The first pixel of each row or column, and the end of the last: a pixel belongs to its middle.
function edges(count, length) {
  return Int32Array.from({ length: count + 1 }, (_, at) => Math.ceil((at * length) / count - 0.5));
}

function stamp(pixels, width, { left, right, top, bottom }, tile, unit) {
  for (let y = top; y < bottom; y += 1) {
    const row = TILE * (Math.floor(y / unit) % TILE);
    for (let x = left; x < right; x += 1)
      pixels[y * width + x] = tile[row + (Math.floor(x / unit) % TILE)];
  }
}

function tilesOf(periods) {
  return Object.keys(KINDS).map((kind) => {
    const [ink] = new Uint32Array(new Uint8Array([...INKS[kind], 255]).buffer);
    const isMarked = (_, at) => MARKS[kind](at % TILE, Math.floor(at / TILE), periods);
    return Uint32Array.from({ length: TILE * TILE }, (_, at) => (isMarked(_, at) ? ink : 0));
  });
}
