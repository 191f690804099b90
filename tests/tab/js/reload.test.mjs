import assert from "node:assert/strict";
import { test } from "node:test";

import { parsed, replyTo } from "../../../gradwatch/tab/static/reload.js";

test("a message is taken apart", () =>
  assert.deepEqual(parsed('{"type": "x", "id": 3}'), { type: "x", id: 3 }));
for (const text of ["", "{", "7", undefined, '"x"'])
  test(`${text} is no message`, () => assert.equal(parsed(text), null));
test("a reply names the message that it answers", () =>
  assert.deepEqual(replyTo({ type: "x", id: 3, payload: 1 }), {
    type: "x",
    id: 3,
    payload: null,
    error: null,
    isReply: true,
  }));
