/**
 * Drawing: a heatmap's cells, axes and cursor on its canvas, and examples of cells.
 */

import { KINDS, paint } from "./cells.js";
import { css, SPECIAL } from "./colour.js";
import { ABOVE, BELOW, inside, labelled, LEFT, RIGHT } from "./geometry.js";
import { textured } from "./texture.js";
import { grouped, shortened } from "./words.js";

const CLOSEST_STEPS = 64;
const BETWEEN_STEPS = 14;
const EDGE = 2; // room for what of a letter reaches beyond its measured length
const MARKS = { error: "✖", warning: "▲", notice: "●" };

/**
 * Draw all of a heatmap.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {object} shown What is drawn: `grid`, `layers` and `rows` (line by line the layer and its
 *   row in the grid, -1 for none), `scale`, `domain`, `severities` (layer's name to the severity of
 *   its worst open finding).
 * @param {{width: number, height: number}} box Of the cells, in CSS pixels.
 * @returns {Set<string>} Kinds of the cells.
 */
export function drawHeatmap(canvas, shown, box) {
  const context = cleared(canvas, box);
  context.translate(LEFT, ABOVE);
  const kinds = drawCells(context, shown, box);
  const ink = getComputedStyle(canvas).color;
  context.fillStyle = ink;
  context.font = "12px system-ui, sans-serif";
  drawLayers(context, shown, box);
  drawSteps(context, shown, box);
  return kinds;
}

/**
 * Draw an example of a kind of cell: its colour, and its texture as in a cell of that size.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {string} kind A key of `KINDS`.
 * @param {{width: number, height: number}} size In CSS pixels.
 */
export function drawSwatch(canvas, kind, { width, height }) {
  const context = sized(canvas, width, height);
  if (kind in SPECIAL) {
    context.fillStyle = css(SPECIAL[kind]);
    context.fillRect(0, 0, width, height);
  }
  const codes = Uint8Array.of(Object.keys(KINDS).indexOf(kind) + 1);
  drawTextures(context, codes, { columns: 1, lines: 1 }, { width, height });
}

// An empty canvas around the cells' box, whose unit is the CSS pixel.
function cleared(canvas, box) {
  return sized(canvas, LEFT + box.width + RIGHT, ABOVE + box.height + BELOW);
}

function sized(canvas, width, height) {
  const ratio = pixelRatio();
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

function pixelRatio() {
  return window.devicePixelRatio || 1;
}

function drawCells(context, { grid, rows, scale, domain }, box) {
  const most = Math.round(box.height * pixelRatio());
  const { pixels, codes, height, kinds } = paint(grid, rows, { scale, domain, most });
  context.imageSmoothingEnabled = false;
  context.drawImage(canvasOf(pixels, grid.columns), 0, 0, box.width, box.height);
  drawTextures(context, codes, { columns: grid.columns, lines: height }, box);
  return kinds;
}

function drawTextures(context, codes, cells, { width, height }) {
  const ratio = pixelRatio();
  const size = { width: Math.round(width * ratio), height: Math.round(height * ratio) };
  const marks = textured(codes, cells, size, Math.max(1, Math.round(ratio)));
  if (marks === null) return;
  context.imageSmoothingEnabled = false;
  context.drawImage(canvasOf(marks, size.width), 0, 0, width, height);
}

function canvasOf(pixels, width) {
  const image = new ImageData(pixels, width);
  const made = document.createElement("canvas");
  made.width = image.width;
  made.height = image.height;
  made.getContext("2d").putImageData(image, 0, 0);
  return made;
}

function drawLayers(context, { layers, severities }, box) {
  const high = box.height / layers.length;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const line of labelled(layers.length, box.height, 14))
    context.fillText(shortened(layers[line].name, 22), -22, (line + 0.5) * high, LEFT - 26);
  for (const [line, { name }] of layers.entries()) {
    const mark = MARKS[severities.get(name)];
    if (mark) context.fillText(mark, -6, (line + 0.5) * high);
  }
}

function drawSteps(context, { grid }, box) {
  const wide = box.width / grid.columns;
  const length = (column) => context.measureText(grouped(grid.firstSteps[column])).width;
  const closest = Math.max(CLOSEST_STEPS, length(grid.columns - 1) + BETWEEN_STEPS);
  const bounds = { low: EDGE - LEFT, high: box.width + RIGHT - EDGE };
  context.textBaseline = "top";
  context.textAlign = "center";
  for (const column of labelled(grid.columns, box.width, closest)) {
    const x = (column + 0.5) * wide;
    context.fillRect(x, box.height, 1, 4);
    const middle = inside(x, length(column), bounds);
    context.fillText(grouped(grid.firstSteps[column]), middle, box.height + 7);
  }
  context.textAlign = "left";
  context.fillText("observed steps", 0, box.height + 24);
}

/**
 * Draw a frame around a cell, or the rectangle that is being dragged, on the canvas above.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{width: number, height: number}} box
 * @param {Array<{x: number, y: number, width: number, height: number, dashed: boolean}>} frames
 */
export function drawFrames(canvas, box, frames) {
  const context = cleared(canvas, box);
  context.translate(LEFT, ABOVE);
  for (const { x, y, width, height, dashed } of frames) {
    context.setLineDash(dashed ? [4, 3] : []);
    for (const [colour, thickness] of [
      ["rgba(0, 0, 0, 0.85)", 4],
      ["#ffffff", 2],
    ]) {
      context.strokeStyle = colour;
      context.lineWidth = thickness;
      context.strokeRect(x + 0.5, y + 0.5, Math.max(width - 1, 2), Math.max(height - 1, 2));
    }
  }
}
