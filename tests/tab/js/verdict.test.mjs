// The answer at the top of the page.
import assert from "node:assert/strict";
import { test } from "node:test";

import { answer, facts } from "../../../gradwatch/tab/static/verdict.js";

const healthy = { severity: null, judged: true, finished: false, limits: [] };

for (const [changes, mark, words] of [
  [{}, "ok", "Yes"],
  [{ severity: "error" }, "error", "No"],
  [{ severity: "warning" }, "warning", "Not well"],
  [{ severity: "notice" }, "notice", "Yes"],
  [{ limits: ["one layer is compiled"] }, "ok", "Yes, where it is observed"],
  [{ judged: false }, "unknown", "Too early to say"],
  [{ judged: false, finished: true }, "unknown", "Cannot be said"],
  [{ judged: false, severity: "notice" }, "unknown", "Too early to say"],
])
  test(`${JSON.stringify(changes)} is answered by "${words}"`, () =>
    assert.deepEqual(answer({ ...healthy, ...changes }), { mark, words }));

test("the facts name framework, layers, steps, samples and whether it goes on", () => {
  const overview = { framework: "torch", layers: [{}, {}], samples: 100, sessions: 1 };
  assert.deepEqual(facts({ ...overview, first_step: 0, last_step: 1198, finished: false }), [
    "PyTorch",
    "2 layers",
    "steps 0 to 1,198",
    "100 samples",
    "still running or cut off",
  ]);
});

for (const [sessions, words] of [
  [2, "resumed once"],
  [4, "resumed 3 times"],
])
  test(`${sessions} sessions are ${words}`, () => {
    const run = { framework: "constructor", layers: [], samples: 0, sessions, finished: true };
    const said = facts({ ...run, first_step: null, last_step: null });
    assert.ok(said.includes(words));
    assert.deepEqual(said.slice(0, 3), ["constructor", "0 layers", "no step yet"]);
    assert.equal(said.at(-1), "finished");
  });
