/**
 * Layers as buttons: a few of them at once, the others folded.
 */

import { element, fill } from "./dom.js";
import { counted, printable, shortened } from "./words.js";

const SHOWN = 8;
const MOST = 500;

/**
 * A list of layers that can be chosen.
 *
 * @param {string} label What the list holds, for screen readers.
 * @param {function(string): void} onLayer Called with the name of the layer that was chosen.
 * @returns {{root: HTMLElement, show: function(string[]): void,
 *   select: function(string|null): void}} `show` leaves the buttons in place if the names
 *   are the same; `select` marks one.
 */
export function createLayerButtons(label, onLayer) {
  const first = element("ul", { class: "gw-layers", "aria-label": label });
  const summary = element("summary");
  const further = element("ul", { class: "gw-layers", "aria-label": `Further: ${label}` });
  const fold = element("details", { class: "gw-fold", hidden: true }, summary, further);
  const root = element("div", {}, first, fold);
  let shown = "";
  let selected = null;

  function show(names) {
    const signature = JSON.stringify(names);
    if (signature === shown) return;
    shown = signature;
    const { visible, folded, left } = split(names);
    const item = (name) => element("li", {}, layerButton(name, onLayer));
    fill(first, ...visible.map(item));
    fill(further, ...folded.map(item));
    if (left) further.append(element("li", {}, `and ${counted(left, "more layer")}`));
    fold.hidden = folded.length === 0;
    fill(summary, `${counted(folded.length + left, "more layer")}`);
    select(selected);
  }

  function select(name) {
    selected = name;
    for (const button of root.querySelectorAll("button")) {
      if (name !== null && button.value === name) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  return { root, show, select };
}

/**
 * A layer as a button; its whole name is its value, however it is shown.
 *
 * @param {string} name
 * @param {function(string): void} onLayer Called with the name.
 * @returns {HTMLButtonElement}
 */
export function layerButton(name, onLayer) {
  const attributes = { type: "button", class: "gw-layer", title: printable(name) };
  const text = element("bdi", {}, shortened(name));
  const button = element("button", { ...attributes, onclick: () => onLayer(name) }, text);
  button.value = name;
  return button;
}

/**
 * Which names are shown at once, which are folded, and how many are left out.
 *
 * @param {string[]} names
 * @returns {{visible: string[], folded: string[], left: number}}
 */
export function split(names) {
  const visible = names.length <= SHOWN + 1 ? names : names.slice(0, SHOWN);
  const folded = names.slice(visible.length, MOST);
  return { visible, folded, left: Math.max(0, names.length - MOST) };
}
