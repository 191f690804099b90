/**
 * Card: one finding, with its cause, its evidence and its fixes.
 */

import { CHAIN_RULE, causeWords, rateAdvice } from "./causes.js";
import { element, fill } from "./dom.js";
import { createLayerButtons } from "./layer_buttons.js";
import { mark } from "./verdict.js";
import { clipped, grouped, inWords, printable, shortened } from "./words.js";

const SAID_FOR_MS = 2000;

/**
 * A card that follows its finding as the run goes on, in the same elements.
 *
 * @param {{onLayer: function(string): void, onRule: function(string): void,
 *   announce: function(string): void, folds: object}} callbacks As of `createFindings`.
 * @param {{name: string, unfolded: boolean}} start A name for the card's folds, and whether the
 *   cause and the fixes stand open at first.
 * @returns {{root: HTMLElement, show: function(object): void, select: function(string|null): void}}
 */
export function createCard(callbacks, { name, unfolded }) {
  const head = element("h3", { class: "gw-card-title" });
  const message = element("p", { class: "gw-message" });
  const layers = createLayerButtons("Layers to change", callbacks.onLayer);
  const summary = element("summary");
  const body = element("div", { class: "gw-card-body" });
  const fold = element("details", { class: "gw-why" }, summary, body);
  callbacks.folds.follow(fold, name, unfolded);
  const root = element("article", { class: "gw-card" }, head, message, layers.root, fold);
  let names = [];
  let shown = "";

  function show(card) {
    names = card.layers;
    root.className = `gw-card gw-edge-${severityOf(card)}${card.open ? "" : " gw-resolved"}`;
    fill(head, ...title(card));
    fill(message, clipped(card.message));
    layers.show(names);
    fill(summary, foldTitle(card));
    const { code, cause, evidence, fixes } = card;
    const signature = JSON.stringify([code, cause, evidence, fixes]);
    if (signature === shown) return;
    shown = signature;
    fill(body, causeView(card), evidenceView(evidence), fixesView(fixes, name, callbacks));
    body.append(ruleButton(code, callbacks.onRule));
  }

  function select(name) {
    layers.select(name);
    root.classList.toggle("gw-concerned", name !== null && names.includes(name));
  }

  return { root, show, select };
}

/**
 * What stands behind the fold, in words: "Why, and 3 fixes".
 *
 * @param {{fixes: Array}} card
 * @returns {string}
 */
export function foldTitle({ fixes }) {
  if (!fixes.length) return "Why";
  return `Why, and what to change (${fixes.length === 1 ? "1 fix" : `${fixes.length} fixes`})`;
}

/**
 * Since when a finding is there, or from when to when it was.
 *
 * @param {{step: number, resolved_step: number|null, open: boolean}} card
 * @returns {string}
 */
export function since({ step, resolved_step: resolved, open }) {
  if (open) return `since step ${grouped(step)}`;
  return `from step ${grouped(step)} to step ${grouped(resolved)}`;
}

function severityOf({ severity }) {
  return ["error", "warning", "notice"].includes(severity) ? severity : "unknown";
}

function title(card) {
  const severity = severityOf(card);
  return [
    mark(severity),
    element("span", { class: `gw-chip gw-text-${severity}` }, clipped(card.severity, 40)),
    element("span", {}, inWords(card.name)),
    element("code", {}, clipped(card.code, 40)),
    element("span", { class: "gw-soft" }, since(card)),
  ];
}

function causeView(card) {
  const known = causeWords(card);
  const terms = CHAIN_RULE.map(([name, written]) =>
    element(known?.factor === name ? "mark" : "span", {}, written),
  );
  const [gradient, signal, slope, input] = terms;
  const chain = ["The chain rule: ", gradient, " = ", signal, " · ", slope, " · ", input];
  return element(
    "div",
    {},
    element("h4", {}, "Cause: ", element("bdi", {}, clipped(card.cause, 80))),
    known?.factor ? element("p", { class: "gw-chain" }, ...chain) : null,
    known ? element("p", {}, known.words) : null,
  );
}

function evidenceView(evidence) {
  if (!evidence.length) return null;
  const heads = ["Figure", "Value", "Threshold"];
  const rows = evidence.map((entry) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, clipped(entry.name, 120)),
      element("td", {}, clipped(entry.text, 40)),
      element("td", {}, entry.threshold_text === null ? "" : clipped(entry.threshold_text, 40)),
    ),
  );
  return element(
    "table",
    { class: "gw-table" },
    element("caption", {}, "Evidence"),
    element("thead", {}, element("tr", {}, ...heads.map(headCell))),
    element("tbody", {}, ...rows),
  );
}

function headCell(text) {
  return element("th", { scope: "col" }, text);
}

function fixesView(fixes, name, callbacks) {
  const views = fixes.map((fix, position) => fixView(fix, position, name, callbacks));
  return views.length ? element("div", { class: "gw-fixes" }, ...views) : null;
}

function fixView(fix, position, name, { announce, folds }) {
  const advice = rateAdvice(fix);
  const heading = `Fix ${position + 1}: ${clipped(fix.title, 300)}`;
  const view = element(
    "details",
    { class: "gw-fix" },
    element("summary", {}, heading),
    element("p", {}, clipped(fix.rationale)),
    fix.snippet ? snippetView(fix.snippet, heading, announce) : null,
    advice ? element("p", {}, advice) : null,
    fix.avoid_when ? element("p", {}, `Not if ${clipped(fix.avoid_when)}.`) : null,
    element("p", { class: "gw-soft" }, `Source: ${clipped(fix.reference)}`),
  );
  folds.follow(view, `${name} ${fix.title}`, position === 0);
  return view;
}

function snippetView(snippet, heading, announce) {
  const code = element("code", {}, printable(snippet).replace(/^\n+|\n+$/g, ""));
  const label = `Copy the code of ${heading}`;
  const attributes = { type: "button", class: "gw-copy", "aria-label": label };
  const button = element("button", attributes, "Copy");
  button.addEventListener("click", async () => {
    const copied = await copy(code);
    announce(copied ? "Copied." : "Selected: press Ctrl+C or ⌘C to copy.");
    button.textContent = copied ? "Copied" : "Selected";
    setTimeout(() => (button.textContent = "Copy"), SAID_FOR_MS);
  });
  const pre = element("pre", { tabindex: "0", "aria-label": `Code of ${heading}` }, code);
  return element("div", { class: "gw-snippet", dir: "ltr" }, pre, button);
}

/** True if the clipboard has the text; else the text is selected, so that the user can copy it. */
async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(code);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return false;
  }
}

function ruleButton(code, onRule) {
  const attributes = { type: "button", class: "gw-link", onclick: () => onRule(code) };
  return element("button", attributes, `What ${shortened(code, 40)} means`);
}
