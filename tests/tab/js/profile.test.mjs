// Points and sentences of the profile.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as points from "../../../gradwatch/tab/static/profile_points.js";

const profile = {
  step: 1200,
  backward: [-5.2, null, -2.5, 0],
  expected: [0, 0, 0, 0],
  activation_gain: [-2, null, -2, 0],
  weight_gain: [0, null, -0.7, -0.5],
  path: [0, 2, 3],
  depth: -5.2,
  growth: -5.2,
};
const overview = {
  framework: "torch",
  samples: 10,
  layers: ["fc1", "norm", "fc2", "fc3"].map((name) => ({ name })),
};

test("levels keep their gaps and count layers from 1", () => {
  const { layers, level, floor, ceiling, range } = points.levelPoints(profile);
  assert.deepEqual(layers, [1, 2, 3, 4]);
  assert.deepEqual(level, [-5.2, null, -2.5, 0]);
  assert.deepEqual([floor, ceiling], [null, null]);
  assert.ok(range[0] < -5.2 && range[0] > -6 && range[1] > 0 && range[1] < 1);
});

test("an exactly zero signal lies below all others, and is marked", () => {
  const backward = ["-Infinity", -5, 0];
  const { level, zero, floor, range } = points.levelPoints({ ...profile, backward });
  assert.deepEqual(zero, [true, false, false]);
  assert.equal(level[0], floor);
  assert.ok(floor <= -6 && range[0] < floor);
});

test("a signal that is not finite lies above all others, and is marked", () => {
  const backward = ["Infinity", 3, 0];
  const { level, infinite, ceiling, range } = points.levelPoints({ ...profile, backward });
  assert.deepEqual(infinite, [true, false, false]);
  assert.equal(level[0], ceiling);
  assert.ok(ceiling >= 4 && range[1] > ceiling);
});

test("a flat profile still has two decades of room", () => {
  const { range } = points.levelPoints({ ...profile, backward: [0, 0.01, 0] });
  assert.ok(range[1] - range[0] >= 2);
});

test("nothing observed gives points, not an error", () => {
  const { level, range } = points.levelPoints({ ...profile, backward: [null, null] });
  assert.deepEqual(level, [null, null]);
  assert.ok(range.every(Number.isFinite));
});

test("gains off the path are left out, and a lost signal does not flatten the others", () => {
  const lost = { ...profile, activation_gain: [-45, null, -2, 0] };
  const { activation, weight, range } = points.gainPoints(lost);
  assert.deepEqual(activation, [-45, null, -2, 0]);
  assert.deepEqual(weight, [0, null, -0.7, -0.5]);
  assert.ok(range[0] >= -11 && range[1] < 2);
});

const open = { floor: null, ceiling: null };

for (const [range, ends, most, expected] of [
  [[-5.6, 0.4], open, 8, [-5, -4, -3, -2, -1, 0]],
  [[-5.6, 0.4], open, 3, [-4, -2, 0]],
  [[-44, 2], open, 6, [-40, -30, -20, -10, 0]],
  [[-6.6, 0.4], { floor: -6.2, ceiling: null }, 8, [-6.2, -5, -4, -3, -2, -1, 0]],
  [[-1, 4.6], { floor: null, ceiling: 4.2 }, 8, [-1, 0, 1, 2, 3, 4.2]],
])
  test(`an axis over ${range} with room for ${most} has lines at ${expected}`, () =>
    assert.deepEqual(points.decadeSplits(range, ends, most), expected));

test("an endless axis has an end of lines", () => {
  assert.ok(points.decadeSplits([-3000, 0], open, 5).length <= 16);
});

test("the depth is said in a number and in words", () => {
  assert.equal(
    points.depthSentence(profile),
    "Step 1,200: backward depth B is -5.2. About 1 part in 160,000 of the output layer's signal " +
      "arrives at the input layer.",
  );
});

test("a way on which the signal grows is named too", () => {
  const grown = points.depthSentence({ ...profile, growth: 3.14 });
  assert.match(grown, /On another way it grows by 3\.1 decades\.$/);
});

test("a depth that is not observed is said so", () => {
  assert.match(points.depthSentence({ ...profile, depth: null }), /cannot be followed/);
});

test("the split says which factor takes the signal", () => {
  assert.equal(
    points.gainSentence(profile, overview),
    "On the weakest way, from layer fc3 back to layer fc1, the activations take 4.0 decades and " +
      "the weights take 1.2 decades.",
  );
});

test("an activation that passes nothing is said so", () => {
  const lost = { ...profile, activation_gain: [-45, null, -2, 0], weight_gain: [0, null, 0.3, 0] };
  assert.match(points.gainSentence(lost, overview), /activations let nothing through/);
  assert.match(points.gainSentence(lost, overview), /weights add 0\.3 decades/);
});

test("a path of one layer has nothing to split", () => {
  assert.match(points.gainSentence({ ...profile, path: [0] }, overview), /single layer/);
});

test("a layer's figures are those that were observed", () => {
  assert.equal(
    points.layerFigures(profile, 0),
    "signal -5.2 (1 part in 160,000), activation -2.0, weights 0.0",
  );
  assert.equal(points.layerFigures(profile, 1), "signal not observed");
});

for (const [changes, words] of [
  [{}, /signals=False.*torch\.compile/],
  [{ framework: "keras" }, /probe.*compile\(loss=/],
  [{ samples: 0 }, /Nothing was observed yet/],
])
  test(`without signals ${JSON.stringify(changes)} the user is told why`, () =>
    assert.match(points.whyNoSignals({ ...overview, ...changes }), words));
