import assert from "node:assert/strict";
import { test } from "node:test";

import { oneAtATime } from "../../../gradwatch/tab/static/one_at_a_time.js";

test("what is asked for meanwhile is done once more, however often it was asked for", async () => {
  const finish = [];
  const act = oneAtATime(() => new Promise((resolve) => finish.push(resolve)));
  const done = act();
  act();
  act();
  assert.equal(finish.length, 1);
  finish[0]();
  await new Promise(setImmediate);
  assert.equal(finish.length, 2);
  finish[1]();
  await done;
  assert.equal(finish.length, 2);
});
