/**
 * Layout: the elements of the page, and which stands in which.
 */

import { element, fill } from "./dom.js";

/**
 * Put the boxes of the page's parts into an element.
 *
 * @param {HTMLElement} root Anything in it is replaced.
 * @returns {Object<string, HTMLElement>} The boxes by their names; `run` and `other` are those of
 *   the two heatmaps, `heatmaps` is around them and the legend, `content` around all but `state`.
 */
export function pageElements(root) {
  const box = (name) => element("div", { class: `gw-${name}-box` });
  const parts = {
    state: box("state"),
    verdict: box("verdict"),
    controls: box("controls"),
    run: box("heatmap"),
    other: box("heatmap"),
    legend: box("legend"),
    profile: box("profile"),
    findings: box("findings"),
    comparison: box("comparison"),
    incomparable: element("p", { class: "gw-incomparable", role: "status" }),
    rule: box("rule"),
    live: element("p", { class: "gw-live", "aria-live": "polite" }),
    unseen: element("p", { class: "gw-state", hidden: true }, "No step of this run is stored yet."),
  };
  parts.pair = element("div", { class: "gw-pair" }, parts.run, parts.other);
  const drawn = { class: "gw-heatmaps", "aria-label": "Heatmap" };
  parts.heatmaps = element("section", drawn, parts.pair, parts.legend);
  const left = element("div", { class: "gw-left" }, parts.unseen, parts.heatmaps, parts.profile);
  const { comparison, incomparable, findings } = parts;
  const right = element("div", { class: "gw-right" }, comparison, incomparable, findings);
  const columns = element("div", { class: "gw-columns" }, left, right);
  parts.content = element("main", { class: "gw-content" }, parts.verdict, parts.controls, columns);
  fill(root, parts.state, parts.content, parts.rule, parts.live);
  return parts;
}
