/**
 * Comparison: where two runs diverge first, and how far apart they are at the end.
 */

import { element, fill } from "./dom.js";
import { createLayerButtons, layerButton } from "./layer_buttons.js";
import { clipped, counted, figure, grouped } from "./words.js";
import { numeric, printable, ratioName, shortened } from "./words.js";

const SHOWN = 10;

/**
 * The panel of the comparison.
 *
 * @param {HTMLElement} root Where it goes; anything in it is replaced.
 * @param {{onLayer: function(string): void, onStep: function(number): void}} callbacks
 * @returns {{show: function(object|null): void}}
 */
export function createComparison(root, callbacks) {
  const title = element("h2");
  const sentence = element("p", { class: "gw-message" });
  const content = element("div", { class: "gw-comparison-parts" });
  const section = element("section", { class: "gw-comparison" }, title, sentence, content);
  section.setAttribute("aria-label", "Comparison of two runs");
  section.hidden = true;
  fill(root, section);
  let shown = "";

  function show(comparison) {
    section.hidden = comparison === null;
    const signature = JSON.stringify(comparison);
    if (comparison === null || signature === shown) return;
    shown = signature;
    const unfolded = content.querySelector("details.gw-more-layers")?.open ?? false;
    fill(title, "A: ", runName(comparison.a), ", B: ", runName(comparison.b));
    fill(sentence, clipped(comparison.sentence));
    fill(
      content,
      divergenceView(comparison, callbacks),
      lossesView(comparison.losses),
      findingsView(comparison.findings),
      layersView(comparison, callbacks, { unfolded }),
      onlyView(comparison, "a", "A", callbacks),
      onlyView(comparison, "b", "B", callbacks),
    );
  }

  return { show };
}

/**
 * The layers that both runs have, the one whose figures differ most first; those where one run
 * alone was observed last.
 *
 * @param {Array<object>} layers As the route `compare` answers them.
 * @returns {Array<object>}
 */
export function mostDifferent(layers) {
  const distance = (layer) => {
    const size = Math.abs(numeric(layer.ratio_log10));
    return Number.isNaN(size) ? -1 : size;
  };
  const common = layers.filter((layer) => layer.in === "both");
  return common.sort((one, other) => {
    const [far, near] = [distance(other), distance(one)];
    return far === near ? 0 : far - near;
  });
}

/**
 * A finding's key in words: "GW101/activation" becomes "GW101 (activation)".
 *
 * @param {string} key
 * @returns {string}
 */
export function keyName(key) {
  const [code, ...cause] = clipped(key, 120).split("/");
  return cause.length ? `${code} (${cause.join("/")})` : code;
}

function runName(name) {
  return element("bdi", { title: printable(name) }, shortened(name, 64));
}

function part(title, ...children) {
  return element("div", { class: "gw-part" }, element("h3", {}, title), ...children);
}

function divergenceView({ divergence }, { onLayer, onStep }) {
  if (divergence === null) return null;
  const { step, layer, others } = divergence;
  const rest = createLayerButtons("Layers that diverge at the same step", onLayer);
  rest.show(others);
  const ratio = ratioName(numeric(divergence.ratio_log10));
  return part(
    "They diverge first",
    element("p", {}, "At ", stepButton(step, onStep), " in layer ", layerButton(layer, onLayer)),
    element("p", {}, `Its figure in B is ${ratio}${ratio.endsWith("er") ? " than in A" : ""}.`),
    others.length ? element("p", {}, "At the same step in") : null,
    others.length ? rest.root : null,
  );
}

function stepButton(step, onStep) {
  const attributes = { type: "button", class: "gw-link", onclick: () => onStep(step) };
  return element("button", attributes, `step ${grouped(step)}`);
}

function lossesView(losses) {
  if (losses === null) return null;
  const rows = ["a", "b"].flatMap((run) => [
    element("dt", {}, run.toUpperCase()),
    element("dd", {}, figure(numeric(losses[run]))),
  ]);
  const pairs = element("dl", { class: "gw-pairs" }, ...rows);
  return part(`Loss at step ${grouped(losses.step)}`, pairs);
}

function findingsView({ only_a: gone, only_b: added, both }) {
  const rows = [
    ["Gone in B", gone],
    ["New in B", added],
    ["In both", both],
  ].flatMap(([words, keys]) => [
    element("dt", {}, words),
    element("dd", {}, keys.length ? keys.map(keyName).join(", ") : "none"),
  ]);
  return part("Open findings", element("dl", { class: "gw-pairs" }, ...rows));
}

function layersView(comparison, callbacks, { unfolded }) {
  const layers = mostDifferent(comparison.layers);
  if (!layers.length) return null;
  const first = layers.slice(0, SHOWN);
  const further = layers.slice(SHOWN);
  const summary = element("summary", {}, counted(further.length, "more layer"));
  const fold = { class: "gw-fold gw-more-layers", open: unfolded };
  return element(
    "div",
    { class: "gw-part gw-wide" },
    element("h3", {}, "Layers, the most different first"),
    layerTable(first, callbacks),
    further.length ? element("details", fold, summary, layerTable(further, callbacks)) : null,
  );
}

function layerTable(layers, { onLayer, onStep }) {
  const heads = ["Layer", "At the end, in B", "Diverges from"];
  const rows = layers.map((layer) => {
    const { first_step: step } = layer;
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, layerButton(layer.name, onLayer)),
      element("td", {}, ratioName(numeric(layer.ratio_log10))),
      element("td", {}, step === null ? "never" : stepButton(step, onStep)),
    );
  });
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  const table = element("table", { class: "gw-table" }, element("thead", {}, head));
  table.append(element("tbody", {}, ...rows));
  return element("div", { class: "gw-scroll" }, table);
}

function onlyView({ layers }, found, letter, { onLayer }) {
  const names = layers.filter((layer) => layer.in === found).map((layer) => layer.name);
  if (!names.length) return null;
  const buttons = createLayerButtons(`Layers of ${letter} alone`, onLayer);
  buttons.show(names);
  return part(`${counted(names.length, "layer")} in ${letter} alone`, buttons.root);
}
