import assert from "node:assert/strict";
import { test } from "node:test";

import { linesOf, part, united, zoomedLines } from "../../../gradwatch/tab/static/lines.js";

const layers = (text) => [...text].map((name) => ({ name, kind: "Linear" }));
const names = (lines) => lines.map(({ name }) => name).join("");

for (const [one, other, expected] of [
  ["abc", "abc", "abc"],
  ["abc", "axc", "abxc"],
  ["abc", "xabc", "xabc"],
  ["abc", "abcxy", "abcxy"],
  ["ac", "abc", "abc"],
  ["abc", "cba", "abc"],
  ["abc", "cxa", "xabc"],
  ["abc", "xyz", null],
  ["", "a", null],
])
  test(`the layers ${one} and ${other} stand together as ${expected}`, () => {
    const found = united(layers(one), layers(other));
    assert.equal(found === null ? null : names(found), expected);
  });

test("a line is the run's own row of that name, or none", () =>
  assert.deepEqual(linesOf(layers("abxc"), layers("axc")), [0, -1, 1, 2]));

test("a zoom keeps the lines between two names, whatever comes between them", () => {
  assert.equal(names(part(layers("abxcd"), ["b", "c"])), "bxc");
  assert.equal(names(part(layers("abxcd"), ["c", "b"])), "bxc");
});

test("without a zoom, or one to a layer that is not there, all lines are shown", () => {
  assert.equal(names(part(layers("abc"), null)), "abc");
  assert.equal(names(part(layers("abc"), ["a", "gone"])), "abc");
});

test("a zoom in lines is around the layer at the place, and names its ends", () => {
  const lines = layers("abcdefgh");
  assert.deepEqual(zoomedLines(lines, null, 0.5, 0.5), ["c", "f"]);
  assert.deepEqual(zoomedLines(lines, null, 0.5, 1), ["e", "h"]);
  assert.deepEqual(zoomedLines(lines, ["c", "f"], 0.5, 0), ["c", "d"]);
  assert.equal(zoomedLines(lines, ["c", "f"], 2, 0.5), null);
});
