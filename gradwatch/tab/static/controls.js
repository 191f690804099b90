/**
 * Controls: the pickers of runs and statistic, the filter of layers, the zoom.
 */

import { element, fill } from "./dom.js";
import { printable } from "./words.js";

/**
 * The bar of controls.
 *
 * @param {HTMLElement} root Where it goes; anything in it is replaced.
 * @param {{onRun: function(string): void, onOther: function(string|null): void,
 *   onStatistic: function(string): void, onFilter: function(string): void,
 *   onZoom: function(string): void}} callbacks `onZoom` gets "+", "-" or "0".
 * @returns {{showRuns: function(string[], object): void,
 *   showStatistics: function(object[], string|null): void, tellFilter: function(string|null): void,
 *   showZoom: function(boolean): void}}
 */
export function createControls(root, callbacks) {
  const run = select((value) => callbacks.onRun(value));
  const other = select((value) => callbacks.onOther(value === "" ? null : value));
  const statistic = select((value) => callbacks.onStatistic(value));
  const filter = element("input", { type: "search", placeholder: "name, kind or /expression/" });
  filter.addEventListener("input", () => callbacks.onFilter(filter.value));
  const trouble = element("p", { class: "gw-filter-trouble", role: "status" });
  const button = (key, text, label) => {
    const onclick = () => callbacks.onZoom(key);
    return element("button", { type: "button", "aria-label": label, onclick }, text);
  };
  const all = button("0", "All", "Show all layers and steps");
  const zoom = element(
    "span",
    { class: "gw-zoom", role: "group", "aria-label": "Zoom" },
    button("-", "−", "See more steps"),
    button("+", "+", "See fewer steps"),
    all,
  );
  const bar = element(
    "div",
    { class: "gw-controls" },
    labelled("Run", run),
    labelled("Compare with", other),
    labelled("Statistic", statistic),
    labelled("Layers", filter),
    zoom,
  );
  fill(root, bar, trouble);

  function showRuns(names, view) {
    options(run, names.map((name) => [name, name]), view.run);
    const others = names.filter((name) => name !== view.run).map((name) => [name, name]);
    options(other, [["", "no other run"], ...others], view.other ?? "");
    other.disabled = others.length === 0;
    if (document.activeElement !== filter) filter.value = view.filter;
  }

  function showStatistics(statistics, chosen) {
    options(statistic, statistics.map(({ name, title }) => [name, title]), chosen);
    statistic.disabled = statistics.length === 0;
    const meaning = statistics.find(({ name }) => name === chosen)?.meaning ?? "";
    statistic.title = meaning;
  }

  function tellFilter(text) {
    fill(trouble, text);
    trouble.hidden = text === null;
  }

  function showZoom(isZoomed) {
    all.disabled = !isZoomed;
  }

  tellFilter(null);
  return { showRuns, showStatistics, tellFilter, showZoom };
}

function select(onChange) {
  const made = element("select");
  made.addEventListener("change", () => onChange(made.value));
  return made;
}

function options(select, entries, chosen) {
  const made = entries.map(([value, text]) => element("option", { value }, printable(text)));
  fill(select, ...made);
  select.value = chosen ?? "";
}

function labelled(text, control) {
  return element("label", {}, element("span", {}, text), control);
}
