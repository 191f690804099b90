/**
 * Numbers, steps, counts and names in words. Pure: text in, text out.
 */

const UNPRINTABLE = /[^\P{C}\n\t]|[\u2028\u2029]/gu;
const PARTS = ["tenth", "hundredth", "thousandth", "ten-thousandth", "hundred-thousandth"];
const NAMED_PARTS = new Map([
  ...PARTS.map((name, tenths) => [tenths + 1, name]),
  [6, "millionth"],
  [9, "billionth"],
]);
const NEAR_A_POWER = 0.05;
const ABOUT_THE_SAME = 0.15;
const LARGEST_WRITTEN_OUT = 6;
const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/**
 * A number of the server's JSON as a number: NaN where it was not observed.
 *
 * @param {number|string|null|undefined} value A number, "NaN", "Infinity", "-Infinity" or null.
 * @returns {number}
 */
export function numeric(value) {
  if (typeof value === "number") return value;
  return value === "Infinity" || value === "-Infinity" ? Number(value) : NaN;
}

/**
 * A number in three significant digits: "0.013", "-5.23", "1,600", "1.2e-7", "not observed".
 *
 * @param {number} value
 * @returns {string}
 */
export function figure(value) {
  if (Number.isNaN(value)) return "not observed";
  if (!Number.isFinite(value)) return value > 0 ? "not finite" : "zero (log10 is -inf)";
  const size = Math.abs(value);
  if (size < 1e6 && (Number.isInteger(value) || size >= 1000)) return grouped(Math.round(value));
  if (size >= 1e-3 && size < 1000) return String(Number(value.toPrecision(3)));
  return value.toExponential(1).replace("e+", "e");
}

/**
 * A step or another whole number with its thousands apart: "1,200"; "?" for none.
 *
 * @param {number|null} step
 * @returns {string}
 */
export function grouped(step) {
  return Number.isFinite(step) ? (step + 0).toLocaleString("en-GB") : "?";
}

/**
 * A count with its noun, in the plural unless it is one: "1 step", "1,200 steps".
 *
 * @param {number} count
 * @param {string} noun
 * @returns {string}
 */
export function counted(count, noun) {
  return `${grouped(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/**
 * The text with control, formatting and other invisible characters escaped; line ends and tabs
 * stay. So no name can turn the writing direction round or hide a part of a snippet.
 *
 * @param {unknown} text
 * @returns {string}
 */
export function printable(text) {
  return String(text ?? "").replace(UNPRINTABLE, (char) => {
    const hex = char.codePointAt(0).toString(16);
    if (hex.length <= 2) return `\\x${hex.padStart(2, "0")}`;
    return hex.length <= 4 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
  });
}

/**
 * A printable text of a bounded length: its beginning, and how much was left out.
 *
 * @param {unknown} text
 * @param {number} [most] Characters.
 * @returns {string}
 */
export function clipped(text, most = 1000) {
  const chars = [...printable(text)];
  if (chars.length <= most) return chars.join("");
  return `${chars.slice(0, most).join("")} … (${grouped(chars.length - most)} more characters)`;
}

/**
 * A printable name of a bounded length: its beginning and its end, the layer's number most often.
 *
 * @param {unknown} name
 * @param {number} [most] Characters.
 * @returns {string}
 */
export function shortened(name, most = 48) {
  const chars = [...printable(name)];
  if (chars.length <= most) return chars.join("");
  const end = Math.floor(most / 2);
  return `${chars.slice(0, most - 1 - end).join("")}…${chars.slice(-end).join("")}`;
}

/**
 * An identifier as a heading: "vanishing-gradient" becomes "Vanishing gradient".
 *
 * @param {string} name
 * @returns {string}
 */
export function inWords(name) {
  const words = clipped(name, 80).replace(/[-_]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/**
 * Steps from one to another: "steps 0 to 198", "step 5", "no step yet".
 *
 * @param {number|null} first
 * @param {number|null} last
 * @returns {string}
 */
export function stepRange(first, last) {
  if (!Number.isFinite(first) || !Number.isFinite(last)) return "no step yet";
  return first === last ? `step ${grouped(first)}` : `steps ${grouped(first)} to ${grouped(last)}`;
}

/**
 * A log10 in one decimal: "-5.2", "exactly zero", "not finite", "not observed".
 *
 * @param {number} level
 * @returns {string}
 */
export function levelName(level) {
  if (Number.isNaN(level)) return "not observed";
  if (!Number.isFinite(level)) return level < 0 ? "exactly zero" : "not finite";
  const rounded = level.toFixed(1);
  return rounded === "-0.0" ? "0.0" : rounded;
}

/**
 * A gain in decades with its sign: "+0.3", "-0.7", "0.0", "not observed".
 *
 * @param {number} gain log10.
 * @returns {string}
 */
export function gainName(gain) {
  const name = levelName(gain);
  return gain > 0 && name !== "0.0" && Number.isFinite(gain) ? `+${name}` : name;
}

/**
 * A share below 1 in words: "70 %", "a millionth", "1 part in 160,000".
 *
 * @param {number} log10 Below 0.
 * @returns {string}
 */
export function part(log10) {
  if (log10 > -1 + NEAR_A_POWER) return `${Math.round(100 * 10 ** log10)} %`;
  const nearest = Math.round(-log10);
  if (Math.abs(nearest + log10) < NEAR_A_POWER && NAMED_PARTS.has(nearest))
    return `a ${NAMED_PARTS.get(nearest)}`;
  return `1 part in ${multiple(-log10)}`;
}

/**
 * 10 to the power of a log10, in two digits: "30", "160,000", "10⁹".
 *
 * @param {number} log10
 * @returns {string}
 */
export function multiple(log10) {
  if (log10 > LARGEST_WRITTEN_OUT + 1) return powerOfTen(Math.round(log10));
  return grouped(Number((10 ** log10).toPrecision(2)));
}

/**
 * What becomes of the backward signal between the two ends of the network, in a sentence.
 *
 * @param {number} depth Backward depth B: log10 of the signal at the input layer against the output
 *   layer's.
 * @returns {string} Empty if it was not observed.
 */
export function arrival(depth) {
  if (Number.isNaN(depth)) return "";
  if (Math.abs(depth) < ABOUT_THE_SAME)
    return "The output layer's signal arrives at the input layer at about full size.";
  if (depth < 0)
    return `About ${part(depth)} of the output layer's signal arrives at the input layer.`;
  const times = `${multiple(depth)} times`;
  return `The signal is about ${times} larger at the input layer than at the output layer.`;
}

/**
 * A power of ten as an axis shows it: "1", "10⁻³".
 *
 * @param {number} exponent A whole number.
 * @returns {string}
 */
export function powerOfTen(exponent) {
  if (exponent === 0) return "1";
  const digits = [...String(Math.abs(exponent))].map((digit) => SUPERSCRIPTS[Number(digit)]);
  return `10${exponent < 0 ? "⁻" : ""}${digits.join("")}`;
}

/**
 * How two runs compare in one number: "30 times larger", "1.5 times smaller", "the same".
 *
 * @param {number} log10 log10 of the second run's number over the first's.
 * @returns {string}
 */
export function ratioName(log10) {
  if (Number.isNaN(log10)) return "not observed";
  if (!Number.isFinite(log10)) return log10 < 0 ? "zero" : "infinitely larger";
  const times = Math.abs(log10) > LARGEST_WRITTEN_OUT ? multiple(Math.abs(log10)) : null;
  const digits = times ?? figure(Number((10 ** Math.abs(log10)).toPrecision(2)));
  return digits === "1" ? "the same" : `${digits} times ${log10 < 0 ? "smaller" : "larger"}`;
}
