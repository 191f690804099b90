// Numbers and names in words.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as words from "../../../gradwatch/tab/static/words.js";

function each(name, give, cases) {
  for (const [given, expected] of cases)
    test(`${name}: ${JSON.stringify(given) ?? given} reads ${JSON.stringify(expected)}`, () =>
      assert.equal(give(given), expected));
}

each("number of JSON", words.numeric, [
  [1.5, 1.5],
  ["Infinity", Infinity],
  ["-Infinity", -Infinity],
  ["NaN", NaN],
  [null, NaN],
  [undefined, NaN],
  ["12", NaN],
]);

each("figure", words.figure, [
  [0, "0"],
  [-5.2345, "-5.23"],
  [0.0131, "0.0131"],
  [1600, "1,600"],
  [1234.5, "1,235"],
  [1.23e-7, "1.2e-7"],
  [2.5e9, "2.5e9"],
  [NaN, "not observed"],
  [Infinity, "not finite"],
]);

each("step", words.grouped, [
  [0, "0"],
  [-0, "0"],
  [1200, "1,200"],
  [null, "?"],
]);

test("a count takes the plural unless it is one", () => {
  assert.equal(words.counted(1, "step"), "1 step");
  assert.equal(words.counted(0, "step"), "0 steps");
  assert.equal(words.counted(1200, "step"), "1,200 steps");
});

each("invisible characters", words.printable, [
  ["plain, ünïcode ✓ 漢字", "plain, ünïcode ✓ 漢字"],
  ["line\n\ttab", "line\n\ttab"],
  ["\u0000\u001b[31m", "\\x00\\x1b[31m"],
  ["fc\u202e1cf", "fc\\u202e1cf"],
  ["zero\u200bwidth", "zero\\u200bwidth"],
  ["\u2028", "\\u2028"],
  ["\u{e0001}", "\\U000e0001"],
  ["\ud800", "\\ud800"],
  ["<b>&amp;</b>", "<b>&amp;</b>"],
  [null, ""],
]);

test("a long text says how much was left out", () => {
  assert.equal(words.clipped("abc", 3), "abc");
  assert.equal(words.clipped("abcdef", 3), "abc … (3 more characters)");
});

test("a long name keeps its beginning and its end", () => {
  assert.equal(words.shortened("encoder.layers.11.weight", 11), "encod…eight");
  assert.equal(words.shortened("short", 11), "short");
});

test("a name is cut between characters, not inside one", () => {
  assert.equal(words.shortened("😀".repeat(20), 5), "😀😀…😀😀");
});

each("name as heading", words.inWords, [
  ["vanishing-gradient", "Vanishing gradient"],
  ["non-finite-value", "Non finite value"],
  ["", ""],
]);

test("a range of steps", () => {
  assert.equal(words.stepRange(0, 1198), "steps 0 to 1,198");
  assert.equal(words.stepRange(5, 5), "step 5");
  assert.equal(words.stepRange(null, null), "no step yet");
});

each("level", words.levelName, [
  [-5.24, "-5.2"],
  [-0.01, "0.0"],
  [-Infinity, "exactly zero"],
  [Infinity, "not finite"],
  [NaN, "not observed"],
]);

each("gain", words.gainName, [
  [0.31, "+0.3"],
  [-0.7, "-0.7"],
  [0.01, "0.0"],
  [Infinity, "not finite"],
  [NaN, "not observed"],
]);

each("share", words.part, [
  [-6, "a millionth"],
  [-3.02, "a thousandth"],
  [-5.2, "1 part in 160,000"],
  [-0.3, "50 %"],
  [-1, "a tenth"],
  [-12, "1 part in 10¹²"],
]);

each("what arrives", words.arrival, [
  [-6, "About a millionth of the output layer's signal arrives at the input layer."],
  [0.1, "The output layer's signal arrives at the input layer at about full size."],
  [1.5, "The signal is about 32 times larger at the input layer than at the output layer."],
  [NaN, ""],
]);

each("power of ten", words.powerOfTen, [
  [0, "1"],
  [-12, "10⁻¹²"],
  [3, "10³"],
]);

each("ratio", words.ratioName, [
  [Math.log10(30), "30 times larger"],
  [-Math.log10(1.5), "1.5 times smaller"],
  [-9, "10⁹ times smaller"],
  [0.001, "the same"],
  [-Infinity, "zero"],
  [NaN, "not observed"],
]);
