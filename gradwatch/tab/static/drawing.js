/**
 * Drawing: a heatmap's cells, axes and cursor on its canvas.
 */

import { paint } from "./cells.js";
import { BELOW, labelled, LEFT } from "./geometry.js";
import { grouped, shortened } from "./words.js";

const MARKS = { error: "✖", warning: "▲", notice: "●" };

/**
 * Draw all of a heatmap.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {object} shown What is drawn: `grid`, `rows`, `scale`, `domain`, `layers`, `severities`
 *   (layer's name to the severity of its worst open finding).
 * @param {{width: number, height: number}} box Of the cells, in CSS pixels.
 * @returns {Set<string>} Kinds of the cells.
 */
export function drawHeatmap(canvas, shown, box) {
  const context = cleared(canvas, box);
  const kinds = drawCells(context, shown, box, Math.round(box.height * pixelRatio()));
  const ink = getComputedStyle(canvas).color;
  context.fillStyle = ink;
  context.font = "12px system-ui, sans-serif";
  drawLayers(context, shown, box);
  drawSteps(context, shown, box);
  return kinds;
}

// An empty canvas around the cells' box, whose unit is the CSS pixel.
function cleared(canvas, box) {
  const ratio = pixelRatio();
  canvas.width = Math.round((LEFT + box.width) * ratio);
  canvas.height = Math.round((box.height + BELOW) * ratio);
  canvas.style.width = `${LEFT + box.width}px`;
  canvas.style.height = `${box.height + BELOW}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

function pixelRatio() {
  return window.devicePixelRatio || 1;
}

function drawCells(context, { grid, rows, scale, domain }, box, most) {
  const { pixels, height, kinds } = paint(grid, rows, { scale, domain, most });
  const small = document.createElement("canvas");
  small.width = grid.columns;
  small.height = height;
  small.getContext("2d").putImageData(new ImageData(pixels, grid.columns, height), 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, LEFT, 0, box.width, box.height);
  return kinds;
}

function drawLayers(context, { rows, layers, severities }, box) {
  const high = box.height / rows.length;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const line of labelled(rows.length, box.height, 14)) {
    const layer = layers[rows[line]];
    const y = (line + 0.5) * high;
    context.fillText(shortened(layer.name, 22), LEFT - 22, y, LEFT - 26);
  }
  for (const [line, row] of rows.entries()) {
    const mark = MARKS[severities.get(layers[row].name)];
    if (mark) context.fillText(mark, LEFT - 6, (line + 0.5) * high);
  }
}

function drawSteps(context, { grid }, box) {
  const wide = box.width / grid.columns;
  context.textBaseline = "top";
  context.textAlign = "center";
  for (const column of labelled(grid.columns, box.width, 64)) {
    const x = LEFT + (column + 0.5) * wide;
    context.fillRect(x, box.height, 1, 4);
    context.fillText(grouped(grid.firstSteps[column]), x, box.height + 7);
  }
  context.textAlign = "left";
  context.fillText("observed steps", LEFT, box.height + 24);
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
  for (const { x, y, width, height, dashed } of frames) {
    context.setLineDash(dashed ? [4, 3] : []);
    for (const [colour, thickness] of [
      ["rgba(0, 0, 0, 0.85)", 4],
      ["#ffffff", 2],
    ]) {
      context.strokeStyle = colour;
      context.lineWidth = thickness;
      context.strokeRect(LEFT + x + 0.5, y + 0.5, Math.max(width - 1, 2), Math.max(height - 1, 2));
    }
  }
}
