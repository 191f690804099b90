/**
 * Lines of a heatmap: which layers stand where, so that two runs have the same layer at the same
 * height.
 */

import { nearer } from "./zoom.js";

/**
 * The layers of two runs in one order: the first run's, with those of the other alone before the
 * common layer that they come before.
 *
 * @param {Array<{name: string}>} layers In forward order.
 * @param {Array<{name: string}>} others In forward order.
 * @returns {Array<{name: string}>|null} null if they have no layer in common.
 */
export function united(layers, others) {
  const own = new Set(layers.map(({ name }) => name));
  const before = new Map();
  let waiting = [];
  for (const layer of others) {
    if (own.has(layer.name)) {
      before.set(layer.name, waiting);
      waiting = [];
    } else waiting.push(layer);
  }
  if (before.size === 0) return null;
  return [...layers.flatMap((layer) => [...(before.get(layer.name) ?? []), layer]), ...waiting];
}

/**
 * The row that a run has for each line.
 *
 * @param {Array<{name: string}>} lines
 * @param {Array<{name: string}>} layers Of the run.
 * @returns {number[]} -1 for a layer that the run does not have.
 */
export function linesOf(lines, layers) {
  const rows = new Map(layers.map(({ name }, row) => [name, row]));
  return lines.map(({ name }) => rows.get(name) ?? -1);
}

/**
 * The lines from one layer to another.
 *
 * @param {Array<{name: string}>} lines
 * @param {[string, string]|null} ends Names of the first and the last; null for all lines.
 * @returns {Array<{name: string}>} All lines if one of the two is not there.
 */
export function part(lines, ends) {
  if (ends === null) return lines;
  const places = ends.map((end) => lines.findIndex(({ name }) => name === end));
  const [first, last] = places.sort((a, b) => a - b);
  return first < 0 ? lines : lines.slice(first, last + 1);
}

/**
 * More of the lines or fewer, around a place that stays where it is.
 *
 * @param {Array<{name: string}>} lines All there are.
 * @param {[string, string]|null} ends Of those that are shown, see `part`.
 * @param {number} factor Above 1 to see more.
 * @param {number} down The place as a share of those that are shown, 0 at their top.
 * @returns {[string, string]|null} The new ends, null for all lines.
 */
export function zoomedLines(lines, ends, factor, down) {
  const shown = part(lines, ends);
  const first = lines.indexOf(shown[0]);
  const range = [first, first + shown.length];
  const found = nearer(range, factor, first + down * shown.length, lines.length);
  return found && [lines[found[0]].name, lines[found[1] - 1].name];
}
