import assert from "node:assert/strict";
import { test } from "node:test";

import { kindOf, paint } from "../../../gradwatch/tab/static/cells.js";
import { colourMap, LEVELS, luminance, SPECIAL } from "../../../gradwatch/tab/static/colour.js";
import { domain, legendTicks, position, share } from "../../../gradwatch/tab/static/scale.js";

const map = colourMap("log");

test("the sequential map gets lighter from level to level, but for the rounding of a pixel", () => {
  for (let level = 4; level < LEVELS; level += 1)
    assert.ok(luminance(map[level]) > luminance(map[level - 4]), `level ${level}`);
});

test("the diverging map is lightest in its middle", () => {
  const lightness = colourMap("diverging").map(luminance);
  const lightest = lightness.indexOf(Math.max(...lightness));
  assert.ok(Math.abs(lightest - (LEVELS - 1) / 2) <= 1);
});

for (const [kind, colour] of Object.entries(SPECIAL))
  test(`the colour of ${kind} is far from every level and every other kind`, () => {
    const others = Object.entries(SPECIAL).filter(([other]) => other !== kind);
    const distance = (other) => Math.hypot(...other.map((part, axis) => part - colour[axis]));
    for (const other of [...map, ...colourMap("diverging"), ...others.map(([, one]) => one)]) assert.ok(distance(other) >= 20);
  });

const CELLS = [
  ["level", 0.5, 0, "log"],
  ["level", -3, 0, "log10"],
  ["notFinite", Infinity, 0, "log"],
  ["zero", 0, 4, "log"],
  ["zero", -Infinity, 4, "log10"],
  ["level", 0, 0, "linear"],
  ["frozen", NaN, 1, "log"],
  ["idle", NaN, 2, "log"],
  ["noGradient", NaN, 3, "log"],
  ["unobserved", NaN, 0, "log"],
];
for (const [kind, value, state, scale] of CELLS)
  test(`${value} in state ${state} on a ${scale} scale is ${kind}`, () =>
    assert.equal(kindOf(value, state, scale), kind));

const grid = (values, columns, states = values.map(() => 0)) => ({ values, states, columns });
const pixel = ({ pixels }, index) => [...pixels.slice(4 * index, 4 * index + 4)];

test("known values have the colours of their levels", () => {
  const how = { scale: "log", domain: { low: -2, high: 0 }, most: 10 };
  const painted = paint(grid([0.01, 1, 0.1, NaN], 2), [0, 1], how);
  assert.deepEqual(pixel(painted, 0), [...map[0], 255]);
  assert.deepEqual(pixel(painted, 1), [...map[LEVELS - 1], 255]);
  assert.deepEqual(pixel(painted, 2), [...map[Math.round((LEVELS - 1) / 2)], 255]);
  assert.deepEqual(pixel(painted, 3), [...SPECIAL.unobserved, 255]);
  assert.deepEqual(painted.kinds, new Set(["level", "unobserved"]));
});

test("of rows that share a pixel the strangest cell is drawn", () => {
  const how = { scale: "log", domain: { low: -2, high: 0 }, most: 1 };
  const painted = paint(grid([0.1, Infinity, 0.1], 1), [0, 1, 2], how);
  assert.equal(painted.height, 1);
  assert.deepEqual(pixel(painted, 0), [...SPECIAL.notFinite, 255]);
});

test("rows are drawn in the order that is asked for", () => {
  const how = { scale: "log", domain: { low: -2, high: 0 }, most: 10 };
  const painted = paint(grid([0.01, 1], 1), [1, 0], how);
  assert.deepEqual(pixel(painted, 0), [...map[LEVELS - 1], 255]);
});

test("5,000 layers are painted on the pixels that there are", () => {
  const values = new Float32Array(5000 * 800).fill(0.1);
  const how = { scale: "log", domain: { low: -2, high: 0 }, most: 480 };
  const states = new Uint8Array(values.length);
  const painted = paint({ values, states, columns: 800 }, [...Array(5000).keys()], how);
  assert.equal(painted.height, 480);
  assert.equal(painted.pixels.length, 4 * 480 * 800);
});

test("a logarithmic domain is of whole decades and holds the values", () =>
  assert.deepEqual(domain([[0.02, 5, NaN, Infinity, 0]], "log"), { low: -2, high: 1 }));

test("a decade that a float32 rounds is the same decade", () =>
  assert.deepEqual(domain([new Float32Array([1e-6, 1])], "log"), { low: -6, high: 0 }));

test("a diverging domain is as wide on both sides", () =>
  assert.deepEqual(domain([[-3, 1]], "diverging"), { low: -3, high: 3 }));

test("a domain without any value can be drawn", () => {
  const { low, high } = domain([[NaN, Infinity]], "log");
  assert.ok(high > low);
});

test("several heatmaps share a domain", () =>
  assert.deepEqual(domain([[1e-5], [10]], "log"), { low: -5, high: 1 }));

test("a value beyond the domain is drawn at its end", () => {
  assert.equal(share(position(1e-9, "log"), { low: -3, high: 0 }), 0);
  assert.equal(share(7, { low: -3, high: 0 }), 1);
});

test("the numbers of the legend are powers of ten at their places", () =>
  assert.deepEqual(legendTicks({ low: -2, high: 0 }, "log"), [
    { share: 0, text: "1e-2" },
    { share: 0.5, text: "1e-1" },
    { share: 1, text: "1" },
  ]));

test("a legend of many decades has no more numbers than there is room for", () =>
  assert.ok(legendTicks({ low: -40, high: 5 }, "log").length <= 7));
