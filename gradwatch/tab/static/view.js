/**
 * View: what the user has chosen. It outlives a reload of the page, and of the runs.
 */

import { keep, kept } from "./kept.js";

const KEY = "gradwatch-view";

/** Nothing chosen yet. `rows` are names of the first and the last layer, `steps` their numbers. */
export const FRESH = Object.freeze({
  run: null,
  other: null,
  statistic: null,
  filter: "",
  step: null,
  layer: null,
  rows: null,
  steps: null,
});

/**
 * A stored view, or a fresh one where it is none: what is stored may come from anywhere.
 *
 * @param {unknown} stored
 * @returns {object} As `FRESH`.
 */
export function restored(stored) {
  if (stored === null || typeof stored !== "object") return { ...FRESH };
  const isText = (value) => typeof value === "string";
  const text = (value) => (isText(value) ? value : null);
  const pair = (value, fits) =>
    Array.isArray(value) && value.length === 2 && value.every(fits) ? value.slice() : null;
  const steps = pair(stored.steps, Number.isFinite);
  return {
    run: text(stored.run),
    other: text(stored.other),
    statistic: text(stored.statistic),
    filter: text(stored.filter) ?? "",
    step: Number.isFinite(stored.step) ? stored.step : null,
    layer: text(stored.layer),
    rows: pair(stored.rows, isText),
    steps: steps !== null && steps[0] <= steps[1] ? steps : null,
  };
}

/** The view of this browser tab; fresh where the browser keeps nothing. */
export function load() {
  return restored(kept(KEY));
}

/** Keep the view for a reload, where the browser lets us. */
export function save(view) {
  keep(KEY, view);
}

/**
 * Rows that a filter leaves, as numbers of layers.
 *
 * @param {Array<{name: string, kind: string}>} layers In forward order.
 * @param {string} filter Part of a name or kind, or a regular expression between slashes.
 * @returns {{rows: number[], trouble: string|null}} With a bad expression all rows, and why.
 */
export function filtered(layers, filter) {
  const all = layers.map((_, row) => row);
  if (filter === "") return { rows: all, trouble: null };
  const expression = /^\/(.*)\/$/.exec(filter);
  let fits = (text) => text.toLowerCase().includes(filter.toLowerCase());
  if (expression) {
    try {
      const pattern = new RegExp(expression[1], "i");
      fits = (text) => pattern.test(text);
    } catch (error) {
      return { rows: all, trouble: `The filter is no regular expression: ${error.message}` };
    }
  }
  const rows = all.filter((row) => fits(layers[row].name) || fits(layers[row].kind));
  return { rows, trouble: rows.length ? null : `No layer's name or kind fits “${filter}”.` };
}
