import assert from "node:assert/strict";
import { test } from "node:test";

import { KINDS, paint } from "../../../gradwatch/tab/static/cells.js";
import { luminance, SPECIAL } from "../../../gradwatch/tab/static/colour.js";
import { INKS, textured } from "../../../gradwatch/tab/static/texture.js";

const NAMES = Object.keys(KINDS);
const codeOf = (kind) => NAMES.indexOf(kind) + 1;

/** Which pixels of a block of cells of one kind have ink, a string of 0 and 1 a line. */
function marks(kind, { columns = 1, lines = 1, width = 24, height = 24, unit = 1 } = {}) {
  const codes = new Uint8Array(columns * lines).fill(codeOf(kind));
  const pixels = textured(codes, { columns, lines }, { width, height }, unit);
  return Array.from({ length: height }, (_, y) =>
    Array.from({ length: width }, (_, x) => (pixels[4 * (y * width + x) + 3] ? "1" : "0")).join(""),
  );
}

/** What a texture looks like wherever it starts: all its 12 by 12 windows, sorted. */
function windows(lines) {
  const found = new Set();
  for (let top = 0; top <= 12; top += 1)
    for (let left = 0; left <= 12; left += 1)
      found.add(lines.slice(top, top + 12).map((line) => line.slice(left, left + 12)).join("\n"));
  return [...found].sort();
}

for (const [size, height] of [["large", 24], ["small", 3]])
  for (const [place, kind] of NAMES.entries())
    for (const other of NAMES.slice(place + 1))
      test(`in ${size} cells ${kind} and ${other} differ without their colours`, () => {
        const lines = 24 / height;
        assert.notDeepEqual(windows(marks(kind, { lines })), windows(marks(other, { lines })));
      });

for (const kind of NAMES)
  test(`a texture leaves most of the colour of ${kind} to be seen`, () => {
    for (const lines of [1, 8]) {
      const all = marks(kind, { lines }).join("");
      const share = [...all].filter((mark) => mark === "1").length / all.length;
      assert.ok(share > 0.02 && share < 0.45, `${share}`);
    }
  });

for (const kind of NAMES)
  test(`a cell of ${kind} of 3 by 3 pixels has ink, wherever it is`, () => {
    for (let line = 0; line < 8; line += 1)
      for (let column = 0; column < 8; column += 1) {
        const codes = new Uint8Array(64);
        codes[8 * line + column] = codeOf(kind);
        const pixels = textured(codes, { columns: 8, lines: 8 }, { width: 24, height: 24 });
        assert.ok(pixels.some((part) => part > 0), `line ${line}, column ${column}`);
      }
  });

test("a lone cell below 3 pixels keeps its colour, a block of them has the texture", () => {
  const size = { columns: 12, lines: 12 };
  const codes = new Uint8Array(144);
  codes[50] = codeOf("frozen");
  assert.equal(textured(codes, size, { width: 24, height: 24 }), null);
  assert.ok(marks("frozen", size).join("").includes("1"));
});

test("levels have no texture", () => {
  const size = { width: 30, height: 40 };
  assert.equal(textured(new Uint8Array(6), { columns: 3, lines: 2 }, size), null);
});

test("on a finer screen the same texture has more pixels", () => {
  const once = marks("idle");
  const twice = marks("idle", { width: 48, height: 48, unit: 2 });
  const wide = once.map((line) => [...line].map((mark) => mark + mark).join(""));
  const doubled = wide.flatMap((line) => [line, line]);
  assert.deepEqual(twice, doubled);
});

test("marks stay inside the cells of their kind", () => {
  const codes = new Uint8Array([0, codeOf("zero"), 0]);
  const pixels = textured(codes, { columns: 3, lines: 1 }, { width: 30, height: 12 });
  for (let at = 0; at < 30 * 12; at += 1)
    if (pixels[4 * at + 3]) assert.ok(at % 30 >= 10 && at % 30 < 20, `${at % 30}`);
});

test("a row that a run does not have is empty, and a kind of its own", () => {
  const grid = { values: [0.1, 0.1], states: [0, 0], columns: 2 };
  const how = { scale: "log", domain: { low: -2, high: 0 }, most: 10 };
  const { pixels, kinds, codes } = paint(grid, [0, -1], how);
  assert.deepEqual([...pixels.slice(8)], Array(8).fill(0));
  assert.deepEqual(kinds, new Set(["level", "missing"]));
  assert.deepEqual([...codes], [0, 0, codeOf("missing"), codeOf("missing")]);
});

test("of rows that share a pixel, one that the run has is drawn", () => {
  const grid = { values: [0.1], states: [0], columns: 1 };
  const how = { scale: "log", domain: { low: -2, high: 0 }, most: 1 };
  assert.deepEqual(paint(grid, [-1, -1, 0], how).kinds, new Set(["level"]));
});

for (const kind of Object.keys(SPECIAL))
  test(`the marks of ${kind} contrast with its colour`, () => {
    const [light, dark] = [INKS[kind], SPECIAL[kind]].map(luminance).sort((a, b) => b - a);
    assert.ok((light + 0.05) / (dark + 0.05) >= 3); // WCAG 2.2, 1.4.11
  });
