/**
 * Zoom: the layers and samples that are shown, fewer or more around a place that stays where it is.
 */

const PIXELS_TO_DOUBLE = 200;
const PIXELS_A_LINE = 100 / 3;

/**
 * A part of a row of things, nearer or further.
 *
 * @param {[number, number]} range The first, and the one after the last.
 * @param {number} factor Above 1 to see more.
 * @param {number} at Place that stays where it is, 0 at the start of the first thing of all.
 * @param {number} count Of all things.
 * @returns {[number, number]|null} null for all of them.
 */
export function nearer([start, end], factor, at, count) {
  const low = Math.max(0, Math.round(at - (at - start) * factor));
  const high = Math.min(count, Math.round(at + (end - at) * factor));
  if (low <= 0 && high >= count) return null;
  if (low < high) return [low, high];
  const only = Math.min(Math.max(Math.floor(at), 0), count - 1);
  return [only, only + 1];
}

/**
 * Steps as numbers of samples, the axis on which a heatmap is even.
 *
 * @param {{firstSteps: ArrayLike<number>, lastSteps: ArrayLike<number>,
 *   counts: ArrayLike<number>}} grid Columns of the heatmap that is shown.
 * @param {[number, number]} limits First and last step of the run.
 * @param {object} [whole] Columns of all steps, as far as they are known; beyond them samples are
 *   taken to be as dense as in them.
 * @returns {Array<{first: number, last: number, count: number, start: number, isGuess: boolean}>}
 *   Columns of the whole run: their steps, their samples, and how many samples come before them.
 */
export function rulerOf(grid, [first, last], whole = grid) {
  const shown = columnsOf(grid);
  const [from, to] = [shown[0].first, shown.at(-1).last];
  const known = columnsOf(whole);
  const earlier = known.filter((column) => column.first < from);
  const later = known.filter((column) => column.last > to);
  if (earlier.length) earlier.push(cut(earlier.pop(), { last: from - 1 }));
  if (later.length) later.unshift(cut(later.shift(), { first: to + 1 }));
  const columns = [...earlier, ...shown, ...later];
  const samples = columns.reduce((sum, { count }) => sum + count, 0);
  const [start, end] = [columns[0].first, columns.at(-1).last];
  const spacing = Math.max((end - start) / Math.max(samples - 1, 1), 1);
  const before = Math.floor((start - first) / spacing);
  const after = Math.floor((last - end) / spacing);
  if (before > 0) columns.unshift(guessed(first, start - spacing, before));
  if (after > 0) columns.push(guessed(end + spacing, last, after));
  let count = 0;
  for (const column of columns) {
    column.start = count;
    count += column.count;
  }
  return columns;
}

function columnsOf({ firstSteps, lastSteps, counts }) {
  return Array.from(counts, (count, at) => ({
    first: firstSteps[at],
    last: lastSteps[at],
    count,
    isGuess: false,
  }));
}

function cut(column, { first = column.first, last = column.last }) {
  if (first <= column.first && last >= column.last) return column;
  const share = (last - first + 1) / (column.last - column.first + 1);
  return { ...column, first, last, count: Math.max(1, Math.round(share * column.count)) };
}

function guessed(first, last, count) {
  return { first, last, count, isGuess: true };
}

/** How many samples come before a step. */
export function samplesBefore(ruler, step) {
  const column = ruler.find(({ last }) => last >= step);
  if (column === undefined) return sampleCount(ruler);
  if (step <= column.first) return column.start;
  const share = (step - column.first) / (column.last - column.first);
  return column.start + Math.ceil(share * (column.count - 1));
}

/** How many samples there are. */
export function sampleCount(ruler) {
  const { start, count } = ruler.at(-1);
  return start + count;
}

/**
 * The samples of a range of steps.
 *
 * @param {Array<object>} ruler See `rulerOf`.
 * @param {[number, number]|null} steps First and last; null for all.
 * @returns {[number, number]} The first, and the one after the last.
 */
export function samplesIn(ruler, steps) {
  if (steps === null) return [0, sampleCount(ruler)];
  return [samplesBefore(ruler, steps[0]), samplesBefore(ruler, steps[1] + 1)];
}

/**
 * A range of steps, nearer or further. It ends where columns end, so that there are samples in it.
 *
 * @param {Array<object>} ruler See `rulerOf`.
 * @param {[number, number]|null} steps First and last; null for all.
 * @param {number} factor Above 1 to see more.
 * @param {number} at Samples before the place that stays where it is.
 * @returns {[number, number]|null} First and last step, null for all.
 */
export function zoomedSteps(ruler, steps, factor, at) {
  const found = nearer(samplesIn(ruler, steps), factor, at, sampleCount(ruler));
  if (found === null) return null;
  const [low, high] = [found[0], found[1] - 1];
  const from = ruler.findLast(({ start }) => start <= low);
  const to = ruler.findLast(({ start }) => start <= high);
  if (from === ruler[0] && to === ruler.at(-1) && !from.isGuess && !to.isGuess) return null;
  return [
    from.isGuess ? stepOf(from, low) : from.first,
    to.isGuess ? stepOf(to, high) : to.last,
  ];
}

function stepOf({ first, last, start, count }, sample) {
  return Math.round(first + ((last - first) * (sample - start)) / Math.max(count - 1, 1));
}

/**
 * How far a wheel was turned, with what was left of its turns before.
 *
 * @param {number} left
 * @param {{deltaX: number, deltaY: number, deltaMode: number}} event Of the wheel.
 * @returns {number} Doublings, -1..1: below 0 to see less. A turn back forgets what was left.
 */
export function wheelTurn(left, { deltaX, deltaY, deltaMode }) {
  const turned = deltaY || deltaX || 0; // a browser may turn the axis with Shift
  const doublings = (turned * (deltaMode === 0 ? 1 : PIXELS_A_LINE)) / PIXELS_TO_DOUBLE;
  const sum = Math.sign(left) === Math.sign(doublings) ? left + doublings : doublings;
  return Math.min(Math.max(sum, -1), 1);
}
