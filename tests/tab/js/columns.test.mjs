import assert from "node:assert/strict";
import { test } from "node:test";

import { within } from "../../../gradwatch/tab/static/columns.js";

const HEATMAP = {
  meta: { run: "a" },
  arrays: {
    values: { shape: [2, 3], values: Float32Array.of(1, 2, 3, 4, 5, 6) },
    states: { shape: [2, 3], values: Uint8Array.of(0, 1, 2, 3, 4, 0) },
    first_steps: { shape: [3], values: Float64Array.of(0, 10, 20) },
    last_steps: { shape: [3], values: Float64Array.of(8, 18, 28) },
    counts: { shape: [3], values: Int32Array.of(4, 4, 4) },
  },
};

for (const [range, values] of [
  [{}, [1, 2, 3, 4, 5, 6]],
  [{ first: 9 }, [2, 3, 5, 6]],
  [{ first: 18, last: 18 }, [2, 5]],
  [{ last: 10 }, [1, 2, 4, 5]],
  [{ first: 9, last: 9 }, []],
  [{ first: 29 }, []],
]) {
  test(`columns of ${JSON.stringify(range)}`, () => {
    const { meta, arrays } = within(HEATMAP, range);
    assert.deepEqual([...arrays.values.values], values);
    assert.deepEqual(arrays.values.shape, [2, values.length / 2]);
    assert.equal(arrays.counts.values.length, values.length / 2);
    assert.equal(meta.run, "a");
  });
}
