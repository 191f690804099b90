/**
 * Scales: from a statistic's values to levels between 0 and 1, and the numbers of the legend.
 */

/** A decade as a float32 is no further from a whole one. */
const ROUNDING = 1e-6;

/**
 * A value on the axis of its scale: log10 of it for "log", itself for others.
 *
 * @param {number} value
 * @param {"log"|"linear"|"log10"|"diverging"} scale
 * @returns {number}
 */
export function position(value, scale) {
  return scale === "log" ? Math.log10(value) : value;
}

/**
 * The range of levels that several heatmaps share: all but the rarest values lie in it.
 *
 * @param {ArrayLike<number>[]} several Values of each heatmap.
 * @param {"log"|"linear"|"log10"|"diverging"} scale
 * @returns {{low: number, high: number}} On the axis of the scale; whole decades for logarithms,
 *   from the opposite of `high` for diverging ones.
 */
export function domain(several, scale) {
  const found = several.flatMap((values) => finitePositions(values, scale)).sort((a, b) => a - b);
  if (found.length === 0) return { low: scale === "diverging" ? -1 : 0, high: 1 };
  const low = found[Math.floor(0.005 * (found.length - 1))];
  const high = found[Math.ceil(0.995 * (found.length - 1))];
  if (scale === "diverging") {
    const reach = Math.max(Math.abs(low), Math.abs(high), 0.5);
    return { low: -reach, high: reach };
  }
  if (scale === "linear") return { low: Math.min(low, 0), high: Math.max(high, 1e-12) };
  const floor = Math.floor(low + ROUNDING);
  const ceiling = Math.ceil(high - ROUNDING) + 0; // never -0
  return { low: floor, high: Math.max(ceiling, floor + 1) };
}

/**
 * Where a value lies in a domain, clamped to 0..1.
 *
 * @param {number} at Position of the value on the axis of the scale.
 * @param {{low: number, high: number}} domain
 */
export function share(at, { low, high }) {
  return Math.min(Math.max((at - low) / (high - low), 0), 1);
}

/**
 * Positions and labels of the legend's numbers.
 *
 * @param {{low: number, high: number}} domain
 * @param {"log"|"linear"|"log10"|"diverging"} scale
 * @param {number} [most] Labels at most.
 * @returns {Array<{share: number, text: string}>}
 */
export function legendTicks({ low, high }, scale, most = 7) {
  const isLog = scale === "log" || scale === "log10";
  const span = high - low;
  const step = isLog ? Math.max(1, Math.ceil(span / (most - 1))) : span / 4;
  const ticks = [];
  for (let at = low; at <= high + 1e-9 * span; at += step)
    ticks.push({ share: (at - low) / span, text: tickText(at, scale) });
  return ticks;
}

function tickText(at, scale) {
  if (scale === "log") return at === 0 ? "1" : `1e${Math.round(at)}`;
  const text = String(Number(at.toPrecision(2)));
  return text === "-0" ? "0" : text;
}

function finitePositions(values, scale) {
  const most = 20000;
  const stride = Math.max(1, Math.floor(values.length / most));
  const found = [];
  for (let index = 0; index < values.length; index += stride) {
    const at = position(values[index], scale);
    if (Number.isFinite(at)) found.push(at);
  }
  return found;
}
