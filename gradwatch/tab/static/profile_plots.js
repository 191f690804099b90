/**
 * Plots of the profile: how uPlot is to draw them. Colours are read when they are drawn, so that a
 * new theme takes no new plot.
 */

import uPlot from "./vendor/uPlot.esm.js";
import { decadeSplits } from "./profile_points.js";
import { grouped, powerOfTen, shortened } from "./words.js";

const FONT = "12px system-ui, sans-serif";
const AXIS_WIDTH = 58;
const LINE_HEIGHT = 26;
const LABEL_WIDTH = 28;
const CHAR_WIDTH = 7.5;
const LEAST_CHARS = 5;
const DOTS_UP_TO = 60;
const WHOLE_NUMBERS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];

/**
 * A plot of the backward signal by depth.
 *
 * @param {PlotParts} parts `points()` gives `levelPoints`.
 * @returns {uPlot}
 */
export function createLevelPlot(parts) {
  const { points, colour } = parts;
  const observed = {
    stroke: () => colour("--accent"),
    width: 2,
    points: { show: () => points().layers.length <= DOTS_UP_TO, size: 6 },
  };
  const expected = {
    stroke: () => colour("--ink-soft"),
    width: 1.5,
    dash: [6, 4],
    points: { show: false },
  };
  const named = (at) => {
    if (at === points().floor) return "zero";
    return at === points().ceiling ? "not finite" : powerOfTen(at);
  };
  return createPlot(parts, {
    data: levelColumns(points()),
    series: [observed, expected],
    splits: (most) => decadeSplits(points().range, points(), most),
    named,
    draw: (plot) => drawBeyond(plot, points(), colour),
  });
}

/**
 * A plot of the gain of each layer on the worst path.
 *
 * @param {PlotParts} parts `points()` gives `gainPoints`.
 * @returns {uPlot}
 */
export function createGainPlot(parts) {
  const { points, colour } = parts;
  const bars = (name, align) => ({
    fill: () => colour(name),
    stroke: () => colour(name),
    width: 0,
    paths: uPlot.paths.bars({ size: [0.4, 14, 1], align }),
    points: { show: false },
  });
  return createPlot(parts, {
    data: gainColumns(points()),
    series: [bars("--gw-activation", -1), bars("--gw-weights", 1)],
    splits: (most) => decadeSplits(points().range, { floor: null, ceiling: null }, most),
    named: (at) => (at > 0 ? `+${at}` : String(at)),
    draw: (plot) => drawZero(plot, colour),
  });
}

/** Columns of the upper plot: layers, observed levels, the expected flat line. */
export function levelColumns({ layers, level }) {
  return [layers, level, layers.map(() => 0)];
}

/** Columns of the lower plot: layers, gains of activations, gains of weights. */
export function gainColumns({ layers, activation, weight }) {
  return [layers, activation, weight];
}

/**
 * @typedef {object} PlotParts
 * @property {HTMLElement} root Where the plot goes.
 * @property {{width: number, height: number}} size CSS pixels.
 * @property {function(): object} points What it draws now.
 * @property {function(): string[]} names Of the layers.
 * @property {function(string): string} colour A custom property of the theme → its value.
 * @property {function(): number|null} selected The chosen layer, counted from 0.
 * @property {function(number|null): void} onHover Called with the layer under the pointer.
 */

/**
 * What stands below a layer: its name where there is room for it, else its number.
 *
 * @param {number} at The layer, counted from 1.
 * @param {string[]} names Of all layers.
 * @param {number} width Of the plot, CSS pixels.
 * @returns {string}
 */
export function layerLabel(at, names, width) {
  const room = Math.floor((width - AXIS_WIDTH) / names.length / CHAR_WIDTH) - 1;
  return room < LEAST_CHARS ? grouped(at) : shortened(names[at - 1], room);
}

function createPlot({ root, size, points, names, colour, selected, onHover }, what) {
  const ink = () => colour("--ink-soft");
  const lines = { stroke: () => colour("--line"), width: 1 };
  const options = {
    ...size,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: "gradwatch-profile" } },
    scales: {
      x: { time: false, range: () => [0.5, points().layers.length + 0.5] },
      y: { range: () => points().range },
    },
    axes: [
      {
        stroke: ink,
        font: FONT,
        size: 24,
        gap: 2,
        space: LABEL_WIDTH,
        incrs: WHOLE_NUMBERS,
        grid: { show: false },
        values: ({ width }, splits) => splits.map((at) => layerLabel(at, names(), width)),
      },
      {
        stroke: ink,
        font: FONT,
        size: AXIS_WIDTH,
        grid: lines,
        ticks: { show: false },
        splits: ({ height }) => what.splits(Math.max(2, Math.floor(height / LINE_HEIGHT) - 1)),
        values: (_, splits) => splits.map(what.named),
      },
    ],
    series: [{}, ...what.series],
    hooks: {
      setCursor: [(plot) => onHover(plot.cursor.idx ?? null)],
      draw: [what.draw, (plot) => drawSelected(plot, selected(), colour)],
    },
  };
  return new uPlot(options, what.data, root);
}

/** Triangles where the signal is exactly zero (downwards) or not finite (upwards). */
function drawBeyond(plot, { layers, level, zero, infinite }, colour) {
  const { ctx } = plot;
  ctx.save();
  ctx.fillStyle = colour("--error");
  layers.forEach((layer, row) => {
    if (!zero[row] && !infinite[row]) return;
    const [x, y] = [plot.valToPos(layer, "x", true), plot.valToPos(level[row], "y", true)];
    const reach = 6 * devicePixelRatio * (zero[row] ? 1 : -1);
    ctx.beginPath();
    ctx.moveTo(x - reach, y - reach);
    ctx.lineTo(x + reach, y - reach);
    ctx.lineTo(x, y + reach);
    ctx.fill();
  });
  ctx.restore();
}

function drawZero(plot, colour) {
  const y = plot.valToPos(0, "y", true);
  drawLine(plot, [plot.bbox.left, y], [plot.bbox.left + plot.bbox.width, y], colour("--ink-soft"));
}

function drawSelected(plot, row, colour) {
  if (row === null) return;
  const x = plot.valToPos(row + 1, "x", true);
  drawLine(plot, [x, plot.bbox.top], [x, plot.bbox.top + plot.bbox.height], colour("--ink"));
}

function drawLine({ ctx }, from, to, colour) {
  ctx.save();
  ctx.setLineDash([]);
  ctx.strokeStyle = colour;
  ctx.lineWidth = devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(...from);
  ctx.lineTo(...to);
  ctx.stroke();
  ctx.restore();
}
