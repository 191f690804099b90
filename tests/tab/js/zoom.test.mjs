import assert from "node:assert/strict";
import { test } from "node:test";

import { nearer, rulerOf, sampleCount, samplesBefore } from "../../../gradwatch/tab/static/zoom.js";
import { wheelTurn, zoomedSteps } from "../../../gradwatch/tab/static/zoom.js";

test("zooming in halves the range around the place", () =>
  assert.deepEqual(nearer([0, 100], 0.5, 50, 100), [25, 75]));
test("the place stays where it is", () => {
  assert.deepEqual(nearer([0, 100], 0.5, 20, 100), [10, 60]);
  assert.deepEqual(nearer([10, 60], 2, 20, 200), [0, 100]);
});
test("zooming out to everything is no zoom", () =>
  assert.equal(nearer([25, 75], 2, 50, 100), null));
test("zooming in at a single one stays at it", () =>
  assert.deepEqual(nearer([5, 6], 0.5, 5.5, 100), [5, 6]));
for (const at of [3, 3.2, 3.5, 3.99])
  test(`twice as much than one is more than one, at ${at}`, () => {
    const [low, high] = nearer([3, 4], 2, at, 100);
    assert.ok(high - low > 1);
  });

// Samples at 0, 1, 2, 4, 8, 16 ... : dense at first, as they are recorded.
const STEPS = [0, 1, 2, 4, 8, 16, 32, 64];
const GRID = { firstSteps: STEPS, lastSteps: STEPS, counts: STEPS.map(() => 1) };

test("a zoom in steps is around the sample at the place, however far apart the steps are", () => {
  const ruler = rulerOf(GRID, [0, 64]);
  assert.equal(sampleCount(ruler), 8);
  assert.deepEqual(zoomedSteps(ruler, null, 0.5, 4), [2, 16]);
  assert.deepEqual(zoomedSteps(ruler, null, 0.5, 0), [0, 4]);
  assert.deepEqual(zoomedSteps(ruler, null, 0.5, 8), [8, 64]);
  assert.equal(zoomedSteps(ruler, [2, 16], 2, 4), null);
});

test("a range that ends between two samples holds those before its end", () => {
  const ruler = rulerOf(GRID, [0, 64]);
  assert.deepEqual(zoomedSteps(ruler, [1, 12], 0.5, 3), [2, 4]);
});

test("samples that share a column are evenly spread, and shown together", () => {
  const starts = [0, 100, 200, 300];
  const counts = [10, 10, 10, 10];
  const pooled = { firstSteps: starts, lastSteps: starts.map((step) => step + 90), counts };
  const ruler = rulerOf(pooled, [0, 390]);
  assert.equal(samplesBefore(ruler, 50), 5);
  assert.equal(samplesBefore(ruler, 100), 10);
  assert.deepEqual(zoomedSteps(ruler, null, 0.5, 22), [100, 390]);
  assert.deepEqual(zoomedSteps(ruler, [100, 190], 0.5, 15), [100, 190]);
  assert.equal(zoomedSteps(ruler, [100, 290], 2, 20), null);
});

test("beyond what a heatmap shows the columns of the whole run count", () => {
  const whole = { firstSteps: [0, 40, 80], lastSteps: [30, 70, 90], counts: [4, 4, 2] };
  const shown = { firstSteps: [40, 50, 60], lastSteps: [40, 50, 60], counts: [1, 1, 1] };
  const ruler = rulerOf(shown, [0, 90], whole);
  assert.equal(sampleCount(ruler), 10);
  assert.equal(samplesBefore(ruler, 60), 6);
  assert.deepEqual(zoomedSteps(ruler, [40, 60], 0.5, 6), [50, 60]);
  assert.deepEqual(zoomedSteps(ruler, [50, 50], 4, 5.5), [40, 70]);
});

test("where the whole run is not known samples are as dense as in what is shown", () => {
  const ruler = rulerOf({ firstSteps: [40, 50], lastSteps: [40, 50], counts: [1, 1] }, [0, 100]);
  assert.equal(samplesBefore(ruler, 40), 4);
  assert.equal(sampleCount(ruler), 11);
  assert.deepEqual(zoomedSteps(ruler, [40, 50], 2, 5), [30, 60]);
});

test("small turns of a wheel add up, and a turn back counts at once", () => {
  assert.equal(wheelTurn(0, { deltaY: -100, deltaMode: 0 }), -0.5);
  assert.equal(wheelTurn(-0.5, { deltaY: -20, deltaMode: 0 }), -0.6);
  assert.equal(wheelTurn(-0.6, { deltaY: 20, deltaMode: 0 }), 0.1);
  assert.equal(wheelTurn(0, { deltaY: 900, deltaMode: 0 }), 1);
  assert.equal(wheelTurn(0, { deltaY: 3, deltaMode: 1 }), 0.5);
  assert.equal(wheelTurn(0, { deltaY: 0, deltaX: 100, deltaMode: 0 }), 0.5);
});
