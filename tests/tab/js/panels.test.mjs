// What the panels work out before they draw.
import assert from "node:assert/strict";
import { test } from "node:test";

import { keyName, mostDifferent } from "../../../gradwatch/tab/static/comparison.js";
import { foldTitle, since } from "../../../gradwatch/tab/static/finding_card.js";
import { nothingFound, withKeys } from "../../../gradwatch/tab/static/findings.js";
import { split } from "../../../gradwatch/tab/static/layer_buttons.js";
import { gathered } from "../../../gradwatch/tab/static/rule_panel.js";

const named = (count) => Array.from({ length: count }, (_, row) => `fc${row}`);

for (const [count, visible, folded, left] of [
  [0, 0, 0, 0],
  [9, 9, 0, 0],
  [10, 8, 2, 0],
  [500, 8, 492, 0],
  [2000, 8, 492, 1500],
])
  test(`of ${count} layers ${visible} are shown, ${folded} folded, ${left} left out`, () => {
    const parts = split(named(count));
    assert.equal(parts.visible.length, visible);
    assert.equal(parts.folded.length, folded);
    assert.equal(parts.left, left);
  });

test("findings that share a key in a damaged file get keys of their own", () => {
  const twice = [{ key: "GW101/activation" }, { key: "GW101/activation" }, { key: "GW202/x" }];
  const keys = withKeys(twice).map(([key]) => key);
  assert.equal(new Set(keys).size, 3);
});

test("without a finding a healthy run is told so, an early one that it is too early", () => {
  const verdict = "Too early for a verdict: 2 of 9 samples.";
  assert.equal(nothingFound({ judged: false, verdict }), verdict);
  assert.match(nothingFound({ judged: true, verdict }), /^No open finding/);
});

test("a card says since when, or from when to when", () => {
  assert.equal(since({ step: 1600, resolved_step: null, open: true }), "since step 1,600");
  const resolved = { step: 40, resolved_step: 80, open: false };
  assert.equal(since(resolved), "from step 40 to step 80");
});

for (const [count, words] of [
  [0, "Why"],
  [1, "Why, and what to change (1 fix)"],
  [3, "Why, and what to change (3 fixes)"],
])
  test(`${count} fixes are behind "${words}"`, () =>
    assert.equal(foldTitle({ fixes: named(count) }), words));

test("items that follow each other make one list", () => {
  const blocks = [
    { kind: "text", text: "a" },
    { kind: "item", text: "b" },
    { kind: "item", text: "c" },
    { kind: "formula", text: "d" },
    { kind: "item", text: "e" },
  ];
  assert.deepEqual(
    gathered(blocks).map(({ kind, texts }) => `${kind} ${texts.join("")}`),
    ["text a", "item bc", "formula d", "item e"],
  );
});

test("compared layers come by the size of their ratio, those not observed last", () => {
  const layers = [
    { name: "near", in: "both", ratio_log10: 0.1 },
    { name: "alone", in: "a", ratio_log10: null },
    { name: "unseen", in: "both", ratio_log10: null },
    { name: "small", in: "both", ratio_log10: -3 },
    { name: "zero", in: "both", ratio_log10: "-Infinity" },
    { name: "also zero", in: "both", ratio_log10: "Infinity" },
    { name: "large", in: "both", ratio_log10: 2 },
  ];
  const order = mostDifferent(layers).map((layer) => layer.name);
  assert.deepEqual(order, ["zero", "also zero", "small", "large", "near", "unseen"]);
});

for (const [key, words] of [
  ["GW101/activation", "GW101 (activation)"],
  ["GW202/learning rate", "GW202 (learning rate)"],
  ["odd", "odd"],
  ["a/b/c", "a (b/c)"],
])
  test(`the key ${key} reads ${words}`, () => assert.equal(keyName(key), words));
