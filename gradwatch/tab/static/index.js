/**
 * The GradWatch tab: TensorBoard imports this module in a frame and calls `render`.
 */

import { element, fill } from "./dom.js";
import { createPage } from "./page.js";
import { onDataReloaded } from "./reload.js";
import { followScroll } from "./scroll.js";
import { inlineSource, serverSource } from "./source.js";
import { followTheme } from "./theme.js";

const STYLES = ["style.css", "panels.css", "vendor/uPlot.min.css"];
const POLL_MILLISECONDS = 10_000;

/** Build the page, and keep it up to date while it is visible. */
export async function render() {
  const inline = document.getElementById("gradwatch-inline");
  if (inline === null) await loadStyles();
  const root = element("div", { class: "gradwatch" });
  fill(document.body, root);
  const source = inline === null ? serverSource() : inlineSource(JSON.parse(inline.textContent));
  const page = createPage(root, source);
  followTheme(root, page.redraw);
  redrawOnResize(root, page);
  await page.start();
  followScroll();
  if (inline === null) keepUpToDate(page);
}

function loadStyles() {
  const links = STYLES.map((href) => element("link", { rel: "stylesheet", href: `./${href}` }));
  const loaded = links.map(
    (link) =>
      new Promise((resolve) => {
        link.addEventListener("load", resolve);
        link.addEventListener("error", resolve); // a page without its style is still a page
      }),
  );
  document.head.append(...links);
  return Promise.all(loaded);
}

function redrawOnResize(root, page) {
  let width = root.clientWidth;
  new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    requestAnimationFrame(page.redraw);
  }).observe(root);
}

function keepUpToDate(page) {
  onDataReloaded(page.refresh);
  setInterval(() => {
    if (document.visibilityState === "visible") page.refresh();
  }, POLL_MILLISECONDS);
}
