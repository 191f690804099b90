/**
 * Folds: which of them stand open, as long as the browser tab is there.
 */

import { keep, kept } from "./kept.js";

const KEY = "gradwatch-folds";
const LONGEST = 300;

/** Folds that are kept, the latest ones. */
export const MOST_KEPT = 500;

/**
 * The memory of all folds below an element.
 *
 * @param {HTMLElement} root
 * @returns {{follow: function(HTMLDetailsElement, string, boolean): void}} `follow` opens a fold or
 *   closes it, as the user has left the one with the same name; the third argument is for one that
 *   was not there before.
 */
export function createFolds(root) {
  const known = remembered(kept(KEY));
  const names = new WeakMap();
  // The event does not bubble, but is seen on its way down.
  root.addEventListener("toggle", ({ target }) => note(target), { capture: true });

  function note(fold) {
    const name = names.get(fold);
    if (name === undefined || (known.get(name) ?? null) === fold.open) return;
    known.delete(name);
    known.set(name, fold.open);
    keep(KEY, [...known].slice(-MOST_KEPT));
  }

  function follow(fold, name, usual) {
    const short = name.slice(0, LONGEST);
    names.set(fold, short);
    fold.open = known.get(short) ?? usual;
  }

  return { follow };
}

/**
 * Folds as they were stored: what is stored may come from anywhere.
 *
 * @param {unknown} stored
 * @returns {Map<string, boolean>} Name to whether it is open.
 */
export function remembered(stored) {
  const isEntry = (entry) =>
    Array.isArray(entry) && typeof entry[0] === "string" && typeof entry[1] === "boolean";
  const entries = Array.isArray(stored) ? stored.filter(isEntry) : [];
  return new Map(entries.slice(-MOST_KEPT).map(([name, open]) => [name, open]));
}
