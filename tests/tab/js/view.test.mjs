import assert from "node:assert/strict";
import { test } from "node:test";

import { cellAt, labelled, moved } from "../../../gradwatch/tab/static/geometry.js";
import { keep, kept } from "../../../gradwatch/tab/static/kept.js";
import { inlineKey, inlineSource, serverSource } from "../../../gradwatch/tab/static/source.js";
import { filtered, FRESH, restored } from "../../../gradwatch/tab/static/view.js";
import { decode } from "../../../gradwatch/tab/static/wire.js";

const HOSTILE = [
  undefined,
  null,
  7,
  [],
  "x",
  { run: 7, rows: [2, 1], steps: [5, 1], step: "1" },
  { rows: ["a"], filter: {}, layer: [] },
  { rows: ["a", 1], steps: ["a", 1] },
];
for (const stored of HOSTILE)
  test(`the stored view ${JSON.stringify(stored)} is a fresh one`, () =>
    assert.deepEqual(restored(stored), FRESH));

test("a view comes back as it was stored", () => {
  const rows = ["conv1", "head"];
  const view = { ...FRESH, run: "a", statistic: "grad_norm", step: 5, rows, steps: [2, 9] };
  assert.deepEqual(restored(JSON.parse(JSON.stringify(view))), view);
});

for (const stored of ["", "{", "null"])
  test(`"${stored}" in the browser's store is nothing`, () => {
    globalThis.window = { sessionStorage: { getItem: () => stored } };
    assert.equal(kept("view"), null);
  });

test("a browser that keeps nothing is no trouble", () => {
  globalThis.window = {
    get sessionStorage() {
      throw new Error("The document is sandboxed.");
    },
  };
  keep("view", FRESH);
  assert.equal(kept("view"), null);
});

const LAYERS = [
  { name: "conv1", kind: "Conv2d" },
  { name: "head", kind: "Linear" },
];
for (const [filter, rows] of [
  ["", [0, 1]],
  ["CONV", [0]],
  ["linear", [1]],
  ["/^h/", [1]],
])
  test(`the filter ${filter} leaves ${rows}`, () =>
    assert.deepEqual(filtered(LAYERS, filter), { rows, trouble: null }));

for (const filter of ["/(/", "nothing like it"])
  test(`the filter ${filter} is told of, not thrown`, () =>
    assert.equal(typeof filtered(LAYERS, filter).trouble, "string"));

test("a place in the box is its cell, and one outside the nearest", () => {
  const box = { width: 100, height: 50 };
  const grid = { rows: 5, columns: 10 };
  assert.deepEqual(cellAt({ x: 15, y: 49 }, box, grid), { line: 4, column: 1 });
  assert.deepEqual(cellAt({ x: -3, y: 90 }, box, grid), { line: 4, column: 0 });
});
test("labels are no closer than they may be", () =>
  assert.deepEqual(labelled(10, 100, 30), [0, 3, 6, 9]));
for (const [key, line, column] of [
  ["ArrowRight", 1, 3],
  ["ArrowUp", 0, 2],
  ["Home", 1, 0],
  ["End", 1, 9],
])
  test(`${key} moves the cursor`, () =>
    assert.deepEqual(moved(key, { line: 1, column: 2 }, { rows: 2, columns: 10 }), { line, column }));
test("the cursor stays inside, and other keys do not move it", () => {
  assert.deepEqual(moved("ArrowLeft", { line: 0, column: 0 }, { rows: 1, columns: 1 }), {
    line: 0,
    column: 0,
  });
  assert.equal(moved("x", { line: 0, column: 0 }, { rows: 1, columns: 1 }), null);
});

function answer(header, ...bodies) {
  let text = JSON.stringify(header);
  while ((4 + text.length) % 8) text += " ";
  const buffer = new ArrayBuffer(4 + text.length + 8 * bodies.length);
  new DataView(buffer).setUint32(0, text.length, true);
  new Uint8Array(buffer).set(new TextEncoder().encode(text), 4);
  bodies.forEach((body, index) => new Float64Array(buffer, 4 + text.length + 8 * index, 1).set([body]));
  return buffer;
}
const PLAIN = { meta: { run: "a" }, arrays: [{ name: "x", dtype: "float64", shape: [1], offset: 0 }] };

test("a binary answer is decoded", () => {
  const { meta, arrays } = decode(answer(PLAIN, 2.5));
  assert.deepEqual(meta, { run: "a" });
  assert.deepEqual([...arrays.x.values], [2.5]);
});
for (const length of [0, 3, 20])
  test(`an answer cut off at ${length} octets says so`, () =>
    assert.throws(() => decode(answer(PLAIN, 2.5).slice(0, length)), /cut off/));
test("an answer that lacks an array's end says which", () => {
  const cut = answer(PLAIN, 2.5);
  assert.throws(() => decode(cut.slice(0, cut.byteLength - 4)), /array x/);
});

test("a server's own sentence is what an error says", async () => {
  const get = async () => new Response('{"error": "There is no run x."}', { status: 404 });
  await assert.rejects(serverSource(get).run("x"), /There is no run x\./);
});
test("an answer without a sentence says the status", async () => {
  const get = async () => new Response("<html>", { status: 502 });
  await assert.rejects(serverSource(get).runs(), /502/);
});
test("a run's name is encoded in the address", async () => {
  const asked = [];
  const get = async (address) => {
    asked.push(address);
    return new Response("{}");
  };
  await serverSource(get).run("a&b=c/../d");
  assert.deepEqual(asked, ["./run?run=a%26b%3Dc%2F..%2Fd"]);
});

test("a report's keys leave out what only a server needs", () =>
  assert.equal(
    inlineKey("heatmap", { statistic: "s", run: "r", columns: 9, first: 1, last: 2 }),
    "heatmap?run=r&statistic=s",
  ));
test("a report answers the nearest profile that it holds", async () => {
  const source = inlineSource({
    "profile?run=r&step=0": { step: 0 },
    "profile?run=r&step=90": { step: 90 },
    "profile?run=other&step=50": { step: 50 },
  });
  assert.deepEqual(await source.profile("r", 60), { step: 90 });
});
test("a report says what it does not hold", async () =>
  assert.rejects(inlineSource({}).compare("a", "b"), /does not hold/));
