/**
 * View: what the user has chosen. It outlives a reload of the page, and of the runs.
 */

const KEY = "gradwatch-view";

/** Nothing chosen yet. */
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
 * @param {string|null} stored
 * @returns {object} As `FRESH`.
 */
export function restored(stored) {
  let parsed = null;
  try {
    parsed = JSON.parse(stored ?? "null");
  } catch {
    return { ...FRESH };
  }
  if (parsed === null || typeof parsed !== "object") return { ...FRESH };
  const text = (value) => (typeof value === "string" ? value : null);
  const isRange = (value) =>
    Array.isArray(value) && value.length === 2 && value.every(Number.isFinite);
  const range = (value) => (isRange(value) && value[0] <= value[1] ? value.slice() : null);
  return {
    run: text(parsed.run),
    other: text(parsed.other),
    statistic: text(parsed.statistic),
    filter: text(parsed.filter) ?? "",
    step: Number.isFinite(parsed.step) ? parsed.step : null,
    layer: text(parsed.layer),
    rows: range(parsed.rows),
    steps: range(parsed.steps),
  };
}

/** The view of this browser tab; fresh where the browser keeps nothing. */
export function load() {
  try {
    return restored(window.sessionStorage.getItem(KEY));
  } catch {
    return { ...FRESH };
  }
}

/** Keep the view for a reload, where the browser lets us. */
export function save(view) {
  try {
    window.sessionStorage.setItem(KEY, JSON.stringify(view));
  } catch {
    // A browser that keeps nothing shows the page all the same.
  }
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

/**
 * Part of a range around a place in it, wider or narrower by a factor.
 *
 * @param {[number, number]} range First and last, whole numbers.
 * @param {number} factor Above 1 to see more.
 * @param {number} at Place that stays where it is.
 * @param {[number, number]} limits
 * @returns {[number, number]|null} null for all of it.
 */
export function zoomed([first, last], factor, at, limits) {
  const low = Math.max(limits[0], Math.round(at - (at - first) * factor));
  const high = Math.min(limits[1], Math.round(at + (last - at) * factor));
  return low <= limits[0] && high >= limits[1] ? null : [Math.min(low, high), Math.max(low, high)];
}
