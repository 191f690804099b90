/**
 * Legend: the colours of the levels with their numbers, and the textures of what else occurs.
 */

import { KINDS } from "./cells.js";
import { colourMap } from "./colour.js";
import { element, fill } from "./dom.js";
import { drawSwatch } from "./drawing.js";
import { legendTicks } from "./scale.js";

const SWATCH = { width: 24, height: 16 };

/**
 * The legend below the heatmaps.
 *
 * @param {HTMLElement} root Where it goes; anything in it is replaced.
 * @returns {{show: function(object, object, Set<string>): void}} `show` takes the statistic, the
 *   domain and the kinds of cells that occur.
 */
export function createLegend(root) {
  const bar = element("canvas", { class: "gw-legend-bar", width: 256, height: 1 });
  bar.setAttribute("aria-hidden", "true");
  const ticks = element("div", { class: "gw-legend-ticks" });
  const unit = element("span", { class: "gw-soft" });
  const kindList = element("ul", { class: "gw-legend-kinds" });
  const scale = element("div", { class: "gw-legend-scale" }, bar, ticks);
  fill(root, element("div", { class: "gw-legend" }, scale, unit, kindList));

  function show(statistic, domain, kinds) {
    const map = colourMap(statistic.scale);
    const pixels = new Uint8ClampedArray(map.flatMap((colour) => [...colour, 255]));
    bar.getContext("2d").putImageData(new ImageData(pixels, map.length, 1), 0, 0);
    const labels = legendTicks(domain, statistic.scale).map(({ share, text }) => {
      const label = element("span", {}, text);
      label.style.left = `${100 * share}%`;
      return label;
    });
    fill(ticks, ...labels);
    fill(unit, statistic.unit === "1" ? "" : `in ${statistic.unit}`);
    const special = Object.keys(KINDS).filter((kind) => kinds.has(kind));
    fill(kindList, ...special.map(entry));
  }

  return { show };
}

function entry(kind) {
  const swatch = element("canvas", { class: "gw-swatch", "aria-hidden": "true" });
  swatch.dataset.kind = kind;
  drawSwatch(swatch, kind, SWATCH);
  return element("li", {}, swatch, KINDS[kind]);
}
