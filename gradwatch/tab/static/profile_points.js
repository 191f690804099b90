/**
 * Points of the profile: what its two plots draw, and the same in words. Pure.
 */

import { arrival, figure, gainName, grouped, levelName } from "./words.js";
import { numeric, part, shortened } from "./words.js";

const LEAST_SPAN = 2;
const PADDING = 0.07;
const MOST_DECADES = 10;

/** Gain that the server gives to what lets nothing through at all, log10. */
const LOST = -45;

/**
 * The backward signal of each layer as the upper plot draws it.
 *
 * @param {object} profile As the route `profile` answers it.
 * @returns {{layers: number[], level: Array<number|null>, zero: boolean[], infinite: boolean[],
 *   floor: number|null, ceiling: number|null, range: [number, number]}} `layers` counts from 1.
 *   Levels are log10; exact zeros lie at `floor`, what is not finite at `ceiling`, beyond all
 *   others.
 */
export function levelPoints(profile) {
  const levels = profile.backward.map(numeric);
  const zero = levels.map((level) => level === -Infinity);
  const infinite = levels.map((level) => level === Infinity);
  const known = [0, ...levels.filter(Number.isFinite)];
  const low = Math.min(...known);
  const high = Math.max(...known);
  const span = Math.max(high - low, LEAST_SPAN);
  const floor = zero.includes(true) ? low - Math.max(1, 0.2 * span) : null;
  const ceiling = infinite.includes(true) ? high + Math.max(1, 0.2 * span) : null;
  const level = levels.map((value, layer) => {
    if (zero[layer]) return floor;
    return infinite[layer] ? ceiling : orNull(value);
  });
  const range = padded(Math.min(floor ?? low, high - LEAST_SPAN), ceiling ?? high);
  return { layers: countUp(levels.length), level, zero, infinite, floor, ceiling, range };
}

/**
 * The gains along the worst path as the lower plot draws them.
 *
 * @param {object} profile As the route `profile` answers it.
 * @returns {{layers: number[], activation: Array<number|null>, weight: Array<number|null>,
 *   range: [number, number]}} log10. The range leaves out all beyond ten decades: a bar as long as
 *   that stands for a signal that is lost altogether.
 */
export function gainPoints(profile) {
  const activation = profile.activation_gain.map((gain) => orNull(numeric(gain)));
  const weight = profile.weight_gain.map((gain) => orNull(numeric(gain)));
  const known = [0, ...activation, ...weight].filter((gain) => gain !== null);
  const low = Math.max(-MOST_DECADES, Math.min(...known, -1));
  const high = Math.min(MOST_DECADES, Math.max(...known));
  return { layers: countUp(activation.length), activation, weight, range: padded(low, high) };
}

/**
 * The lines of an axis of log10: whole decades that do not crowd, and the places beyond them.
 *
 * @param {[number, number]} range
 * @param {{floor: number|null, ceiling: number|null}} ends Places of what is zero or not finite.
 * @param {number} most How many lines there is room for.
 * @returns {number[]} Rising.
 */
export function decadeSplits([low, high], { floor, ceiling }, most) {
  const step = [1, 2, 5, 10, 20, 50, 100].find((size) => (high - low) / size <= most) ?? 200;
  const splits = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) splits.push(at + 0);
  const ends = [floor, ceiling].filter((end) => end !== null);
  const clear = (at) => ends.every((end) => Math.abs(at - end) > step / 2);
  return [...splits.filter(clear), ...ends].sort((one, other) => one - other);
}

/**
 * What the upper plot says, in two sentences.
 *
 * @param {object} profile As the route `profile` answers it.
 * @returns {string}
 */
export function depthSentence(profile) {
  const depth = numeric(profile.depth);
  const growth = numeric(profile.growth);
  const step = `Step ${grouped(profile.step)}`;
  if (Number.isNaN(depth))
    return `${step}: the signal cannot be followed from the output to an input layer.`;
  const grows =
    growth > 1 && growth - depth > 1
      ? ` On another way it grows by ${figure(Number(growth.toFixed(1)))} decades.`
      : "";
  return `${step}: backward depth B is ${levelName(depth)}. ${arrival(depth)}${grows}`;
}

/**
 * What the lower plot says, in a sentence.
 *
 * @param {object} profile As the route `profile` answers it.
 * @param {object} overview As the route `run` answers it.
 * @returns {string}
 */
export function gainSentence(profile, { layers }) {
  const { path } = profile;
  if (path.length < 2) return "The worst path has a single layer: nothing to split.";
  const [first, last] = [path[0], path.at(-1)].map((row) => shortened(layers[row]?.name, 32));
  const parts = [
    `the activations ${taken(total(profile.activation_gain))}`,
    `the weights ${taken(total(profile.weight_gain))}`,
  ];
  return `On the weakest way, from layer ${last} back to layer ${first}, ${parts.join(" and ")}.`;
}

/**
 * The figures of a layer, in words.
 *
 * @param {object} profile As the route `profile` answers it.
 * @param {number} row The layer, counted from 0.
 * @returns {string}
 */
export function layerFigures(profile, row) {
  const level = numeric(profile.backward[row]);
  const share = Number.isFinite(level) && level < -0.15 ? ` (${part(level)})` : "";
  const words = [`signal ${levelName(level)}${share}`];
  const activation = numeric(profile.activation_gain[row]);
  const weight = numeric(profile.weight_gain[row]);
  if (!Number.isNaN(activation)) words.push(`activation ${gainName(activation)}`);
  if (!Number.isNaN(weight)) words.push(`weights ${gainName(weight)}`);
  return words.join(", ");
}

/**
 * Why there are no backward signals, and what to do.
 *
 * @param {object} overview As the route `run` answers it.
 * @returns {string}
 */
export function whyNoSignals({ framework, samples }) {
  if (!samples) return "Nothing was observed yet. The profile comes with the first samples.";
  const lead = "No backward signals: of this run only parameters were read. ";
  if (framework === "keras")
    return (
      `${lead}The probe that reads signals runs at fewer steps than that, and needs the loss ` +
      "that the model was compiled with: model.compile(loss=...)."
    );
  return (
    `${lead}They are read unless gradwatch.watch was given signals=False, but not inside of what ` +
    "torch.compile has compiled: train a few hundred steps without it to see them."
  );
}

function orNull(value) {
  return Number.isNaN(value) ? null : value;
}

function taken(decades) {
  if (decades <= LOST) return "let nothing through";
  return `${decades < 0 ? "take" : "add"} ${Math.abs(decades).toFixed(1)} decades`;
}

function total(gains) {
  return gains.map(numeric).reduce((sum, gain) => sum + (Number.isNaN(gain) ? 0 : gain), 0);
}

function countUp(length) {
  return Array.from({ length }, (_, row) => row + 1);
}

function padded(low, high) {
  const padding = PADDING * Math.max(high - low, 1);
  return [low - padding, high + padding];
}
