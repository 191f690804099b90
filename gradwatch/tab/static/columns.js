/**
 * Columns of a heatmap by their steps.
 */

/**
 * The columns of a heatmap that reach into a range of steps, as a server answers them.
 *
 * @param {{meta: object, arrays: object}} heatmap As `decode` returns it.
 * @param {{first: number|undefined, last: number|undefined}} range An open end is undefined.
 * @returns {{meta: object, arrays: object}}
 */
export function within({ meta, arrays }, { first = -Infinity, last = Infinity }) {
  const from = arrays.last_steps.values.findIndex((step) => step >= first);
  const to = arrays.first_steps.values.findLastIndex((step) => step <= last) + 1;
  const [start, end] = from < 0 || from > to ? [0, 0] : [from, to];
  const cut = ({ shape, values }) => {
    const width = shape.at(-1);
    const kept = values.filter((_, index) => index % width >= start && index % width < end);
    return { shape: [...shape.slice(0, -1), end - start], values: kept };
  };
  const entries = Object.entries(arrays).map(([name, array]) => [name, cut(array)]);
  return { meta, arrays: Object.fromEntries(entries) };
}
