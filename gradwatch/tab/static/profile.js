/**
 * Profile: how much of the backward signal is left at each depth, and where it is lost.
 */

import { element, fill } from "./dom.js";
import { createGainPlot, createLevelPlot, gainColumns, levelColumns } from "./profile_plots.js";
import { depthSentence, gainSentence, layerFigures, whyNoSignals } from "./profile_points.js";
import { gainPoints, levelPoints } from "./profile_points.js";
import { gainName, grouped, levelName, numeric, printable, shortened } from "./words.js";

/**
 * The panel of the profile.
 *
 * @param {HTMLElement} root Where it goes; anything in it is replaced.
 * @param {{onLayer: function(string): void, folds: object}} callbacks `onLayer` gets the name of a
 *   clicked layer; `folds` see `createFolds`.
 * @returns {{show: function(object|null, object|null): void, select: function(string|null): void,
 *   redraw: function(): void}} `redraw` takes the colours of a new theme.
 */
export function createProfile(root, { onLayer, folds }) {
  const parts = profileElements();
  folds.follow(parts.fold, "profile table", false);
  fill(root, parts.section);
  let profile = null;
  let layers = [];
  let plots = null;
  let selected = null;
  let hovered = null;
  let at = 0;

  function show(newProfile, overview) {
    parts.section.hidden = overview === null;
    if (overview === null) return;
    profile = newProfile?.step == null ? null : newProfile;
    layers = overview.layers;
    parts.shown.hidden = profile === null;
    parts.missing.hidden = profile !== null;
    fill(parts.missing, whyNoSignals(overview));
    if (profile === null) return;
    at = Math.min(at, layers.length - 1);
    fill(parts.depth, depthSentence(profile));
    fill(parts.gains, gainSentence(profile, overview));
    fillTable(parts.table, profile, layers);
    draw();
    say();
  }

  function draw() {
    const points = { level: levelPoints(profile), gain: gainPoints(profile) };
    if (plots === null) {
      plots = { points };
      plots.level = createLevelPlot(plotParts(parts.level, () => plots.points.level));
      plots.gain = createGainPlot(plotParts(parts.gain, () => plots.points.gain));
      observeSize(parts.shown, () => [plots.level, plots.gain], [parts.level, parts.gain]);
    }
    plots.points = points;
    plots.level.setData(levelColumns(points.level));
    plots.gain.setData(gainColumns(points.gain));
  }

  function plotParts(box, points) {
    return {
      points,
      names: () => layers.map((layer) => layer.name),
      root: box,
      size: sizeOf(box),
      colour: (name) => getComputedStyle(parts.section).getPropertyValue(name).trim() || "#888",
      selected: () => rowOf(selected),
      onHover: (row) => {
        hovered = row;
        say();
      },
    };
  }

  function say() {
    const row = hovered ?? rowOf(selected) ?? at;
    if (profile === null || layers[row] === undefined) return;
    const name = shortened(layers[row].name);
    const place = `${grouped(row + 1)} of ${grouped(layers.length)}`;
    const figures = layerFigures(profile, row);
    const shown = element("bdi", { title: printable(layers[row].name) }, name);
    fill(parts.readout, "Layer ", element("strong", {}, shown), ` (${place}): ${figures}`);
    const values = { valuemin: 1, valuemax: layers.length, valuenow: row + 1 };
    for (const [attribute, value] of Object.entries(values))
      parts.slider.setAttribute(`aria-${attribute}`, value);
    parts.slider.setAttribute("aria-valuetext", `${name} (${place}): ${figures}`);
  }

  function rowOf(name) {
    const row = name === null ? -1 : layers.findIndex((layer) => layer.name === name);
    return row < 0 ? null : row;
  }

  function choose(row) {
    if (layers[row] !== undefined) onLayer(layers[row].name);
  }

  function select(name) {
    selected = name;
    at = rowOf(name) ?? at;
    redraw();
    say();
  }

  function redraw() {
    if (plots === null) return;
    plots.level.redraw();
    plots.gain.redraw();
  }

  function step(event) {
    const last = layers.length - 1;
    const moves = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1 };
    const targets = { ...moves, Home: 0, End: last, Enter: at, " ": at };
    if (!Object.hasOwn(targets, event.key)) return;
    event.preventDefault();
    at = Math.max(0, Math.min(last, targets[event.key]));
    choose(at);
  }

  parts.slider.addEventListener("keydown", step);
  for (const box of [parts.level, parts.gain])
    box.addEventListener("click", () => hovered !== null && choose(hovered));
  return { show, select, redraw };
}

function profileElements() {
  const parts = {
    missing: element("p", { class: "gw-empty" }),
    depth: element("p", { class: "gw-message" }),
    gains: element("p", { class: "gw-message" }),
    level: element("div", { class: "gw-plot gw-level-plot" }),
    gain: element("div", { class: "gw-plot gw-gain-plot" }),
    readout: element("p", { class: "gw-profile-readout", "aria-hidden": "true" }),
    table: element("table", { class: "gw-table" }),
  };
  parts.slider = element(
    "div",
    { class: "gw-plots", role: "slider", tabindex: "0", "aria-label": "Layer, by depth" },
    key([
      ["gw-key-signal", "backward signal"],
      ["gw-key-expected", "expected: all of it"],
    ]),
    parts.level,
    key([
      ["gw-key-activation", "gain of the activation, in decades"],
      ["gw-key-weights", "gain of the weights"],
    ]),
    parts.gain,
  );
  const title = "All layers as a table";
  const table = element("div", { class: "gw-scroll" }, parts.table);
  const { depth, slider, readout, gains } = parts;
  parts.fold = element("details", { class: "gw-fold" }, element("summary", {}, title), table);
  parts.shown = element("div", {}, depth, slider, readout, gains, parts.fold);
  parts.section = element(
    "section",
    { class: "gw-profile", "aria-label": "Backward signal by depth", hidden: true },
    element("h2", {}, "Backward signal by depth"),
    parts.missing,
    parts.shown,
  );
  return parts;
}

function key(entries) {
  const items = entries.map(([name, words]) =>
    element("span", {}, element("span", { class: `gw-key ${name}` }), words),
  );
  return element("p", { class: "gw-profile-legend" }, ...items);
}

function fillTable(table, profile, layers) {
  const heads = ["Layer", "Signal (log10)", "Activation gain (log10)", "Weight gain (log10)"];
  const row = (layer, place) => {
    const figures = [
      levelName(numeric(profile.backward[place])),
      gainName(numeric(profile.activation_gain[place])),
      gainName(numeric(profile.weight_gain[place])),
    ].map((figure) => element("td", {}, figure === "not observed" ? "–" : figure));
    const name = element("bdi", {}, shortened(layer.name));
    return element("tr", {}, element("th", { scope: "row" }, name), ...figures);
  };
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  fill(table, element("thead", {}, head), element("tbody", {}, ...layers.map(row)));
}

function sizeOf(box) {
  return { width: Math.max(160, box.clientWidth), height: Math.max(80, box.clientHeight) };
}

function observeSize(container, plots, boxes) {
  const observer = new ResizeObserver(() => {
    plots().forEach((plot, place) => {
      const size = sizeOf(boxes[place]);
      if (size.width !== plot.width || size.height !== plot.height) plot.setSize(size);
    });
  });
  observer.observe(container);
}
