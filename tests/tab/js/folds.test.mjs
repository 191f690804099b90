import assert from "node:assert/strict";
import { test } from "node:test";

import { MOST_KEPT, remembered } from "../../../gradwatch/tab/static/folds.js";

for (const stored of [null, 7, "x", {}, [7], [["a"]], [["a", "yes"]], [[1, true]]])
  test(`stored folds ${JSON.stringify(stored)} are none`, () =>
    assert.equal(remembered(stored).size, 0));

test("folds come back as they were stored, the latest of too many", () => {
  assert.deepEqual([...remembered([["a", true], ["b", false]])], [["a", true], ["b", false]]);
  const many = Array.from({ length: MOST_KEPT + 5 }, (_, place) => [`fold ${place}`, true]);
  assert.deepEqual([...remembered(many).keys()][0], "fold 5");
});
