/**
 * Sources: where the page's runs come from, a TensorBoard or the HTML file that the page is in.
 */

import { within } from "./columns.js";
import { decode } from "./wire.js";

/**
 * The routes of the plugin, relative to the page: any prefix or proxy will do.
 *
 * @param {function(string): Promise<Response>} [get] Fetches an address.
 * @returns {object} `runs`, `run`, `heatmap`, `profile`, `compare` and `rule`, each a promise of
 *   what the route of that name answers; rejected with the server's own sentence.
 */
export function serverSource(get = (address) => fetch(address)) {
  const ask = async (route, query) => {
    const response = await get(`./${route}?${encoded(query)}`);
    if (response.ok) return response;
    const told = await response.json().catch(() => ({}));
    throw new Error(told.error ?? `TensorBoard answered ${response.status} to ${route}.`);
  };
  return sourceOf(
    async (route, query) => (await ask(route, query)).json(),
    async (route, query) => (await ask(route, query)).arrayBuffer(),
  );
}

/**
 * The answers that a self-contained report carries with it.
 *
 * @param {Object<string, unknown>} answers "route?query" to the answer; {"base64": ...} if binary.
 * @returns {object} As of `serverSource`.
 */
export function inlineSource(answers) {
  const known = new Map(Object.entries(answers).map(([key, answer]) => [canonical(key), answer]));
  const find = async (route, query) => {
    const key = inlineKey(route, query);
    if (known.has(key)) return known.get(key);
    const nearest = route === "profile" ? nearestProfile(known, query) : null;
    if (nearest !== null) return known.get(nearest);
    throw new Error(`This file does not hold ${key}; TensorBoard shows all of the run.`);
  };
  return sourceOf(find, async (route, query) => octets((await find(route, query)).base64));
}

/**
 * The key of an answer in a report: the query sorted by name, without what only a server needs.
 *
 * @param {string} route
 * @param {Object<string, unknown>} query
 * @returns {string}
 */
export function inlineKey(route, query) {
  const left = ["columns", "first", "last"];
  const kept = Object.entries(query).filter(([name]) => !left.includes(name));
  return canonical(`${route}?${encoded(Object.fromEntries(kept))}`);
}

function canonical(key) {
  const query = asked(key);
  query.sort();
  return `${key.split("?", 1)[0]}?${query}`;
}

function sourceOf(json, binary) {
  return {
    runs: () => json("runs", {}),
    run: (run) => json("run", { run }),
    heatmap: async (run, statistic, { columns, first, last }) =>
      within(decode(await binary("heatmap", { run, statistic, columns, first, last })), {
        first,
        last,
      }),
    profile: (run, step) => json("profile", { run, step }),
    compare: (a, b, statistic) => json("compare", { a, b, statistic }),
    rule: (code) => json("rule", { code }),
  };
}

function encoded(query) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
}

function nearestProfile(known, { run, step }) {
  const keys = [...known.keys()].filter(
    (key) => key.startsWith("profile?") && asked(key).get("run") === run,
  );
  const distance = (key) => Math.abs(Number(asked(key).get("step")) - step);
  return keys.reduce(
    (best, key) => (best === null || distance(key) < distance(best) ? key : best),
    null,
  );
}

function asked(key) {
  return new URLSearchParams(key.split("?").slice(1).join("?"));
}

function octets(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer;
}
