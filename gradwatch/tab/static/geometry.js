/**
 * Geometry of a heatmap: which cell is where, and where the numbers of its axes stand.
 */

/**
 * Room around the cells in CSS pixels: layers left of them and steps below them, and what of their
 * labels reaches beyond the first row and the last column.
 */
export const LEFT = 168;
export const RIGHT = 20;
export const ABOVE = 8;
export const BELOW = 40;

/**
 * Height of the cells together: rows are as high as they need to be to read, up to a bound.
 *
 * @param {number} rows Rows shown.
 */
export function cellsHeight(rows) {
  return Math.min(Math.max(rows * 20, 100), 480);
}

/**
 * The cell under a place.
 *
 * @param {{x: number, y: number}} place In the cells' box, in CSS pixels.
 * @param {{width: number, height: number}} box
 * @param {{rows: number, columns: number}} grid What is shown in it.
 * @returns {{line: number, column: number}} The nearest cell, for places outside too.
 */
export function cellAt({ x, y }, { width, height }, { rows, columns }) {
  const clamp = (value, most) => Math.min(Math.max(Math.floor(value), 0), most - 1);
  return { line: clamp((y / height) * rows, rows), column: clamp((x / width) * columns, columns) };
}

/**
 * Lines or columns that have a label: evenly spread, no closer than they may be.
 *
 * @param {number} count
 * @param {number} length Pixels for all of them.
 * @param {number} closest Pixels between two labels at least.
 * @returns {number[]}
 */
export function labelled(count, length, closest) {
  const stride = Math.max(1, Math.ceil((closest * count) / Math.max(length, 1)));
  return Array.from({ length: Math.ceil(count / stride) }, (_, index) => index * stride);
}

/**
 * The middle of a text that is to stand at a place, and inside its axis.
 *
 * @param {number} at Where its middle is best.
 * @param {number} length Of the text.
 * @param {{low: number, high: number}} bounds
 */
export function inside(at, length, { low, high }) {
  return Math.max(Math.min(at, high - length / 2), low + length / 2);
}

/**
 * Where the cursor goes for a key, null for a key that does not move it.
 *
 * @param {string} key Name of the key.
 * @param {{line: number, column: number}} cell
 * @param {{rows: number, columns: number}} grid
 */
export function moved(key, { line, column }, { rows, columns }) {
  const tenth = Math.max(1, Math.round(columns / 10));
  const to = {
    ArrowLeft: [line, column - 1],
    ArrowRight: [line, column + 1],
    ArrowUp: [line - 1, column],
    ArrowDown: [line + 1, column],
    PageUp: [line, column - tenth],
    PageDown: [line, column + tenth],
    Home: [line, 0],
    End: [line, columns - 1],
  }[key];
  if (!to) return null;
  const clamp = (value, most) => Math.min(Math.max(value, 0), most - 1);
  return { line: clamp(to[0], rows), column: clamp(to[1], columns) };
}
