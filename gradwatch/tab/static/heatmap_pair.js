/**
 * Pair: the heatmaps of one run or two, on one scale of colours, with the legend of both.
 */

import { LEFT, RIGHT } from "./geometry.js";
import { createHeatmap } from "./heatmap.js";
import { createLegend } from "./legend.js";
import { linesOf } from "./lines.js";
import { domain } from "./scale.js";
import { printable } from "./words.js";

/** The run that the page is about, and the one that it is held against. */
export const SIDES = ["run", "other"];

const COLUMNS = { fewest: 64, most: 2000 };

/**
 * The heatmaps of a page.
 *
 * @param {Object<string, HTMLElement>} parts See `layout`.
 * @param {object} callbacks As of `createHeatmap`; `onWheel` gets the side before the change.
 * @returns {{show: function(object, object): void, pin: function(string|null, number|null): void}}
 *   `show` takes the statistic, and for each side `overview`, `grid` and the `layers` line by line,
 *   or null for a side that is not drawn.
 */
export function createHeatmapPair(parts, callbacks) {
  const legend = createLegend(parts.legend);
  const heatmaps = Object.fromEntries(
    SIDES.map((side) => {
      const onWheel = (change) => callbacks.onWheel(side, change);
      return [side, createHeatmap(parts[side], { ...callbacks, onWheel })];
    }),
  );

  function show(statistic, sides) {
    const present = SIDES.filter((side) => sides[side] !== null);
    const shared = domain(present.map((side) => sides[side].grid.values), statistic.scale);
    const kinds = new Set();
    for (const side of SIDES) parts[side].hidden = sides[side] === null;
    for (const side of present) {
      const { overview, grid, layers } = sides[side];
      const shown = {
        title: `${statistic.title} · ${printable(overview.name)}`,
        grid,
        layers,
        rows: linesOf(layers, overview.layers),
        statistic,
        scale: statistic.scale,
        domain: shared,
        severities: severitiesOf(overview.findings),
      };
      for (const kind of heatmaps[side].show(shown)) kinds.add(kind);
    }
    legend.show(statistic, shared, kinds);
    performance.mark("gradwatch heatmap drawn"); // for those who measure the page
  }

  function pin(layer, step) {
    for (const side of SIDES) heatmaps[side].pin(layer, step);
  }

  return { show, pin };
}

/**
 * Columns that a heatmap has pixels for.
 *
 * @param {HTMLElement} pair The element around both.
 */
export function columnsIn(pair) {
  const [width] = getComputedStyle(pair).gridTemplateColumns.split(" ");
  const wide = (parseFloat(width) - LEFT - RIGHT) * (window.devicePixelRatio || 1);
  return Math.min(Math.max(Math.round(wide), COLUMNS.fewest), COLUMNS.most);
}

function severitiesOf(cards) {
  const found = new Map();
  for (const { layers, severity, open } of cards)
    if (open) for (const name of layers) if (!found.has(name)) found.set(name, severity);
  return found; // the worst first, so the first is the worst
}
