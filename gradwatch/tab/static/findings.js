/**
 * Findings: the open ones as cards, worst first, the resolved ones folded below them.
 */

import { element, fill } from "./dom.js";
import { createCard } from "./finding_card.js";
import { clipped, counted } from "./words.js";

/**
 * The panel of findings.
 *
 * @param {HTMLElement} root Where it goes; anything in it is replaced.
 * @param {{onLayer: function(string): void, onRule: function(string): void,
 *   announce: function(string): void, folds: object}} callbacks `onLayer` gets a layer's name,
 *   `onRule` a code; `folds` see `createFolds`.
 * @returns {{show: function(object|null): void, select: function(string|null): void}} `show` keeps
 *   the cards of the same run, with what is folded in them and what is not.
 */
export function createFindings(root, callbacks) {
  const heading = element("h2", {}, "Findings");
  const empty = element("p", { class: "gw-empty" });
  const open = element("div", { class: "gw-cards" });
  const summary = element("summary");
  const resolved = element("div", { class: "gw-cards" });
  const fold = element("details", { class: "gw-fold" }, summary, resolved);
  const section = element("section", { class: "gw-findings" }, heading, empty, open, fold);
  section.setAttribute("aria-label", "Findings");
  section.hidden = true;
  fill(root, section);
  let cards = new Map();
  let run = null;
  let selected = null;

  function show(overview) {
    section.hidden = overview === null;
    if (overview === null) return;
    if (overview.name !== run) forget(overview.name);
    const keyed = withKeys(overview.findings);
    const kept = new Map(keyed.map(([key, card], place) => [key, shownCard(key, card, place)]));
    cards = kept;
    arrange(open, viewsOf(keyed, kept, { isOpen: true }));
    arrange(resolved, viewsOf(keyed, kept, { isOpen: false }));
    fold.hidden = resolved.children.length === 0;
    fill(summary, `${counted(resolved.children.length, "finding")} resolved`);
    empty.hidden = open.children.length > 0;
    fill(empty, nothingFound(overview));
  }

  function shownCard(key, card, place) {
    const start = { name: `${run} ${key}`, unfolded: place === 0 && card.open };
    const view = cards.get(key) ?? createCard(callbacks, start);
    view.show(card);
    view.select(selected);
    return view;
  }

  function forget(name) {
    run = name;
    cards = new Map();
    callbacks.folds.follow(fold, `${name} resolved`, false);
  }

  function select(name) {
    selected = name;
    for (const card of cards.values()) card.select(name);
  }

  return { show, select };
}

/**
 * The findings under keys of their own: (code, cause), and a number where a file repeats it.
 *
 * @param {Array<{key: string}>} findings
 * @returns {Array<[string, object]>}
 */
export function withKeys(findings) {
  const seen = new Map();
  return findings.map((card) => {
    const count = seen.get(card.key) ?? 0;
    seen.set(card.key, count + 1);
    return [`${count} ${card.key}`, card];
  });
}

/**
 * What stands in place of the open findings where there is none.
 *
 * @param {{judged: boolean, verdict: string, samples: number}} overview
 * @returns {string}
 */
export function nothingFound({ judged, verdict }) {
  if (!judged) return clipped(verdict);
  return "No open finding: no rule sees a layer that does not learn. Nothing needs to be changed.";
}

function viewsOf(keyed, views, { isOpen }) {
  return keyed.filter(([, card]) => card.open === isOpen).map(([key]) => views.get(key).root);
}

/** Make these the children, in this order; those in their place stay untouched, and keep focus. */
function arrange(parent, wanted) {
  for (const child of [...parent.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((child, place) => {
    const there = parent.children[place] ?? null;
    if (there !== child) parent.insertBefore(child, there);
  });
}
