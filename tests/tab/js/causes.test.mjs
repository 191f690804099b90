// Causes and the learning rate in words.
import assert from "node:assert/strict";
import { test } from "node:test";

import { CHAIN_RULE, causeWords, rateAdvice } from "../../../gradwatch/tab/static/causes.js";

const factor = (code, cause) => causeWords({ code, cause }).factor;

test("flat activations are the slope's fault, small weights the signal's", () => {
  assert.equal(factor("GW101", "activation"), "slope");
  assert.equal(factor("GW101", "weights"), "signal");
  assert.equal(factor("GW204", "inputs"), "input");
});

test("a rate that is too small is no factor of the chain rule", () => {
  assert.equal(factor("GW501", "learning rate"), null);
});

test("a cause of a later version, or a hostile one, has no words", () => {
  assert.equal(causeWords({ code: "GW999", cause: "moon" }), null);
  assert.equal(causeWords({ code: "constructor", cause: "" }), null);
});

test("the chain rule has its product's name first", () => {
  assert.deepEqual(
    CHAIN_RULE.map(([name]) => name),
    ["gradient", "signal", "slope", "input"],
  );
});

for (const [lr_factor, kind, start] of [
  [1, "activation", "Learning rate: unchanged."],
  [0.2, "activation", "Learning rate: try lr/5 with it. Gradients that flow again are larger"],
  [3, "activation", "Learning rate: try lr × 3 with it. Gradients are smaller"],
])
  test(`a factor of ${lr_factor} is said in words`, () =>
    assert.ok(rateAdvice({ kind, lr_factor }).startsWith(start)));

for (const fix of [
  { kind: "learning_rate", lr_factor: 0.1 },
  { kind: "activation", lr_factor: "NaN" },
  { kind: "activation", lr_factor: 0 },
])
  test(`nothing is said of ${JSON.stringify(fix)}`, () => assert.equal(rateAdvice(fix), null));
