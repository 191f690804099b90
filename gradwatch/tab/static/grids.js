/**
 * Grids: the heatmaps of the two sides as they were read last, and the lines and samples in them.
 */

import { part, united, zoomedLines } from "./lines.js";
import { filtered } from "./view.js";
import { rulerOf, samplesBefore, samplesIn, zoomedSteps } from "./zoom.js";

/**
 * The values of a heatmap.
 *
 * @param {object} source See `serverSource`.
 * @param {string} run
 * @param {object} statistic
 * @param {{columns: number, steps: [number, number]|null}} range Columns at most.
 */
export async function readGrid(source, run, statistic, { columns, steps }) {
  const [first, last] = steps ?? [];
  const { arrays } = await source.heatmap(run, statistic.name, { columns, first, last });
  const { values, states, first_steps: from, last_steps: to, counts } = arrays;
  return {
    run,
    statistic,
    isWhole: steps === null,
    values: values.values,
    states: states.values,
    columns: values.shape[1],
    firstSteps: from.values,
    lastSteps: to.values,
    counts: counts.values,
  };
}

/**
 * The heatmaps that a page has read.
 *
 * @param {object} view See `FRESH`; its zoom and filter hold here.
 * @returns {object} `put` takes an overview and a grid for each side, null for none; `of` is what
 *   is drawn of a side, null for nothing; `trouble` is what is wrong with the filter; `nearer` is
 *   `rows` and `steps` of the view after a zoom.
 */
export function createGrids(view) {
  let overviews = { run: null, other: null };
  let grids = { run: null, other: null };
  const wholes = { run: null, other: null };
  let common = null;

  function put(newOverviews, newGrids) {
    overviews = { ...newOverviews };
    grids = { ...newGrids };
    for (const [side, grid] of Object.entries(grids)) if (grid?.isWhole) wholes[side] = grid;
    const both = isDrawn("run") && isDrawn("other");
    common = both ? united(overviews.run.layers, overviews.other.layers) : null;
  }

  function isDrawn(side) {
    return grids[side] !== null && grids[side].columns > 0;
  }

  function of(side) {
    if (!isDrawn(side)) return null;
    const layers = part(lines(side), view.rows);
    return { overview: overviews[side], grid: grids[side], layers };
  }

  function lines(side) {
    const layers = common ?? overviews[side].layers;
    const { rows } = filtered(layers, view.filter);
    return rows.length ? rows.map((row) => layers[row]) : layers;
  }

  function trouble() {
    return filtered(common ?? overviews.run.layers, view.filter).trouble;
  }

  function ruler(side) {
    const { run, statistic } = grids[side];
    const whole = wholes[side];
    const isIts = whole !== null && whole.run === run && whole.statistic.name === statistic.name;
    const { first_step: first, last_step: last } = overviews[side];
    return rulerOf(grids[side], [first, last], isIts && whole.columns > 0 ? whole : undefined);
  }

  function nearer(side, { factor, across, down, layersOnly = false }) {
    if (!isDrawn(side)) return null;
    const rows =
      down === null ? view.rows : zoomedLines(lines(side), view.rows, factor, clamped(down));
    if (layersOnly) return { rows, steps: view.steps };
    const measure = ruler(side);
    const { firstSteps, lastSteps } = grids[side];
    const [start, end] = samplesIn(measure, [firstSteps[0], lastSteps.at(-1)]);
    const at = across === null ? middle(measure) : start + clamped(across) * (end - start);
    return { rows, steps: zoomedSteps(measure, view.steps, factor, at) };
  }

  // The chosen step, or the middle of what is shown.
  function middle(measure) {
    const [start, end] = samplesIn(measure, view.steps);
    const chosen = view.step === null ? -1 : samplesBefore(measure, view.step) + 0.5;
    return chosen >= start && chosen <= end ? chosen : (start + end) / 2;
  }

  return { put, of, trouble, nearer };
}

function clamped(share) {
  return Math.min(Math.max(share, 0), 1);
}
