/**
 * Scroll: the page stands where it was after a reload, once all of it is there again.
 */

import { keep, kept } from "./kept.js";

const KEY = "gradwatch-scroll";
const QUIET_MS = 150;

/** Go where the page was left, and remember where it is from now on. */
export function followScroll() {
  const top = kept(KEY);
  if (Number.isFinite(top)) window.scrollTo({ top, behavior: "instant" });
  const save = () => keep(KEY, Math.round(window.scrollY));
  let due;
  window.addEventListener(
    "scroll",
    () => {
      clearTimeout(due);
      due = setTimeout(save, QUIET_MS);
    },
    { passive: true },
  );
  window.addEventListener("pagehide", save);
}
